/** A recording as it plays on a screen: its clock, going to a place, what comes live. */

import { Store } from "../store";
import type { Screen } from "../terminal/screen";
import { type Cast, parseSize, schedule } from "./cast";

const FRAME = 33;
/** written at once while going to a place far away; the page stays alive in between */
const PIECE = 128 * 1024;
const LONGEST_PAUSE = 2;

export interface Now {
  position: number;
  length: number;
  playing: boolean;
  /** it is live, and its end is looked at */
  live: boolean;
}

export class Playback {
  readonly now = new Store<Now>({ position: 0, length: 0, playing: false, live: false });
  private times: number[] = [];
  /** moments before it are on the screen */
  private next = 0;
  private position = 0;
  private playing = false;
  private speed = 1;
  private skips = true;
  private goesOn: boolean;
  /** all of it is here */
  private whole = false;
  private atEnd: boolean;
  private before = 0;
  private readonly timer: ReturnType<typeof setInterval>;
  /** counts journeys: a later one ends an earlier one */
  private journey = 0;
  private busy = false;

  constructor(
    private readonly cast: Cast,
    private readonly screen: Screen,
    live: boolean,
    private readonly resized: () => void,
  ) {
    this.goesOn = this.atEnd = live;
    this.playing = !live;
    this.timer = setInterval(() => this.tick(), FRAME);
    this.before = performance.now();
  }

  /** There are more moments, or, with `over`, none will come. */
  grown(over: boolean): void {
    schedule(this.times, this.cast.moments, this.skips ? LONGEST_PAUSE : Infinity);
    if (over) {
      this.whole = true;
      this.goesOn = false;
    }
    if (this.atEnd && this.goesOn) void this.goTo(this.length);
    this.tell();
  }

  get length(): number {
    return this.times[this.times.length - 1] ?? 0;
  }

  /** the session goes on */
  get isLive(): boolean {
    return this.goesOn;
  }

  get skipsPauses(): boolean {
    return this.skips;
  }

  toggle(): void {
    if (this.playing) {
      this.playing = false;
    } else {
      if (this.position >= this.length && !this.goesOn) void this.goTo(0);
      this.playing = true;
    }
    this.atEnd = false;
    this.before = performance.now();
    this.tell();
  }

  setSpeed(speed: number): void {
    this.speed = speed;
  }

  skipPauses(skips: boolean): void {
    // The same moment is shown before and after.
    const index = this.next;
    this.skips = skips;
    this.times = [];
    schedule(this.times, this.cast.moments, skips ? LONGEST_PAUSE : Infinity);
    this.position = this.times[index - 1] ?? 0;
    this.tell();
  }

  seek(position: number): void {
    this.atEnd = false;
    void this.goTo(Math.min(Math.max(0, position), this.length));
  }

  /** Just after moment `index`. */
  seekTo(index: number): void {
    this.playing = false;
    this.seek((this.times[index] ?? 0) + 0.0005);
  }

  goLive(): void {
    this.atEnd = true;
    this.playing = false;
    void this.goTo(this.length);
  }

  stop(): void {
    clearInterval(this.timer);
    this.journey += 1;
  }

  private tick(): void {
    const now = performance.now();
    const passed = (now - this.before) / 1000;
    this.before = now;
    if (!this.playing || this.busy) return;
    this.position = Math.min(this.position + passed * this.speed, this.length);
    void this.goTo(this.position);
    if (this.position >= this.length && (this.whole || this.goesOn)) {
      if (this.goesOn) this.atEnd = true;
      this.playing = false;
      this.tell();
    }
  }

  /** Draw everything up to `position`, from the beginning when it is before what is drawn. */
  private async goTo(position: number): Promise<void> {
    const journey = (this.journey += 1);
    this.busy = true;
    this.position = position;
    if (this.next > 0 && (this.times[this.next - 1] ?? 0) > position) {
      this.next = 0;
      this.screen.term.reset();
      const { header } = this.cast;
      if (header) this.size(header.columns, header.rows);
    }
    while (journey === this.journey && this.next < this.times.length && (this.times[this.next] ?? 0) <= position) await this.piece(position);
    if (journey === this.journey) {
      this.busy = false;
      this.before = performance.now();
      this.tell();
    }
  }

  private async piece(position: number): Promise<void> {
    let text = "";
    while (this.next < this.times.length && (this.times[this.next] ?? 0) <= position && text.length < PIECE) {
      const moment = this.cast.moments[this.next];
      if (moment?.kind === "r") {
        if (text) break;
        const size = parseSize(moment.data);
        if (size) this.size(size.columns, size.rows);
      } else if (moment?.kind === "o") {
        text += moment.data;
      }
      this.next += 1;
    }
    if (text) await new Promise<void>((drawn) => this.screen.write(text, drawn));
  }

  private size(columns: number, rows: number): void {
    this.screen.term.resize(columns, rows);
    this.resized();
  }

  private tell(): void {
    this.now.value = { position: this.position, length: this.length, playing: this.playing, live: this.goesOn && this.atEnd };
  }
}
