/** A value that views follow. */

import { useEffect, useState } from "preact/hooks";

export class Store<T> {
  private readonly followers = new Set<() => void>();

  constructor(private held: T) {}

  get value(): T {
    return this.held;
  }

  set value(value: T) {
    if (Object.is(value, this.held)) return;
    this.held = value;
    for (const follower of [...this.followers]) follower();
  }

  follow(follower: () => void): () => void {
    this.followers.add(follower);
    return () => void this.followers.delete(follower);
  }
}

/** The store's value; the view is drawn again when it changes. */
export function useStore<T>(store: Store<T>): T {
  const [, draw] = useState(0);
  useEffect(() => {
    // It may have changed between the drawing and now.
    draw((n) => n + 1);
    return store.follow(() => draw((n) => n + 1));
  }, [store]);
  return store.value;
}
