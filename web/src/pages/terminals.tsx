/** Terminals in tabs, and what each says about its line. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { PageProps } from "../app";
import { Button, Empty, Trouble } from "../parts/basics";
import { CodeField } from "../parts/fields";
import { Icon } from "../parts/icons";
import { useAsked } from "../parts/asked";
import { link } from "../routes";
import { useStore } from "../store";
import { Keys } from "../terminal/keys";
import type { Screen } from "../terminal/screen";
import { closeTab, current, type Listed, openTerminal, resumeTerminal, type Tab, tabs } from "../terminal/tabs";

export function TerminalsPage(_: PageProps) {
  const open = useStore(tabs);
  const shown = useStore(current);
  const tab = open.find((one) => one.key === shown) ?? open[0];
  if (!tab) return <None />;
  return (
    <div class="terminals">
      <h1 class="hidden">Terminals</h1>
      <div class="tabs">
        <div role="tablist" aria-label="Terminals" onKeyDown={(event) => moveBetween(event, open, tab)}>
          {open.map((one) => (
            <TabHead key={one.key} tab={one} on={one === tab} />
          ))}
        </div>
        <a class="button quiet only" href={link("nodes")} aria-label="New terminal" title="New terminal">
          <Icon name="plus" />
        </a>
        <Button kind="quiet" small onClick={() => closeTab(tab)}>
          {tab.watches ? "Leave" : "Close"}
        </Button>
      </div>
      <TabBody key={tab.key} tab={tab} />
    </div>
  );
}

/** No terminal here: those that run without a page, and the way to a new one. */
function None() {
  const { answer, reload } = useAsked<{ terminals: Listed[] }>("/web/api/terminals", 5000);
  const running = answer?.terminals ?? [];
  return (
    <>
      <h1 class="hidden">Terminals</h1>
      <Empty icon="terminal" title={running.length ? "Terminals elsewhere" : "No terminal is open"}>
        {running.length > 0 ? (
          <>
            <p>They are shown in another window, or wait a minute for one to come back.</p>
            <ul class="bare">
              {running.map((one) => (
                <li key={one.id}>
                  <Button
                    icon="terminal"
                    onClick={() => {
                      resumeTerminal(one);
                      void reload();
                    }}
                  >
                    {one.login}@{one.node}: go on here
                  </Button>
                </li>
              ))}
            </ul>
          </>
        ) : (
          <p>Choose a node, and connect. Terminals stay open while you look at other pages, and come back after a reload.</p>
        )}
        <a class="button main" href={link("nodes")}>
          Choose a node
        </a>
      </Empty>
    </>
  );
}

function moveBetween(event: KeyboardEvent, open: readonly Tab[], tab: Tab): void {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) {
    if (event.key === "Delete") closeTab(tab);
    return;
  }
  const next = open[(open.indexOf(tab) + step + open.length) % open.length];
  if (!next) return;
  current.value = next.key;
  event.preventDefault();
  requestAnimationFrame(() => document.getElementById(`tab-${next.key}`)?.focus());
}

function TabHead({ tab, on }: { tab: Tab; on: boolean }) {
  const state = useStore(tab.state);
  const news = useStore(tab.news);
  const title = useStore(tab.title);
  const where = tab.cluster ? `${tab.node}.${tab.cluster}` : tab.node;
  const name = tab.mode === "shell" ? `${tab.login}@${where}` : `${tab.node}: ${tab.login}`;
  return (
    <button
      type="button"
      role="tab"
      class={`tab${on ? " on" : ""}`}
      id={`tab-${tab.key}`}
      aria-selected={on}
      aria-controls={on ? `panel-${tab.key}` : undefined}
      tabIndex={on ? 0 : -1}
      title={title || name}
      onClick={() => (current.value = tab.key)}
    >
      <i class={`dot ${state.is}${news ? " news" : ""}`} aria-hidden="true" />
      {tab.mode !== "shell" && <Icon name={tab.watches ? "eye" : "join"} />}
      {name}
      {state.is !== "open" && <span class="hidden"> ({state.is})</span>}
      {/* For a mouse. A tab may hold no other button: the Delete key and the button beside the tabs do the same. */}
      <span
        class="shut"
        aria-hidden="true"
        title="Close: what runs in it ends"
        onClick={(event) => {
          event.stopPropagation();
          closeTab(tab);
        }}
      >
        <Icon name="close" />
      </span>
    </button>
  );
}

function TabBody({ tab }: { tab: Tab }) {
  const place = useRef<HTMLDivElement>(null);
  const [screen, setScreen] = useState<Screen | null>(null);
  useEffect(() => {
    let shown: Screen | null = null;
    let here = true;
    void tab.screen.then((made) => here && setScreen(made));
    void tab.loaded.then((made) => {
      if (!here || !place.current) return;
      shown = made;
      made.show(place.current);
      tab.look(true);
      made.focus();
    });
    return () => {
      here = false;
      tab.look(false);
      shown?.hide();
    };
  }, [tab]);
  return (
    <div class="panel" role="tabpanel" id={`panel-${tab.key}`} aria-labelledby={`tab-${tab.key}`}>
      <Line tab={tab} />
      <div class="glass" ref={place} />
      {screen && !tab.watches && <Keys screen={screen} />}
    </div>
  );
}

/** refusals that a code answers: there was none, or it was wrong */
const ASKS_CODE = new Set(["mfa_required", "bad_code", "bad_credentials"]);

/** What there is to say of the line to the node, while there is. */
function Line({ tab }: { tab: Tab }) {
  const state = useStore(tab.state);
  const [code, setCode] = useState("");
  switch (state.is) {
    case "connecting":
      return (
        <p class="line" role="status">
          <span class="spinner" aria-hidden="true" /> Connecting to {tab.node}
        </p>
      );
    case "lost":
      return (
        <p class="line warn" role="status">
          <span class="spinner" aria-hidden="true" /> The network is gone. What runs goes on for a minute, and this comes back by itself.
        </p>
      );
    case "elsewhere":
      return (
        <p class="line warn" role="status">
          Shown in another window.
          <Button small onClick={() => tab.bringHere()}>
            Bring it here
          </Button>
        </p>
      );
    case "ended":
      return (
        <p class={`line ${state.clean ? "" : "warn"}`} role="status">
          {state.words}
          {tab.mode === "shell" && (
            <Button
              small
              onClick={() => {
                closeTab(tab);
                openTerminal(tab.node, tab.login, tab.cluster);
              }}
            >
              Connect again
            </Button>
          )}
        </p>
      );
    case "refused":
      if (ASKS_CODE.has(state.error.code)) {
        return (
          <form
            class="line otp"
            onSubmit={(event) => {
              event.preventDefault();
              tab.again(code);
              setCode("");
            }}
          >
            {state.error.code === "mfa_required" ? <p>Sessions on {tab.node} ask for a code each.</p> : <Trouble error={state.error} />}
            <CodeField value={code} onValue={setCode} focus />
            <Button type="submit" kind="main">
              Connect
            </Button>
          </form>
        );
      }
      return (
        <div class="line">
          <Trouble error={state.error} again={() => tab.again("")} />
        </div>
      );
    case "open":
      return (
        <p class="line open">
          <span>
            {tab.watches ? "Watching" : "Connected"}
            {state.delay !== null && <span class="dim"> {state.delay} ms</span>}
          </span>
        </p>
      );
  }
}
