/** The terminals of this page: each lives on while another page of it is looked at, and comes back after a reload. */

import { ask } from "../api";
import { who } from "../session";
import { Store } from "../store";
import type { Screen } from "./screen";
import { type Attached, type State, Wire, type Wish } from "./wire";

const KEY = "tinyport.terminals";

export type Mode = "shell" | "observer" | "peer";

export interface Listed {
  id: string;
  node: string;
  login: string;
  /** of a session that was joined */
  user?: string;
  mode?: Mode;
}

let count = 0;

export class Tab {
  /** this page's own number for it */
  readonly key = `t${(count += 1)}`;
  /** the proxy's, once it is attached */
  id = "";
  readonly state = new Store<State>({ is: "connecting" });
  readonly title = new Store<string>("");
  /** there is output since it was last looked at */
  readonly news = new Store<boolean>(false);
  /** the screen as soon as it is made, and once its line is opened */
  readonly loaded: Promise<Screen>;
  readonly screen: Promise<Screen>;
  private wire: Wire | null = null;
  private shown = false;
  private closed = false;

  constructor(
    readonly node: string,
    readonly login: string,
    readonly mode: Mode,
    wish: Wish,
    readonly cluster = "",
  ) {
    // Or a second reload right after the first would not know it.
    if (wish.type === "resume") this.id = wish.id;
    this.loaded = this.make();
    this.screen = this.start(wish);
  }

  get watches(): boolean {
    return this.mode === "observer";
  }

  private async make(): Promise<Screen> {
    const { Screen } = await import("./screen");
    return new Screen({
      label: `Terminal on ${this.node}`,
      onData: this.watches ? () => undefined : (data) => this.wire?.type(data),
      onResize: (cols, rows) => this.wire?.resize(cols, rows),
      onTitle: (title) => (this.title.value = title.slice(0, 80)),
    });
  }

  private async start(wish: Wish): Promise<Screen> {
    const screen = await this.loaded;
    if (this.closed) {
      screen.dispose();
      return screen;
    }
    // The screen has its size before the shell does, when it is being looked at. A window in the background draws
    // nothing, and must not be waited for.
    await new Promise((next) => {
      requestAnimationFrame(() => requestAnimationFrame(next));
      setTimeout(next, 200);
    });
    if (this.closed) return screen;
    this.wire = new Wire(wish, {
      attached: (about, fresh, old) => this.attached(screen, about, fresh, old),
      output: (data, drawn) => {
        screen.write(data, drawn);
        if (!this.shown) this.news.value = true;
      },
      changed: (state) => (this.state.value = state),
      size: () => ({ cols: screen.term.cols, rows: screen.term.rows }),
    });
    return screen;
  }

  private attached(screen: Screen, about: Attached, fresh: boolean, old: boolean): void {
    this.id = about.id;
    remember();
    if (fresh) screen.term.reset();
    if (!old || about.to <= about.from) return;
    // A program's questions to the terminal are in what is drawn again; they were answered then.
    screen.mute();
    const listener = screen.term.onWriteParsed(() => {
      if (this.wire && this.wire.shown < about.to) return;
      listener.dispose();
      screen.unmute();
    });
  }

  look(shown: boolean): void {
    this.shown = shown;
    if (shown) this.news.value = false;
  }

  again(otp: string): void {
    this.wire?.again(otp);
  }

  bringHere(): void {
    this.wire?.bringHere();
  }

  close(): void {
    this.closed = true;
    this.wire?.close();
    this.drop();
  }

  /** Without ending what runs. */
  drop(): void {
    this.closed = true;
    this.wire?.leave();
    void this.screen.then((screen) => screen.dispose());
  }
}

export const tabs = new Store<readonly Tab[]>([]);
export const current = new Store<string>("");

function add(tab: Tab): Tab {
  tabs.value = [...tabs.value, tab];
  current.value = tab.key;
  return tab;
}

/** `cluster`: another than this one; "": this one. */
export function openTerminal(node: string, login: string, cluster = ""): Tab {
  return add(new Tab(node, login, "shell", { type: "open", node, login, ...(cluster ? { cluster } : {}) }, cluster));
}

export function joinSession(session: string, node: string, user: string, mode: "observer" | "peer"): Tab {
  return add(new Tab(node, user, mode, { type: "join", session, mode }));
}

export function resumeTerminal(listed: Listed): Tab {
  return add(new Tab(listed.node, listed.user ?? listed.login, listed.mode ?? "shell", { type: "resume", id: listed.id }));
}

export function closeTab(tab: Tab): void {
  const at = tabs.value.indexOf(tab);
  tab.close();
  tabs.value = tabs.value.filter((one) => one !== tab);
  if (current.value === tab.key) current.value = (tabs.value[at] ?? tabs.value[at - 1])?.key ?? "";
  remember();
}

function remember(): void {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(tabs.value.map((tab) => tab.id).filter(Boolean)));
  } catch {
    // Then a reload shows them under "open elsewhere".
  }
}

function remembered(): string[] {
  try {
    const found: unknown = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter((id): id is string => typeof id === "string") : [];
  } catch {
    return [];
  }
}

/** After a reload: the terminals that this page had. */
export async function restore(): Promise<void> {
  const ids = remembered();
  if (!ids.length || tabs.value.length) return;
  try {
    const { terminals } = await ask<{ terminals: Listed[] }>("/web/api/terminals", { background: true });
    for (const id of ids) {
      const found = terminals.find((one) => one.id === id);
      if (found && !tabs.value.some((tab) => tab.id === id)) resumeTerminal(found);
    }
  } catch {
    // The list on the page of terminals says what is wrong.
  }
}

who.follow(() => {
  if (who.value.state !== "stranger") return;
  for (const tab of tabs.value) tab.drop();
  tabs.value = [];
  current.value = "";
  remember();
});
