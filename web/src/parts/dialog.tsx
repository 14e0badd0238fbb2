/** Dialogs. The browser's own element: focus stays inside, Escape closes, and goes back to where it was. */

import type { ComponentChildren } from "preact";
import { useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { type ApiError, asError } from "../api";
import { Button, Trouble } from "./basics";

interface Props {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  wide?: boolean;
}

export function Dialog({ title, onClose, children, wide = false }: Props) {
  const box = useRef<HTMLDialogElement>(null);
  const id = useId();
  // Before anything in the dialog takes the focus.
  const [back] = useState(() => document.activeElement);
  const leaving = useRef(false);
  useLayoutEffect(() => {
    const dialog = box.current;
    dialog?.showModal();
    return () => {
      // While it is open, nothing outside of it can have the focus.
      leaving.current = true;
      dialog?.close();
      if (back instanceof HTMLElement) back.focus();
    };
  }, []);
  return (
    <dialog ref={box} class={wide ? "wide" : ""} aria-labelledby={id} onClose={() => leaving.current || onClose()}>
      <header>
        <h2 id={id}>{title}</h2>
        <Button kind="quiet" icon="close" aria-label="Close" onClick={onClose} />
      </header>
      {children}
    </dialog>
  );
}

interface AskProps {
  title: string;
  children?: ComponentChildren;
  /** what the button says */
  yes: string;
  danger?: boolean;
  wide?: boolean;
  onClose: () => void;
  /** what it does; a refusal is shown here, and the dialog stays */
  act: () => Promise<void>;
}

/** A question with one answer that does something: a form of a few fields, or "really?". */
export function Ask({ title, children, yes, danger = false, wide = false, onClose, act }: AskProps) {
  const [error, setError] = useState<ApiError | null>(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    setError(null);
    try {
      await act();
    } catch (found) {
      setError(asError(found));
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog title={title} onClose={onClose} wide={wide}>
      <form onSubmit={(event) => void submit(event)}>
        {children}
        <Trouble error={error} />
        <footer>
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" kind={danger ? "danger" : "main"} disabled={busy}>
            {yes}
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}
