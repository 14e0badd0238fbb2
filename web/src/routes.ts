/** Where in the page somebody is: what stands after "#", which never leaves the browser. */

import { Store } from "./store";

export interface Place {
  page: string;
  rest: string;
  query: URLSearchParams;
}

export function parsePlace(hash: string): Place {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [page = "", ...rest] = path.split("/");
  return { page: page || "nodes", rest: rest.map(decode).join("/"), query: new URLSearchParams(query) };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

export const place = new Store<Place>(parsePlace(location.hash));

addEventListener("hashchange", () => {
  place.value = parsePlace(location.hash);
});

export function link(page: string, rest = "", query: Record<string, string> = {}): string {
  const asked = new URLSearchParams(Object.entries(query).filter(([, value]) => value)).toString();
  return `#/${page}${rest ? `/${encodeURIComponent(rest)}` : ""}${asked ? `?${asked}` : ""}`;
}

export function go(page: string, rest = "", query: Record<string, string> = {}): void {
  location.hash = link(page, rest, query);
}
