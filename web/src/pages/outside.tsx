/** The frame of what strangers see: logging in, and an invitation. */

import type { ComponentChildren } from "preact";
import { Theme } from "../frame";
import { Mark } from "../parts/icons";

export function Outside({ title, note, children }: { title: string; note?: ComponentChildren; children: ComponentChildren }) {
  return (
    <div class="outside">
      <main>
        <div class="brand">
          <Mark /> <strong>tinyport</strong>
        </div>
        <h1>{title}</h1>
        {note && <p class="note-line">{note}</p>}
        {children}
      </main>
      <footer>
        <span>{location.host}</span>
        <Theme />
      </footer>
    </div>
  );
}
