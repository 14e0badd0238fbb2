/** xterm.js as this page uses it: one screen, for a terminal or a recording. Loaded when the first is shown. */

import { FitAddon } from "@xterm/addon-fit";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { dark } from "../theme";
import { numberStyleSheets } from "./nonce";
import { palette } from "./palette";
import { scrollByTouch } from "./touch";

const FONT = 'ui-monospace, "Cascadia Mono", "JetBrains Mono", "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
const SCROLLBACK = 5000;

export interface Options {
  /** what the person types, as bytes of the terminal; none for a recording */
  onData?: (data: Uint8Array) => void;
  onResize?: (cols: number, rows: number) => void;
  onTitle?: (title: string) => void;
  label: string;
}

export class Screen {
  readonly element = document.createElement("div");
  readonly term: Terminal;
  /** the next letter is typed with the control key: from the row of keys on a phone */
  control = false;
  onControlUsed: () => void = () => undefined;
  /** old output is drawn again: what the terminal answers to it was answered back then */
  private muted = false;
  private readonly fit = new FitAddon();
  private readonly watcher: ResizeObserver;
  private readonly unfollow: () => void;
  private opened = false;

  constructor(private readonly options: Options) {
    numberStyleSheets();
    this.element.className = "screen";
    const narrow = innerWidth < 600;
    this.term = new Terminal({
      allowProposedApi: true,
      cursorBlink: false,
      disableStdin: !options.onData,
      fontFamily: FONT,
      fontSize: narrow ? 12 : 14,
      lineHeight: 1.15,
      macOptionIsMeta: true,
      minimumContrastRatio: 4.5,
      rescaleOverlappingGlyphs: true,
      // What a recording showed before is a matter of its place.
      scrollback: options.onData ? SCROLLBACK : 0,
      theme: palette(dark.value),
      linkHandler: { activate: (_, uri) => openLink(uri) },
    });
    if (options.onData) scrollByTouch(this.element, this.term);
    this.term.loadAddon(this.fit);
    this.term.loadAddon(new Unicode11Addon());
    this.term.unicode.activeVersion = "11";
    this.term.loadAddon(new WebLinksAddon((_, uri) => openLink(uri)));
    const { onData, onResize, onTitle } = options;
    if (onData) {
      const encoder = new TextEncoder();
      this.term.onData((text) => this.typed(text, (data) => onData(encoder.encode(data))));
      // Old mouse reports are bytes, not text.
      this.term.onBinary((text) => this.typed(text, (data) => onData(Uint8Array.from(data, (letter) => letter.charCodeAt(0)))));
      this.term.attachCustomKeyEventHandler((event) => this.key(event));
    }
    if (onResize) this.term.onResize(({ cols, rows }) => onResize(cols, rows));
    if (onTitle) this.term.onTitleChange(onTitle);
    this.watcher = new ResizeObserver(() => this.refit());
    this.unfollow = dark.follow(() => {
      this.term.options.theme = palette(dark.value);
    });
  }

  /** Be shown in `place`. */
  show(place: HTMLElement): void {
    place.append(this.element);
    if (!this.opened) {
      this.opened = true;
      this.term.open(this.element);
      this.term.textarea?.setAttribute("aria-label", this.options.label);
    }
    if (this.options.onResize) {
      this.watcher.observe(this.element);
      this.refit();
    }
  }

  hide(): void {
    this.watcher.disconnect();
    this.element.remove();
  }

  refit(): void {
    if (this.element.isConnected && this.element.clientWidth > 0) this.fit.fit();
  }

  write(data: Uint8Array | string, drawn?: () => void): void {
    this.term.write(data, drawn);
  }

  /** Until `unmute`, what the terminal itself would answer is not said. */
  mute(): void {
    this.muted = true;
  }

  unmute(): void {
    this.muted = false;
  }

  focus(): void {
    this.term.focus();
  }

  arrow(letter: "A" | "B" | "C" | "D"): void {
    this.term.input(`\x1b${this.term.modes.applicationCursorKeysMode ? "O" : "["}${letter}`);
  }

  async paste(): Promise<void> {
    this.term.paste(await navigator.clipboard.readText());
  }

  dispose(): void {
    this.watcher.disconnect();
    this.unfollow();
    this.term.dispose();
    this.element.remove();
  }

  private typed(text: string, send: (text: string) => void): void {
    if (this.muted) return;
    if (this.control && text.length === 1) {
      this.control = false;
      this.onControlUsed();
      // As on a VT100: the letter's lower five bits.
      text = String.fromCharCode(text.toUpperCase().charCodeAt(0) & 31);
    }
    send(text);
  }

  /** false: not the terminal's. Copy and paste as every terminal has them; Ctrl+C stays the program's. */
  private key(event: KeyboardEvent): boolean {
    if (event.type !== "keydown") return true;
    const copies = (event.ctrlKey && event.shiftKey && event.code === "KeyC") || (event.metaKey && event.code === "KeyC");
    if (copies && this.term.hasSelection()) {
      event.preventDefault();
      void navigator.clipboard.writeText(this.term.getSelection());
      return false;
    }
    // The browser pastes by itself.
    if (event.ctrlKey && event.shiftKey && event.code === "KeyV") return false;
    // The way out for who has no mouse: else Tab would be the program's for ever.
    if (event.ctrlKey && event.shiftKey && event.code === "Escape") {
      document.querySelector<HTMLElement>('[role="tab"][aria-selected="true"]')?.focus();
      return false;
    }
    return true;
  }
}

/** Output is hostile: only addresses of the web, in a window that knows nothing of this one. */
function openLink(uri: string): void {
  if (/^https?:\/\//i.test(uri)) open(uri, "_blank", "noopener,noreferrer");
}
