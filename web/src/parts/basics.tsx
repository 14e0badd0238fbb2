/** What every page is made of: buttons, notes, empty states, badges, labels. */

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { ApiError } from "../api";
import { ago, moment } from "../words";
import { Icon, type IconName } from "./icons";

type ButtonProps = Omit<JSX.HTMLAttributes<HTMLButtonElement>, "icon"> & {
  kind?: "plain" | "main" | "danger" | "quiet";
  icon?: IconName;
  type?: "button" | "submit";
  disabled?: boolean;
  small?: boolean;
  children?: ComponentChildren;
};

export function Button({ kind = "plain", icon, small, type = "button", children, ...rest }: ButtonProps) {
  const only = children === undefined ? " only" : "";
  return (
    <button type={type} class={`button ${kind}${small ? " small" : ""}${only}`} {...rest}>
      {icon && <Icon name={icon} />}
      {children}
    </button>
  );
}

/** What went wrong, and what to do. */
export function Trouble({ error, again }: { error: ApiError | null; again?: () => void }) {
  if (!error) return null;
  return (
    <div class="note bad" role="alert">
      <Icon name="warning" />
      <div>
        <strong>{error.message}</strong>
        {error.hint && <p>{error.hint}</p>}
        {again && (
          <Button small onClick={again}>
            Try again
          </Button>
        )}
      </div>
    </div>
  );
}

export function Note({ kind = "info", children }: { kind?: "info" | "good" | "warn"; children: ComponentChildren }) {
  return (
    <div class={`note ${kind}`} role="status">
      <Icon name={kind === "good" ? "check" : "warning"} />
      <div>{children}</div>
    </div>
  );
}

/** There is nothing, and this is how there comes to be something. */
export function Empty({ icon, title, children }: { icon: IconName; title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <Icon name={icon} />
      <h2>{title}</h2>
      {children}
    </div>
  );
}

export function Loading() {
  return (
    <div class="loading" role="status">
      <span class="spinner" aria-hidden="true" />
      Loading
    </div>
  );
}

export type Tone = "good" | "bad" | "warn" | "dim" | "live";

export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return (
    <span class={`badge ${tone}`}>
      <i aria-hidden="true" />
      {children}
    </span>
  );
}

export function Labels({ of, dim = false }: { of: Record<string, string>; dim?: boolean }) {
  const pairs = Object.entries(of);
  if (!pairs.length) return null;
  return (
    <ul class={`labels${dim ? " dim" : ""}`}>
      {pairs.map(([key, value]) => (
        <li key={key}>
          <span>{key}</span>
          {value}
        </li>
      ))}
    </ul>
  );
}

/** "3 min ago", with the exact time for who points at it. */
export function When({ at }: { at: number | null | undefined }) {
  const [, draw] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => draw((n) => n + 1), 10_000);
    return () => clearInterval(timer);
  }, []);
  if (at === null || at === undefined) return <span class="dim">never</span>;
  return (
    <time dateTime={new Date(at * 1000).toISOString()} title={moment(at)}>
      {ago(at)}
    </time>
  );
}

export function CopyButton({ text, label = "Copy" }: { text: string; label?: string }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return undefined;
    const timer = setTimeout(() => setDone(false), 2000);
    return () => clearTimeout(timer);
  }, [done]);
  return (
    <Button small icon={done ? "check" : "copy"} onClick={() => void navigator.clipboard.writeText(text).then(() => setDone(true))}>
      <span aria-live="polite">{done ? "Copied" : label}</span>
    </Button>
  );
}

/** A command or a secret: to be read, selected and copied. */
export function Code({ text, label }: { text: string; label: string }) {
  return (
    <div class="code">
      <pre aria-label={label} tabIndex={0}>
        {text}
      </pre>
      <CopyButton text={text} />
    </div>
  );
}

export function Head({ title, note, children }: { title: string; note?: ComponentChildren; children?: ComponentChildren }) {
  return (
    <header class="head">
      <div>
        <h1 tabIndex={-1}>{title}</h1>
        {note && <p>{note}</p>}
      </div>
      {children && <div class="actions">{children}</div>}
    </header>
  );
}

export function Search({ value, onInput, label }: { value: string; onInput: (text: string) => void; label: string }) {
  return (
    <label class="search">
      <Icon name="search" />
      <span class="hidden">{label}</span>
      <input type="search" value={value} placeholder={label} spellcheck={false} autocomplete="off" onInput={(event) => onInput(event.currentTarget.value)} />
    </label>
  );
}
