"""When did the last byte pass? A connection of the worker that the keeper limits says when it has been silent.

Bytes of channels count, in either direction; keepalives and new keys do not.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncssh

from tinyport.node.worker.keeper import KeeperLine


class WatchedConnection(asyncssh.SSHServerConnection):
    """``byte_passed`` for each piece of channel data; ``limit_idle`` with what the keeper says."""

    number: int
    _keeper: KeeperLine
    _last_byte = 0.0
    _idle_limit: float | None = None
    _idle_timer: asyncio.TimerHandle | None = None

    def byte_passed(self) -> None:
        if self._idle_limit is not None:
            self._last_byte = self._loop.time()

    def limit_idle(self, after: Any) -> None:
        """Seconds, or None for no limit."""
        self.stop_watching()
        if isinstance(after, (int, float)):
            self._idle_limit = float(after)
            self._last_byte = self._loop.time()
            self._look_again()

    def stop_watching(self) -> None:
        self._idle_limit = None
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _look_again(self) -> None:
        assert self._idle_limit is not None
        due = self._last_byte + self._idle_limit
        if self._loop.time() < due:
            self._idle_timer = self._loop.call_at(due, self._look_again)
            return
        self._idle_timer = None
        self._keeper.tell("quiet", conn=self.number, seconds=int(self._idle_limit))
