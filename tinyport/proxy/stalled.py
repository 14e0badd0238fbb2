"""Sessions whose node is not there any more, and nobody said so: a router on its way forgot them, or the line is gone.

What was sent and is never confirmed tells. Not TCP_USER_TIMEOUT, as for tunnels: that also ends a connection whose
other end is well and takes nothing for a while, as a session does whose reader has paused.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from tinyport.proxy.stream import Stream

# Mobile networks have gaps of half a minute, which sessions outlive.
LIMIT = 60.0
LOOK_EVERY = 10.0


class Stalled:
    """Watches streams until they are closed, and ends those whose other end confirms nothing."""

    def __init__(self, ended: Callable[[Stream], None]) -> None:
        self._ended = ended
        #: stream → (bytes that were confirmed, the moment since which it has been no more)
        self._streams: dict[Stream, tuple[int, float] | None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._streams)

    def watch(self, stream: Stream, then: Callable[[socket.socket], None]) -> None:
        """``then``: what else is to be done when it is about to be closed."""

        def closing(sock: socket.socket) -> None:
            self._streams.pop(stream, None)
            then(sock)

        stream.on_close = closing
        self._streams[stream] = None
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._streams:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for stream, before in list(self._streams.items()):
            if stream.closed:
                # It was given away, socket and all.
                self._streams.pop(stream, None)
                continue
            confirmed = stream.unconfirmed
            if confirmed is None:
                self._streams[stream] = None
            elif before is None or before[0] != confirmed:
                self._streams[stream] = confirmed, now
            elif now - before[1] >= LIMIT:
                self._ended(stream)
                stream.abort()
        self._arm()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
