"""Connections that have not said who they are: how many there may be, in all and from one source."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable

#: what a connection's owner calls once it has proved who it is
Settle = Callable[[], None]


class Strangers:
    """How many connections have not said who they are, in all and from each source."""

    def __init__(self, limit: int, per_source: int) -> None:
        self._limit = limit
        self._per_source = per_source
        self._sources: Counter[str] = Counter()
        self._count = 0
        self.turned_away = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, source: str) -> Settle | None:
        """One more from ``source``.

        What to call when it is no stranger any more (again is harmless), None when it is too many.
        """
        key = source_key(source)
        if self._count >= self._limit or self._sources[key] >= self._per_source:
            if not self._sources[key]:
                del self._sources[key]
            self.turned_away += 1
            return None
        self._count += 1
        self._sources[key] += 1
        inside = True

        def leave() -> None:
            nonlocal inside
            if inside:
                inside = False
                self._count -= 1
                self._sources[key] -= 1
                if not self._sources[key]:
                    del self._sources[key]

        return leave


def source_key(address: str) -> str:
    """What counts as one source: an IPv4 address, an IPv6 /64 (one host may use any address of its /64)."""
    if ":" not in address:
        return address
    packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    mapped = packed[:12] == bytes(10) + b"\xff\xff"
    return socket.inet_ntop(socket.AF_INET, packed[12:]) if mapped else packed[:8].hex()
