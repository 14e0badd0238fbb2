import { render } from "preact";
import { App } from "./app";
import { start } from "./session";
import "./style/base.css";
import "./style/frame.css";
import "./style/parts.css";
import "./style/pages.css";

const page = document.getElementById("page");
if (page) render(<App />, page);
void start();
