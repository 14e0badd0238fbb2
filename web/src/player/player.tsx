/** The player: the screen of a recording, its controls, and a search in what it showed. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type ApiError, asError, part, send } from "../api";
import { Badge, Button, Search, Trouble } from "../parts/basics";
import { Tick } from "../parts/fields";
import { useStore } from "../store";
import type { Screen } from "../terminal/screen";
import { clock } from "../words";
import { Cast } from "./cast";
import { Playback } from "./playback";
import { search, transcript } from "./transcript";

const SPEEDS = [0.5, 1, 2, 4, 8];
const MOST_HITS = 50;
/** a letter is about so much of its height wide */
const ASPECT = 0.602;
const LINE = 1.35;
/** what else is on the page, so that the controls are in view with the screen */
const AROUND = 260;

export function Player({ id, live, label }: { id: string; live: boolean; label: string }) {
  const place = useRef<HTMLDivElement>(null);
  const cast = useMemo(() => new Cast(), [id]);
  const [playback, setPlayback] = useState<Playback | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [count, setCount] = useState(0);

  useEffect(() => {
    const end = new AbortController();
    let screen: Screen | null = null;
    let made: Playback | null = null;
    const fit = () => {
      const box = place.current;
      if (!box || !screen) return;
      const [wide, high] = [(box.clientWidth - 24) / (screen.term.cols * ASPECT), (innerHeight - AROUND) / (screen.term.rows * LINE)];
      screen.term.options.fontSize = Math.max(4, Math.floor(Math.min(15, wide, Math.max(9, high))));
    };
    const watcher = new ResizeObserver(fit);
    const play = async () => {
      const { Screen } = await import("../terminal/screen");
      if (end.signal.aborted || !place.current) return;
      screen = new Screen({ label });
      screen.show(place.current);
      watcher.observe(place.current);
      made = new Playback(cast, screen, live, fit);
      setPlayback(made);
      const response = await send(`/web/api/v1/recordings/${part(id)}${live ? "?follow=1" : ""}`, { signal: end.signal });
      await read(response, (text) => {
        const first = cast.header === null;
        cast.feed(text);
        if (first && cast.header) {
          screen?.term.resize(cast.header.columns, cast.header.rows);
          fit();
        }
        made?.grown(false);
        setCount(cast.moments.length);
      });
      made.grown(true);
    };
    play().catch((found) => {
      if (!end.signal.aborted) setError(asError(found));
    });
    return () => {
      end.abort();
      watcher.disconnect();
      made?.stop();
      screen?.dispose();
    };
  }, [id, live]);

  return (
    <div class="player">
      <Trouble error={error} again={() => location.reload()} />
      <div class="glass" ref={place} />
      {playback && <Controls playback={playback} />}
      {playback && <Finder cast={cast} count={count} playback={playback} />}
    </div>
  );
}

async function read(response: Response, tell: (text: string) => void): Promise<void> {
  const reader = response.body?.getReader();
  const decoder = new TextDecoder();
  while (reader) {
    const { done, value } = await reader.read();
    if (done) break;
    tell(decoder.decode(value, { stream: true }));
  }
}

function Controls({ playback }: { playback: Playback }) {
  const now = useStore(playback.now);
  const [speed, setSpeed] = useState(1);
  const [skips, setSkips] = useState(playback.skipsPauses);
  return (
    <div class="controls" role="group" aria-label="Player">
      <Button kind="main" icon={now.playing ? "pause" : "play"} aria-label={now.playing ? "Pause" : "Play"} onClick={() => playback.toggle()} />
      <input
        type="range"
        min={0}
        max={Math.max(now.length, 0.001)}
        step="any"
        value={now.position}
        aria-label="Position"
        aria-valuetext={`${clock(now.position)} of ${clock(now.length)}`}
        onInput={(event) => playback.seek(Number(event.currentTarget.value))}
        onKeyDown={(event) => {
          const step = { ArrowLeft: -5, ArrowRight: 5 }[event.key];
          if (event.key === " ") playback.toggle();
          else if (step) playback.seek(now.position + step);
          else return;
          event.preventDefault();
        }}
      />
      <span class="clock">
        {clock(now.position)} / {clock(now.length)}
      </span>
      <label>
        <span class="hidden">Speed</span>
        <select
          value={speed}
          onChange={(event) => {
            const chosen = Number(event.currentTarget.value);
            setSpeed(chosen);
            playback.setSpeed(chosen);
          }}
        >
          {SPEEDS.map((one) => (
            <option key={one} value={one}>
              {one}×
            </option>
          ))}
        </select>
      </label>
      <Tick
        label="Skip pauses"
        on={skips}
        onTick={(on) => {
          setSkips(on);
          playback.skipPauses(on);
        }}
      />
      <Live playback={playback} />
    </div>
  );
}

function Live({ playback }: { playback: Playback }) {
  const now = useStore(playback.now);
  if (now.live) return <Badge tone="live">live</Badge>;
  return playback.isLive ? (
    <Button small onClick={() => playback.goLive()}>
      Go live
    </Button>
  ) : null;
}

function Finder({ cast, count, playback }: { cast: Cast; count: number; playback: Playback }) {
  const [text, setText] = useState("");
  const lines = useMemo(() => (text ? transcript(cast.moments) : []), [cast, count, text !== ""]);
  const hits = search(lines, text, MOST_HITS);
  const marks = cast.moments.flatMap((moment, index) => (moment.kind === "m" && moment.data ? [{ index, text: moment.data }] : []));
  const shown = text ? hits : marks;
  return (
    <section class="finder" aria-label="Search in the recording">
      <Search label="What was on the screen" value={text} onInput={setText} />
      {text && !hits.length && <p class="dim">Nothing of that was shown.</p>}
      <ul class="bare">
        {shown.map((line) => (
          <li key={line.index}>
            <button type="button" class="hit" onClick={() => playback.seekTo(line.index)}>
              <span>{clock(cast.moments[line.index]?.at ?? 0)}</span>
              <code>{line.text}</code>
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
