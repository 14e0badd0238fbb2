/** Keys that a phone's keyboard lacks, in a row below the terminal. */

import { useEffect, useState } from "preact/hooks";
import { Icon } from "../parts/icons";
import type { Screen } from "./screen";

const ARROWS = [
  ["A", "↑", "Up"],
  ["B", "↓", "Down"],
  ["D", "←", "Left"],
  ["C", "→", "Right"],
] as const;

export function Keys({ screen }: { screen: Screen }) {
  const [control, setControl] = useState(screen.control);
  useEffect(() => {
    screen.onControlUsed = () => setControl(false);
    return () => {
      screen.onControlUsed = () => undefined;
    };
  }, [screen]);
  const press = (act: () => void) => {
    act();
    screen.focus();
  };
  const type = (text: string) => press(() => screen.term.input(text));
  return (
    // Without this the button takes the focus, and the phone's keyboard goes away.
    <div class="keys" role="toolbar" aria-label="Keys" onPointerDown={(event) => event.preventDefault()}>
      <button type="button" onClick={() => type("\x1b")}>
        Esc
      </button>
      <button type="button" onClick={() => type("\t")}>
        Tab
      </button>
      <button
        type="button"
        aria-pressed={control}
        onClick={() =>
          press(() => {
            screen.control = !control;
            setControl(!control);
          })
        }
      >
        Ctrl
      </button>
      {ARROWS.map(([letter, sign, name]) => (
        <button key={letter} type="button" aria-label={name} onClick={() => press(() => screen.arrow(letter))}>
          {sign}
        </button>
      ))}
      {["/", "-", "|", "~"].map((letter) => (
        <button key={letter} type="button" onClick={() => type(letter)}>
          {letter}
        </button>
      ))}
      <button type="button" onClick={() => void screen.paste().catch(() => undefined)}>
        <Icon name="copy" /> Paste
      </button>
    </div>
  );
}
