/** Light, dark, or as the system has it. */

import { Store } from "./store";

export type Choice = "auto" | "light" | "dark";
const KEY = "tinyport.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function held(): Choice {
  try {
    const found = localStorage.getItem(KEY);
    return found === "light" || found === "dark" ? found : "auto";
  } catch {
    return "auto";
  }
}

export const choice = new Store<Choice>(held());
export const dark = new Store<boolean>(false);

function apply(): void {
  const chosen = choice.value;
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  dark.value = chosen === "dark" || (chosen === "auto" && system.matches);
}

export function choose(chosen: Choice): void {
  choice.value = chosen;
  try {
    localStorage.setItem(KEY, chosen);
  } catch {
    // Then it is chosen until the page is closed.
  }
  apply();
}

system.addEventListener("change", apply);
apply();
