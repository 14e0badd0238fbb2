/** An answer of the API that a view shows, and asks for again while it is looked at. */

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { type ApiError, ask, asError } from "../api";

export interface Asked<T> {
  answer: T | null;
  error: ApiError | null;
  /** ask again, now */
  reload: () => Promise<void>;
}

// An answer that takes long (ten thousand nodes, a link in the field) is asked for less often: a twentieth of the time.
const SHARE = 20;

/** `every`: milliseconds between questions at least; null asks once. The last answer stays while a later one fails. */
export function useAsked<T>(path: string | null, every: number | null = null): Asked<T> {
  const [answer, setAnswer] = useState<T | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const latest = useRef(0);
  const question = useCallback(
    async (background: boolean) => {
      if (path === null) return;
      const number = (latest.current += 1);
      try {
        const found = await ask<T>(path, { background });
        if (number !== latest.current) return;
        setAnswer(found);
        setError(null);
      } catch (found) {
        if (number === latest.current) setError(asError(found));
      }
    },
    [path],
  );
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let here = true;
    const round = async (background: boolean) => {
      const began = performance.now();
      if (!background || !document.hidden) await question(background);
      const took = performance.now() - began;
      if (here && every !== null) timer = setTimeout(() => void round(true), Math.max(every, SHARE * took));
    };
    void round(false);
    return () => {
      here = false;
      clearTimeout(timer);
      latest.current += 1;
    };
  }, [question, every]);
  return { answer, error, reload: useCallback(() => question(false), [question]) };
}
