/** Fields of forms: a label, the field, what is wrong or what is meant. */

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";

type Own = { label: string; hint?: ComponentChildren; value: string; onValue: (value: string) => void };
type InputProps = Own & { focus?: boolean } & Omit<JSX.InputHTMLAttributes<HTMLInputElement>, "label" | "value" | "onInput">;

/** `focus`: it has the focus as soon as it is there. */
export function Field({ label, hint, value, onValue, focus = false, ...rest }: InputProps) {
  const id = useId();
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (focus) input.current?.focus();
  }, []);
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input ref={input} id={id} value={value} aria-describedby={hint ? `${id}-hint` : undefined} onInput={(event) => onValue(event.currentTarget.value)} {...rest} />
      {hint && (
        <p class="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
    </div>
  );
}

export function Area({ label, hint, value, onValue, rows = 14 }: Own & { rows?: number }) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <textarea
        id={id}
        class="mono"
        rows={rows}
        value={value}
        spellcheck={false}
        aria-describedby={hint ? `${id}-hint` : undefined}
        onInput={(event) => onValue(event.currentTarget.value)}
      />
      {hint && (
        <p class="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
    </div>
  );
}

export function Select({ label, hint, value, onValue, options }: Own & { options: [string, string][] }) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <select id={id} value={value} onChange={(event) => onValue(event.currentTarget.value)}>
        {options.map(([key, text]) => (
          <option key={key} value={key}>
            {text}
          </option>
        ))}
      </select>
      {hint && <p class="hint">{hint}</p>}
    </div>
  );
}

export function Tick({ label, hint, on, onTick }: { label: string; hint?: string; on: boolean; onTick: (on: boolean) => void }) {
  const id = useId();
  return (
    <div class="field tick">
      <input id={id} type="checkbox" checked={on} aria-describedby={hint ? `${id}-hint` : undefined} onChange={(event) => onTick(event.currentTarget.checked)} />
      <label for={id}>{label}</label>
      {hint && (
        <p class="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
    </div>
  );
}

/** A one-time code: six digits, from an app or a password manager. */
export function CodeField({ value, onValue, focus = false }: { value: string; onValue: (value: string) => void; focus?: boolean }) {
  return (
    <Field
      label="Code from your authenticator app"
      value={value}
      onValue={(text) => onValue(text.replace(/\s/g, ""))}
      inputMode="numeric"
      autocomplete="one-time-code"
      pattern="[0-9]{6}"
      maxLength={6}
      placeholder="123456"
      class="otp"
      required
      focus={focus}
    />
  );
}
