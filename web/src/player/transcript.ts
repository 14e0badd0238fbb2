/** What a recording showed, as lines that can be searched: without colours and movements of the cursor. Pure. */

import type { Moment } from "./cast";

export interface Line {
  /** of the moment in which it began */
  index: number;
  text: string;
}

// ECMA-48: CSI and OSC (and DCS, PM, APC) sequences, two-letter escapes; then whatever else is no letter.
const SEQUENCES = /\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]/g;
const CONTROLS = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g;
const LONGEST = 500;
const MOST_LINES = 50_000;

/** The lines of `moments`; the oldest are left out when there are very many. */
export function transcript(moments: readonly Moment[]): Line[] {
  const lines: Line[] = [];
  let line: Line = { index: 0, text: "" };
  moments.forEach((moment, index) => {
    if (moment.kind !== "o") return;
    const pieces = moment.data.replace(SEQUENCES, "").replace(CONTROLS, "").split(/\r*\n/);
    pieces.forEach((piece, place) => {
      if (place > 0) {
        if (line.text.trim()) lines.push(line);
        line = { index, text: "" };
      }
      // A lone carriage return writes over what was there.
      const shown = piece.slice(piece.lastIndexOf("\r") + 1);
      if (!line.text) line.index = index;
      line.text = (piece.includes("\r") ? shown : line.text + shown).slice(0, LONGEST);
    });
  });
  if (line.text.trim()) lines.push(line);
  return lines.slice(-MOST_LINES);
}

export function search(lines: readonly Line[], text: string, most: number): Line[] {
  const words = text.toLowerCase().trim();
  return words ? lines.filter((line) => line.text.toLowerCase().includes(words)).slice(0, most) : [];
}
