"""Who waits for signed documents, and what each has not been told yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

Message = Mapping[str, object]


class Watcher:
    """One reader. What it was not told yet is kept by subject, the newest only, so a slow reader costs at most one
    message for each node."""

    def __init__(self) -> None:
        self._waiting: dict[str, Message] = {}
        self._news = asyncio.Event()

    def tell(self, subject: str, message: Message) -> None:
        # Moved to the end: what is told last must have happened last.
        self._waiting.pop(subject, None)
        self._waiting[subject] = message
        self._news.set()

    def wake(self) -> None:
        self._news.set()

    async def next(self, timeout: float) -> Message | None:
        """The next message, or None when there was none for ``timeout`` seconds, or ``wake`` was called."""
        if not self._waiting:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), timeout)
            except asyncio.TimeoutError:
                return None
        if not self._waiting:
            return None
        return self._waiting.pop(next(iter(self._waiting)))


class Watchers:
    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    @contextmanager
    def watch(self) -> Iterator[Watcher]:
        watcher = Watcher()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def tell(self, subject: str, message: Message) -> None:
        """Never waits: called between a commit and the next transaction."""
        for watcher in self._watchers:
            watcher.tell(subject, message)

    def wake(self) -> None:
        """Have every ``next`` return, with nothing if there is nothing."""
        for watcher in self._watchers:
            watcher.wake()

    def __len__(self) -> int:
        return len(self._watchers)
