"""The tail of a terminal's output, by its place in the whole: what a browser that comes back has not seen. Pure."""

from __future__ import annotations

from collections import deque

# What a browser may leave unacknowledged before the node is made to wait: at 256 kB a terminal over a link of 20 ms
# still gets 12 MB/s, more than any page draws.
WINDOW = 256 * 1024
# What is kept though it was seen: a page that was reloaded has an empty screen.
KEPT = 128 * 1024


class Replay:
    """Bytes ``begins`` to ``ends`` of the output. At most WINDOW + KEPT and one piece are held."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self.begins = 0
        self.ends = 0
        self.acked = 0

    @property
    def full(self) -> bool:
        return self.ends - self.acked >= WINDOW

    def add(self, data: bytes) -> None:
        self._pieces.append(data)
        self.ends += len(data)
        self._forget()

    def acknowledge(self, place: int) -> None:
        """The browser has drawn everything before ``place``."""
        self.acked = max(self.acked, min(place, self.ends))
        self._forget()

    def since(self, place: int, limit: int) -> bytes:
        """Up to ``limit`` bytes from ``place``, which is not before ``begins``."""
        found = bytearray()
        at = self.begins
        for piece in self._pieces:
            if at + len(piece) > place:
                found += piece[max(0, place - at) :]
                if len(found) >= limit:
                    break
            at += len(piece)
        return bytes(found[:limit])

    def _forget(self) -> None:
        needed = min(self.acked, self.ends - KEPT)
        while self._pieces and self.begins + len(self._pieces[0]) <= needed:
            self.begins += len(self._pieces.popleft())
