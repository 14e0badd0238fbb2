/** asciicast v2 as it comes: a header, then [seconds, kind, data] a line. Pure. */

export interface Header {
  columns: number;
  rows: number;
}

export interface Moment {
  at: number;
  kind: "o" | "r" | "m";
  data: string;
}

const KINDS = new Set(["o", "r", "m"]);

export class Cast {
  header: Header | null = null;
  readonly moments: Moment[] = [];
  private rest = "";

  /** More of the file. Lines that are none of ours are left out: the format says that readers do so. */
  feed(text: string): void {
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop() ?? "";
    for (const line of lines) this.line(line);
  }

  private line(line: string): void {
    if (!line.trim()) return;
    let found: unknown;
    try {
      found = JSON.parse(line);
    } catch {
      return;
    }
    if (Array.isArray(found)) {
      const [at, kind, data] = found as unknown[];
      if (typeof at === "number" && typeof kind === "string" && KINDS.has(kind) && typeof data === "string") {
        this.moments.push({ at, kind: kind as Moment["kind"], data });
      }
    } else if (!this.header && typeof found === "object" && found !== null) {
      const { width, height } = found as Record<string, unknown>;
      this.header = { columns: within(width, 80), rows: within(height, 24) };
    }
  }

  get seconds(): number {
    return this.moments[this.moments.length - 1]?.at ?? 0;
  }
}

/** A size of a screen, whatever was written there. */
function within(value: unknown, usual: number): number {
  return typeof value === "number" && value >= 1 ? Math.min(Math.floor(value), 500) : usual;
}

/** "80x24" → size; null when it is none. */
export function parseSize(text: string): Header | null {
  const found = /^(\d{1,4})x(\d{1,4})$/.exec(text);
  return found ? { columns: within(Number(found[1]), 80), rows: within(Number(found[2]), 24) } : null;
}

/** When each moment is shown, with pauses of at most `longest` seconds: `times` grows by what `moments` has more. */
export function schedule(times: number[], moments: readonly Moment[], longest: number): void {
  for (let index = times.length; index < moments.length; index += 1) {
    const pause = (moments[index]?.at ?? 0) - (moments[index - 1]?.at ?? 0);
    times.push((times[index - 1] ?? 0) + Math.min(Math.max(0, pause), longest));
  }
}
