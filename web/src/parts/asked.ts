/** An answer of the API that a view shows, and asks for again while it is looked at. */

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { type ApiError, ask, asError } from "../api";

export interface Asked<T> {
  answer: T | null;
  error: ApiError | null;
  /** ask again, now */
  reload: () => Promise<void>;
}

/** `every`: milliseconds between questions; null asks once. The last answer stays while a later question fails. */
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
    void question(false);
    if (every === null) return () => void (latest.current += 1);
    const timer = setInterval(() => {
      if (!document.hidden) void question(true);
    }, every);
    return () => {
      clearInterval(timer);
      latest.current += 1;
    };
  }, [question, every]);
  return { answer, error, reload: useCallback(() => question(false), [question]) };
}
