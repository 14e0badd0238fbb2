"""Closing a TCP connection so that the other end reads our last words.

A socket that is closed with unread input sends RST, and RST throws away at the client what it has not read yet: the
reason why its session was ended. So: no more output, swallow what comes, close when the client has closed.
"""

from __future__ import annotations

import socket

from tinyport.node.loop import READ, Loop

LIMIT = 2.0
# More than that, and it is no polite client.
MAX_SWALLOWED = 1024 * 1024
_PIECE = 64 * 1024


class Lingering:
    """Owns ``stream`` until the client closes, for LIMIT seconds at most."""

    def __init__(self, loop: Loop, stream: socket.socket) -> None:
        self._loop = loop
        self._stream = stream
        self._left = MAX_SWALLOWED
        stream.setblocking(False)
        try:
            stream.shutdown(socket.SHUT_WR)
        except OSError:
            # The client has closed already.
            stream.close()
            return
        loop.add(stream.fileno(), READ, self._ready)
        loop.after(LIMIT, self._close)

    def _ready(self, events: int) -> None:
        del events
        try:
            data = self._stream.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._left -= len(data)
        if not data or self._left < 0:
            self._close()

    def _close(self) -> None:
        if self._stream.fileno() >= 0:
            self._loop.remove(self._stream.fileno())
            self._stream.close()
