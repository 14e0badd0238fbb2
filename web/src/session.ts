/** Who is logged in with this browser, for how long yet, and whether somebody is before the page. */

import { ApiError, ask, asError, setToken, whenEnded } from "./api";
import { Store } from "./store";
import type { Verb, Whoami } from "./types";

// docs/web.md: certificates of ten minutes, renewed every four; half an hour without a key or a click ends a session.
const RENEW_EVERY = 4 * 60_000;
const IDLE = 30 * 60_000;
const WARN = 2 * 60_000;
const LOOK_EVERY = 5_000;
/** shared by all tabs of this browser, for a session is the browser's */
const ACTIVE = "tinyport.active";

export type Who = { state: "asking" } | { state: "stranger"; why: string } | { state: "here"; me: Whoami };

export const who = new Store<Who>({ state: "asking" });
/** milliseconds until the idle session ends, when that is near */
export const idleIn = new Store<number | null>(null);

let renewed = 0;
let renewing = false;
let active = Date.now();
let told = 0;

function here(me: Whoami): void {
  setToken(me.csrf);
  renewed = Date.now();
  who.value = { state: "here", me };
}

function gone(why: string): void {
  setToken("");
  idleIn.value = null;
  if (who.value.state !== "stranger") who.value = { state: "stranger", why };
}

export async function start(): Promise<void> {
  whenEnded((error) => {
    if (who.value.state !== "here") return;
    if (lastActive() + IDLE < Date.now()) gone("You were logged out, because nothing was typed for half an hour.");
    else gone(error.code === "locked" ? error.message : "Your session has ended. Log in to go on.");
  });
  for (const event of ["pointerdown", "keydown", "wheel", "touchstart"]) {
    addEventListener(event, somebodyIsHere, { passive: true, capture: true });
  }
  setInterval(look, LOOK_EVERY);
  document.addEventListener("visibilitychange", look);
  try {
    here(await ask<Whoami>("/web/api/whoami"));
  } catch (error) {
    const found = asError(error);
    gone(found.code === "login_required" ? "" : found.message);
  }
}

const LAST_USER = "tinyport.user";

/** The name that is written into the form already. */
export function lastUser(): string {
  try {
    return localStorage.getItem(LAST_USER) ?? "";
  } catch {
    return "";
  }
}

/** Somebody is to log in as `user`, and reads `why`. */
export function keepFor(user: string, why = ""): void {
  try {
    localStorage.setItem(LAST_USER, user);
  } catch {
    // Then it is typed again.
  }
  if (why) who.value = { state: "stranger", why };
}

export async function logIn(user: string, password: string, otp: string): Promise<void> {
  here(await ask<Whoami>("/web/api/login", { method: "POST", body: { user, password, ...(otp ? { otp } : {}) } }));
  keepFor(user);
  somebodyIsHere();
}

export async function logOut(): Promise<void> {
  try {
    await ask("/web/api/logout", { method: "POST" });
  } catch (error) {
    // Without a network the session cannot be ended at once: it ends when nobody renews it.
    if (asError(error).code !== "login_required") {
      gone("The proxy could not be told. The session ends in a quarter of an hour, when nobody has renewed it.");
      return;
    }
  }
  gone("You are logged out.");
}

/** May this person do that? Auth decides; this says what to offer. */
export function may(me: Whoami, resource: string, verb: Verb): boolean {
  return me.may[resource]?.includes(verb) ?? false;
}

function somebodyIsHere(): void {
  active = Date.now();
  if (active - told > 20_000) {
    told = active;
    try {
      localStorage.setItem(ACTIVE, String(active));
    } catch {
      // Storage may be forbidden; then each tab counts for itself.
    }
  }
}

function lastActive(): number {
  try {
    return Math.max(active, Number(localStorage.getItem(ACTIVE)) || 0);
  } catch {
    return active;
  }
}

function look(): void {
  if (who.value.state !== "here") return;
  const now = Date.now();
  const left = lastActive() + IDLE - now;
  idleIn.value = left < WARN ? Math.max(0, left) : null;
  if (now - renewed >= RENEW_EVERY || left <= -LOOK_EVERY) void renew();
}

/** Somebody answered the warning. */
export function stay(): void {
  somebodyIsHere();
  idleIn.value = null;
  void renew();
}

/** Newer certificates, and word of whether somebody is here. */
export async function renew(): Promise<void> {
  if (renewing) return;
  renewing = true;
  const before = renewed;
  try {
    here(await ask<Whoami>("/web/api/renew", { method: "POST", body: { active: lastActive() > before } }));
  } catch (error) {
    const found = error instanceof ApiError ? error : asError(error);
    if (found.code === "unavailable" || found.code === "slow_down") {
      // The network may come back; the next look tries again.
      renewed = Date.now() - RENEW_EVERY + 15_000;
    } else {
      gone(found.message);
    }
  } finally {
    renewing = false;
  }
}
