/** The terminal's colours, in both themes. Each of the sixteen reads well on its background. */

import type { ITheme } from "@xterm/xterm";

const DARK: ITheme = {
  background: "#0d1315",
  foreground: "#dfe7e4",
  cursor: "#5fd6bf",
  cursorAccent: "#0d1315",
  selectionBackground: "#2b5a54",
  black: "#39464a",
  red: "#ff7b72",
  green: "#6fd08c",
  yellow: "#e5c07b",
  blue: "#79b8ff",
  magenta: "#d2a8ff",
  cyan: "#5fd6d0",
  white: "#c9d4d0",
  brightBlack: "#8a989c",
  brightRed: "#ffa198",
  brightGreen: "#9ee6b0",
  brightYellow: "#f2d79b",
  brightBlue: "#a5d0ff",
  brightMagenta: "#e2c5ff",
  brightCyan: "#9bece7",
  brightWhite: "#ffffff",
};

const LIGHT: ITheme = {
  background: "#fdfcf9",
  foreground: "#1c2624",
  cursor: "#0b6b5f",
  cursorAccent: "#fdfcf9",
  selectionBackground: "#bfe3da",
  black: "#1c2624",
  red: "#b3261e",
  green: "#1d6b32",
  yellow: "#7a5600",
  blue: "#0b57b0",
  magenta: "#8b2fa8",
  cyan: "#00686b",
  white: "#5b6663",
  brightBlack: "#5b6663",
  brightRed: "#c5221f",
  brightGreen: "#19712f",
  brightYellow: "#835c00",
  brightBlue: "#1a62c4",
  brightMagenta: "#9334ab",
  brightCyan: "#006f73",
  brightWhite: "#3a4543",
};

export function palette(dark: boolean): ITheme {
  return dark ? DARK : LIGHT;
}
