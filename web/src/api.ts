/** Questions to the proxy. Everything that comes back as an error has a sentence for people, and often what to do. */

export class ApiError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly hint = "",
    readonly extra: Readonly<Record<string, unknown>> = {},
  ) {
    super(message);
  }
}

export interface Wish {
  method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  body?: unknown;
  /** asked by a clock and not by a person: it does not keep the session alive */
  background?: boolean;
  signal?: AbortSignal;
}

/** codes that mean: nobody is logged in with this browser any more */
const ENDED = new Set(["login_required", "expired"]);

let csrf = "";
let onEnded: (error: ApiError) => void = () => undefined;

export function setToken(token: string): void {
  csrf = token;
}

/** `tell` hears of it when an answer says that the session is over. */
export function whenEnded(tell: (error: ApiError) => void): void {
  onEnded = tell;
}

/** The answer to a question. ApiError when it is a refusal, or when there is none (`unavailable`). */
export async function ask<T>(path: string, wish: Wish = {}): Promise<T> {
  const response = await send(path, wish);
  let answer: unknown;
  try {
    answer = await response.json();
  } catch {
    throw new ApiError("unavailable", "The answer was not understood.", "Try again in a moment.");
  }
  return answer as T;
}

/** As `ask`, for answers that are no JSON. */
export async function send(path: string, wish: Wish = {}, again = false): Promise<Response> {
  const headers: Record<string, string> = {};
  if (csrf) headers["Tinyport-Csrf"] = csrf;
  if (wish.background) headers["Tinyport-Background"] = "1";
  const method = wish.method ?? "GET";
  let body: string | undefined;
  if (method === "POST" || method === "PUT" || method === "PATCH") {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(wish.body ?? {});
  }
  let response: Response;
  try {
    response = await fetch(path, { method, headers, body, signal: wish.signal, credentials: "same-origin", redirect: "error" });
  } catch (error) {
    if (wish.signal?.aborted) throw error;
    throw new ApiError("unavailable", "The proxy does not answer.", "Is the network there? It is tried again by itself.");
  }
  if (response.ok) return response;
  const error = await refusal(response);
  // A proxy that was started again knows the session by its cookie, and gave it another token.
  if (error.code === "csrf" && !again && (await freshToken())) return await send(path, wish, true);
  throw error;
}

async function freshToken(): Promise<boolean> {
  const before = csrf;
  setToken((await ask<{ csrf: string }>("/web/api/whoami", { background: true })).csrf);
  return csrf !== before;
}

async function refusal(response: Response): Promise<ApiError> {
  let found: Record<string, unknown> = {};
  try {
    const answer = (await response.json()) as { error?: Record<string, unknown> };
    found = answer.error ?? {};
  } catch {
    // Not from our proxy, or cut in the middle: its status has to do.
  }
  const { code, message, hint, ...extra } = found;
  const error = new ApiError(
    typeof code === "string" ? code : "unavailable",
    sentence(typeof message === "string" ? message : `the proxy answered ${response.status}`),
    sentence(typeof hint === "string" ? hint : ""),
    extra,
  );
  if (ENDED.has(error.code)) onEnded(error);
  return error;
}

/** Errors are written to stand after "error:"; here they stand alone. */
export function sentence(text: string): string {
  // A command stays as it is typed.
  if (!text || /^(tctl|tsh|tinyport) /.test(text)) return text;
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?:…"]$/.test(first) ? first : `${first}.`;
}

export function asError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  return new ApiError("bug", `Something went wrong in this page: ${String(error)}`, "Load it again.");
}

/** One part of a path, escaped. */
export function part(text: string): string {
  return encodeURIComponent(text);
}
