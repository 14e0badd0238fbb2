"""Closing what others have had in their hands: without waiting for them, and so that a client reads our last words.

A socket that is closed with unread input sends RST, and RST throws away at the client what it has not read yet: the
reason why its session was ended. So: no more output, swallow what comes, close when the client has closed.
"""

from __future__ import annotations

import os
import socket
import struct

from tinyport.node.loop import READ, Loop

LIMIT = 2.0
# More than that, and it is no polite client.
MAX_SWALLOWED = 1024 * 1024
_PIECE = 64 * 1024
_NO_LINGER = struct.pack("ii", 0, 0)


def let_go(stream: socket.socket) -> None:
    """Close a socket that a worker has a duplicate of.

    SO_LINGER belongs to the connection: a worker could set it, close its own, and leave us to wait in ``close`` for a
    client that never reads. (Its filter of system calls forbids it, where there is one.)
    """
    try:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    except OSError:
        # Nothing that lingers.
        pass
    stream.close()


def discard(descriptor: int) -> None:
    """Close a descriptor that somebody sent us, whatever it is."""
    try:
        stream = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
    else:
        let_go(stream)


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
            let_go(stream)
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
            let_go(self._stream)
