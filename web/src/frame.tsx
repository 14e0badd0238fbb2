/** What is around every page: the menu, who one is, light or dark, and the warning before an idle session ends. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ENTRIES, type Entry } from "./menu";
import { Button } from "./parts/basics";
import { Dialog } from "./parts/dialog";
import { Icon, type IconName, Mark } from "./parts/icons";
import { link } from "./routes";
import { idleIn, logOut, stay } from "./session";
import { useStore } from "./store";
import { tabs } from "./terminal/tabs";
import { type Choice, choice, choose } from "./theme";
import type { Whoami } from "./types";
import { clock } from "./words";

interface Props {
  me: Whoami;
  page: string;
  children: ComponentChildren;
}

export function Frame({ me, page, children }: Props) {
  const [open, setOpen] = useState(false);
  const main = useRef<HTMLElement>(null);
  const first = useRef(true);
  useEffect(() => {
    setOpen(false);
    // A new page is announced, and the next Tab is in it: but not at the very first.
    if (!first.current && page !== "terminals") main.current?.focus();
    first.current = false;
  }, [page]);
  return (
    <div class={`frame${open ? " open" : ""}`} onKeyDown={(event) => event.key === "Escape" && setOpen(false)}>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          main.current?.focus();
        }}
      >
        To the content
      </a>
      <header class="bar">
        <Button kind="quiet" icon="menu" aria-label="Menu" aria-expanded={open} aria-controls="menu" onClick={() => setOpen(!open)} />
        <a class="brand" href="#/nodes">
          <Mark /> <strong>tinyport</strong>
        </a>
        <span class="cluster" title={me.cluster}>
          {me.cluster}
        </span>
      </header>
      <nav id="menu" aria-label="Pages">
        <a class="brand" href="#/nodes">
          <Mark />
          <span>
            <strong>tinyport</strong>
            <small title={me.cluster}>{me.cluster}</small>
          </span>
        </a>
        <div class="groups">
          <Group me={me} group="work" page={page} />
          <Group me={me} group="manage" page={page} title="Manage" />
        </div>
        <div class="own">
          <Group me={me} group="own" page={page} />
          <Theme />
          <button type="button" class="item" onClick={() => void logOut()}>
            <Icon name="out" /> Log out
            <small>{me.user}</small>
          </button>
        </div>
      </nav>
      <div class="shade" onClick={() => setOpen(false)} />
      <main id="main" ref={main} tabIndex={-1} class={`on-${page}`}>
        {children}
      </main>
      <IdleWarning />
    </div>
  );
}

function Group({ me, group, page, title }: { me: Whoami; group: Entry["group"]; page: string; title?: string }) {
  const entries = ENTRIES.filter((entry) => entry.group === group && entry.offered(me));
  const terminals = useStore(tabs);
  if (!entries.length) return null;
  return (
    <div class="group">
      {title && <h2>{title}</h2>}
      <ul>
        {entries.map((entry) => (
          <li key={entry.page}>
            <a class="item" href={link(entry.page)} aria-current={entry.page === page ? "page" : undefined}>
              <Icon name={entry.icon} /> {entry.title}
              {entry.page === "terminals" && terminals.length > 0 && <small class="count">{terminals.length}</small>}
            </a>
          </li>
        ))}
      </ul>
    </div>
  );
}

const THEMES: [Choice, IconName, string][] = [
  ["light", "sun", "Light"],
  ["auto", "auto", "As the system"],
  ["dark", "moon", "Dark"],
];

export function Theme() {
  const chosen = useStore(choice);
  return (
    <div class="theme" role="radiogroup" aria-label="Colours">
      {THEMES.map(([value, icon, title]) => (
        <label key={value} title={title} class={chosen === value ? "on" : ""}>
          <input type="radio" name="theme" value={value} checked={chosen === value} aria-label={title} onChange={() => choose(value)} />
          <Icon name={icon} />
        </label>
      ))}
    </div>
  );
}

function IdleWarning() {
  const left = useStore(idleIn);
  if (left === null) return null;
  return (
    <Dialog title="Still there?" onClose={stay}>
      <p>
        Nothing was typed for a while. You are logged out in <strong>{clock(left / 1000)}</strong>, and your terminals end.
      </p>
      <footer>
        <Button onClick={() => void logOut()}>Log out</Button>
        <Button kind="main" onClick={stay}>
          Stay
        </Button>
      </footer>
    </Dialog>
  );
}
