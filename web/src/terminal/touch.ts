/** A finger scrolls a terminal as a wheel does: its own lines, or what a program makes of it (less, vim, a mouse). xterm.js
 * knows wheels only. */

import type { Terminal } from "@xterm/xterm";

/** pixels that a finger may tremble while it taps */
const TREMBLE = 6;

export function scrollByTouch(element: HTMLElement, term: Terminal): void {
  let last: number | null = null;
  /** what is less than a line, for the next time */
  let rest = 0;
  element.addEventListener("touchstart", (event) => {
    last = event.touches.length === 1 ? (event.touches[0]?.clientY ?? null) : null;
    rest = 0;
  });
  element.addEventListener(
    "touchmove",
    (event) => {
      const finger = event.touches[0];
      if (last === null || !finger || Math.abs(last - finger.clientY) < TREMBLE) return;
      const { clientX, clientY } = finger;
      const moved = last - clientY;
      last = clientY;
      if (term.buffer.active.type === "alternate" || term.modes.mouseTrackingMode !== "none") {
        event.target?.dispatchEvent(new WheelEvent("wheel", { deltaY: moved, clientX, clientY, bubbles: true, cancelable: true }));
      } else {
        rest += moved / (element.clientHeight / term.rows);
        term.scrollLines(Math.trunc(rest));
        rest -= Math.trunc(rest);
      }
      // Neither the page nor, after that, a click.
      event.preventDefault();
    },
    { passive: false },
  );
  element.addEventListener("touchend", () => {
    last = null;
  });
}
