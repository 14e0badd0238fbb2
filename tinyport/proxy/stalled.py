"""Sessions whose node is not there any more, and nobody said so: a router on its way forgot them, or the line is gone.

What was sent and is never confirmed tells, and what its tunnel says meanwhile tells which of the two it is
(docs/decisions/0022-a-silent-session-is-judged-by-its-tunnel.md). Not TCP_USER_TIMEOUT, as for tunnels: that also ends
a connection whose other end is well and takes nothing for a while, as a session does whose reader has paused.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from tinyport.proxy.stream import Stream

# Nothing is heard of the node at all: mobile networks have gaps of half a minute, which sessions outlive.
LIMIT = 60.0
# The node is heard, this connection is not: no gap explains that.
LOST_LIMIT = 20.0
# As often has the kernel sent again what is not confirmed, while the node was heard before and after.
LOST_TRIES = 2
# Silent for so long, its node is asked by its tunnel whether it is there.
ASK_AFTER = 10.0
LOOK_EVERY = 5.0
# The kernel doubles its pauses up to two minutes, and a session would be back long after the link is. linux/tcp.h,
# since Linux 6.15.
LONGEST_PAUSE = 8.0
_TCP_RTO_MAX_MS = 44

LOST = "the node is there, the way of this connection is not: a router forgot it, or the address changed"
SILENT = "nothing is heard of the node"


class _Watched:
    __slots__ = ("confirmed", "node", "since", "tries")

    def __init__(self, node: str) -> None:
        self.node = node
        #: bytes that were confirmed when something was on its way; None: nothing is
        self.confirmed: int | None = None
        #: the moment since which it has been no more
        self.since = 0.0
        #: how often it had been sent again when the node was first heard in its silence
        self.tries: int | None = None


class Stalled:
    """Watches streams until they are closed, and ends those whose other end is gone."""

    def __init__(
        self, ended: Callable[[Stream, str], None], heard: Callable[[str], float], ask: Callable[[str], None]
    ) -> None:
        """``ended(stream, why)``; ``heard(node)``: when its tunnel last said anything, by the loop's clock;
        ``ask(node)`` has it say something.
        """
        self._ended = ended
        self._heard = heard
        self._ask = ask
        self._streams: dict[Stream, _Watched] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._streams)

    def watch(self, stream: Stream, node: str, then: Callable[[socket.socket], None]) -> None:
        """``then``: what else is to be done when it is about to be closed."""

        def closing(sock: socket.socket) -> None:
            self._streams.pop(stream, None)
            then(sock)

        stream.on_close = closing
        stream.set_option(_TCP_RTO_MAX_MS, int(LONGEST_PAUSE * 1000))
        self._streams[stream] = _Watched(node)
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._streams:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        asked = set()
        for stream, watched in list(self._streams.items()):
            if stream.closed:
                # It was given away, socket and all.
                self._streams.pop(stream, None)
                continue
            why = self._judge(stream, watched, now)
            if why is not None:
                self._ended(stream, why)
                stream.abort()
            elif watched.confirmed is not None and now - watched.since >= ASK_AFTER:
                asked.add(watched.node)
        for node in asked:
            self._ask(node)
        self._arm()

    def _judge(self, stream: Stream, watched: _Watched, now: float) -> str | None:
        """Why it is to be ended; None when it is not."""
        flight = stream.unconfirmed
        if flight is None:
            watched.confirmed = None
            return None
        confirmed, tries = flight
        if confirmed != watched.confirmed:
            watched.confirmed, watched.since, watched.tries = confirmed, now, None
            return None
        silent, heard = now - watched.since, self._heard(watched.node)
        if silent >= LIMIT:
            return SILENT
        # What was heard earlier may have been on its way when the link went.
        if heard < watched.since + ASK_AFTER:
            return None
        if watched.tries is None:
            watched.tries = tries
        fresh = now - heard <= 2 * LOOK_EVERY
        return LOST if fresh and silent >= LOST_LIMIT and tries >= watched.tries + LOST_TRIES else None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
