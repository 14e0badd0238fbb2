/** Times, sizes and counts as people say them. */

const UNITS: [number, string][] = [
  [86400 * 365, "y"],
  [86400 * 30, "mo"],
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
];

export function duration(seconds: number): string {
  for (const [size, unit] of UNITS) if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  return `${Math.max(0, Math.floor(seconds))} s`;
}

/** "3 h ago", "in 20 min". */
export function ago(unix: number | null | undefined, now = Date.now() / 1000): string {
  if (unix === null || unix === undefined) return "never";
  const passed = now - unix;
  if (Math.abs(passed) < 5) return "now";
  return passed > 0 ? `${duration(passed)} ago` : `in ${duration(-passed)}`;
}

export function moment(unix: number | null | undefined): string {
  if (unix === null || unix === undefined) return "never";
  return new Date(unix * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** 3:07, 1:02:03 */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (n: number) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export function size(bytes: number): string {
  const units = ["B", "kB", "MB", "GB"];
  let at = 0;
  while (bytes >= 1000 && at < units.length - 1) {
    bytes /= 1000;
    at += 1;
  }
  return `${bytes < 10 && at ? bytes.toFixed(1) : Math.round(bytes)} ${units[at]}`;
}

/** "30m", "12h", "7d" → seconds; null when it is none. */
export function parseDuration(text: string): number | null {
  const found = /^(\d{1,6})\s*([smhdw])$/.exec(text.trim());
  if (!found) return null;
  const unit = { s: 1, m: 60, h: 3600, d: 86400, w: 7 * 86400 }[found[2] as "s"];
  return Number(found[1]) * unit;
}

/** "a=b, c=d" → labels; null when it is none. */
export function parseLabels(text: string): Record<string, string> | null {
  const labels: Record<string, string> = {};
  for (const pair of list(text)) {
    const at = pair.indexOf("=");
    if (at < 1) return null;
    labels[pair.slice(0, at).trim()] = pair.slice(at + 1).trim();
  }
  return labels;
}

export function labelsText(labels: Record<string, string>): string {
  return Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(", ");
}

/** Words with commas or spaces between. */
export function list(text: string): string[] {
  return text.split(/[\s,]+/).filter(Boolean);
}
