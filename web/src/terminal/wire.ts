/** One terminal's line to the proxy (docs/web.md): its messages, what was drawn of it, and coming back after the network
 * was lost. Knows nothing of the screen. */

import { ApiError, sentence } from "../api";

export type Wish =
  | { type: "open"; node: string; login: string; cluster?: string; otp?: string }
  | { type: "join"; session: string; mode: "observer" | "peer"; otp?: string }
  | { type: "resume"; id: string };

export interface Attached {
  id: string;
  node: string;
  login: string;
  /** the place of the next byte, and of the first that nobody has seen yet */
  from: number;
  to: number;
}

export type State =
  | { is: "connecting" }
  | { is: "open"; delay: number | null }
  | { is: "lost" }
  | { is: "elsewhere" }
  | { is: "refused"; error: ApiError }
  | { is: "ended"; words: string; clean: boolean };

export interface Listener {
  /** `fresh`: what comes now begins a new screen; `old`: up to `about.to` it was drawn before, by a page before this */
  attached(about: Attached, fresh: boolean, old: boolean): void;
  /** Draw this, and say when it is drawn. */
  output(data: Uint8Array, drawn: () => void): void;
  changed(state: State): void;
  size(): { cols: number; rows: number };
}

// The proxy makes the node wait at 256 kB that were not acknowledged; half of that keeps it from ever waiting for a
// page that is fast enough.
const ACK_EVERY = 64 * 1024;
/** less than that is acknowledged when it has been quiet for so long: not with each key's echo */
const ACK_LATER = 300;
const PING_EVERY = 10_000;
const PONG_LIMIT = 8_000;
// The proxy keeps a terminal for a minute without a browser.
const GIVE_UP = 75_000;
const WAITS = [200, 500, 1000, 2000, 4000];

export class Wire {
  private socket: WebSocket | null = null;
  private id = "";
  /** bytes of the terminal's whole output: come, drawn, and told the proxy */
  private come = 0;
  private drawn = 0;
  private told = 0;
  private state: State = { is: "connecting" };
  private tries = 0;
  private lostAt = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private pinger: ReturnType<typeof setInterval> | undefined;
  private pong: ReturnType<typeof setTimeout> | undefined;
  private later: ReturnType<typeof setTimeout> | undefined;
  private pingedAt = 0;
  /** what was typed while the line was away */
  private typed: Uint8Array[] = [];

  constructor(
    private wish: Wish,
    private readonly listener: Listener,
  ) {
    if (wish.type === "resume") this.id = wish.id;
    addEventListener("online", this.backOnline);
    addEventListener("offline", this.offline);
    document.addEventListener("visibilitychange", this.backOnline);
    this.connect();
  }

  /** the place up to which it is on the screen */
  get shown(): number {
    return this.drawn;
  }

  // ---------------------------------------------------------------- from the page

  type(data: Uint8Array): void {
    if (this.state.is === "open") this.socket?.send(data as Uint8Array<ArrayBuffer>);
    else if (this.state.is === "lost" && this.typed.length < 256) this.typed.push(data);
  }

  resize(cols: number, rows: number): void {
    if (this.state.is === "open") this.say({ type: "resize", cols, rows });
  }

  /** Again, after a refusal: with a one-time code. */
  again(otp: string): void {
    if (this.wish.type !== "resume") this.wish = { ...this.wish, otp };
    this.tries = 0;
    this.connect();
  }

  /** Bring it back from where it is shown now. */
  bringHere(): void {
    this.lostAt = Date.now();
    this.tries = 0;
    this.connect();
  }

  /** Hang up: the shell on the node ends. */
  close(): void {
    if (this.state.is === "open") this.say({ type: "close" });
    this.leave();
  }

  /** Let it be, without ending what runs. */
  leave(): void {
    clearTimeout(this.timer);
    this.quiet();
    removeEventListener("online", this.backOnline);
    removeEventListener("offline", this.offline);
    document.removeEventListener("visibilitychange", this.backOnline);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  // ---------------------------------------------------------------- the line

  private connect(): void {
    clearTimeout(this.timer);
    if (this.state.is !== "lost") this.become({ is: "connecting" });
    const socket = new WebSocket(`wss://${location.host}/web/ws/terminal`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      const message = this.id ? { type: "resume", id: this.id, seen: this.come } : { ...this.wish, ...this.listener.size() };
      socket.send(JSON.stringify(message));
    };
    socket.onmessage = (event: MessageEvent<string | ArrayBuffer>) => {
      if (socket !== this.socket) return;
      if (typeof event.data === "string") this.heard(JSON.parse(event.data) as Record<string, unknown>);
      else this.output(new Uint8Array(event.data));
    };
    socket.onclose = (event) => {
      if (socket === this.socket) this.closed(event.code);
    };
  }

  private heard(message: Record<string, unknown>): void {
    switch (message.type) {
      case "attached":
        this.attached(message as unknown as Attached);
        break;
      case "pong":
        clearTimeout(this.pong);
        if (this.state.is === "open") this.become({ is: "open", delay: Math.round(performance.now() - this.pingedAt) });
        break;
      case "exit":
        this.end(message);
        break;
      case "error":
        this.refused(message);
        break;
    }
  }

  private attached(about: Attached): void {
    const old = this.wish.type === "resume" && this.come === 0;
    const fresh = !this.id || old || about.from !== this.come;
    this.id = about.id;
    this.tries = 0;
    this.come = this.drawn = this.told = about.from;
    this.become({ is: "open", delay: null });
    this.listener.attached(about, fresh, old);
    const { cols, rows } = this.listener.size();
    this.resize(cols, rows);
    for (const data of this.typed.splice(0)) this.type(data);
    this.quiet();
    this.pinger = setInterval(() => this.ping(), PING_EVERY);
    this.ping();
  }

  private output(data: Uint8Array): void {
    this.come += data.length;
    const place = this.come;
    this.listener.output(data, () => {
      if (place <= this.drawn) return;
      this.drawn = place;
      if (this.drawn - this.told >= ACK_EVERY) this.acknowledge();
      else this.later ??= setTimeout(() => this.acknowledge(), ACK_LATER);
    });
  }

  private acknowledge(): void {
    clearTimeout(this.later);
    this.later = undefined;
    this.told = this.drawn;
    if (this.state.is === "open") this.say({ type: "ack", bytes: this.told });
  }

  private ping(): void {
    this.pingedAt = performance.now();
    this.say({ type: "ping" });
    clearTimeout(this.pong);
    this.pong = setTimeout(() => this.drop(), PONG_LIMIT);
  }

  private say(message: object): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  private quiet(): void {
    clearInterval(this.pinger);
    clearTimeout(this.pong);
    clearTimeout(this.later);
    this.later = undefined;
  }

  private become(state: State): void {
    this.state = state;
    this.listener.changed(state);
  }

  // ---------------------------------------------------------------- ends

  private end(message: Record<string, unknown>): void {
    const { status, signal, message: words } = message;
    this.leave();
    if (typeof words === "string") this.become({ is: "ended", words: sentence(words), clean: false });
    else if (typeof signal === "string") this.become({ is: "ended", words: `Ended by signal ${signal}.`, clean: false });
    else this.become({ is: "ended", words: status === 0 ? "The session has ended." : `The session has ended with status ${String(status)}.`, clean: true });
  }

  private refused(message: Record<string, unknown>): void {
    const { code, message: words, hint, ...extra } = message;
    const error = new ApiError(String(code), sentence(String(words)), sentence(typeof hint === "string" ? hint : ""), extra);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    if (this.id && error.code === "not_found") {
      this.leave();
      this.become({ is: "ended", words: "This terminal has ended while nobody was connected.", clean: false });
    } else {
      this.become({ is: "refused", error });
    }
  }

  private closed(code: number): void {
    this.socket = null;
    this.quiet();
    if (code === 4000) {
      this.become({ is: "elsewhere" });
      return;
    }
    if (this.state.is !== "lost") this.lostAt = Date.now();
    if (!this.id && this.tries >= 2) {
      this.become({ is: "refused", error: new ApiError("unavailable", "The proxy cannot be reached.", "Is the network there? Try again.") });
      return;
    }
    if (Date.now() - this.lostAt > GIVE_UP) {
      this.leave();
      this.become({ is: "ended", words: "The connection was lost for more than a minute.", clean: false });
      return;
    }
    if (this.id) this.become({ is: "lost" });
    const wait = WAITS[Math.min(this.tries, WAITS.length - 1)] ?? 1000;
    this.tries += 1;
    clearTimeout(this.timer);
    // When everybody lost the same proxy, not everybody comes back in the same moment.
    this.timer = setTimeout(() => this.connect(), wait * (0.75 + Math.random() / 2));
  }

  /** The network says that it is gone, or the proxy is silent: do not wait for TCP to notice. */
  private drop(): void {
    const socket = this.socket;
    if (!socket) return;
    this.closed(1006);
    socket.close();
  }

  private readonly offline = (): void => {
    if (this.state.is === "open") this.drop();
  };

  private readonly backOnline = (): void => {
    if (document.hidden) return;
    if (this.state.is === "lost" && !this.socket) this.connect();
    else if (this.state.is === "open") this.ping();
  };
}
