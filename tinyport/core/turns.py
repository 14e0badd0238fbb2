"""Whose turn it is, where many want the same thing at a certain rate: fair between networks and, in each, between
addresses. Pure: time is an argument.

Whoever had a turn longest ago comes first, and who never had one before all others. So one who comes a thousand times
a second waits behind everybody who does not, and costs each of them one turn at most. A turn that came to nothing
counts as one in the future: who has nothing to show waits until nobody else does.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from tinyport.core.sources import network_of, source_of

Key = TypeVar("Key", bound=Hashable)

#: seconds by which a turn that came to nothing puts its source and network back, and all of these together
FAILURE, WORST = 5.0, 60.0
# Some 150 bytes each. Who is forgotten is taken for one who never had a turn.
REMEMBERED = 32768


# A crowd of one more counts more than any moment: those are seconds since some boot.
_ONE_MORE = 1e9


class _Had:
    """When each of many had their last turn."""

    def __init__(self) -> None:
        #: in the order in which they were last heard of
        self._at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._at)

    def get(self, who: str) -> float:
        return self._at.get(who, 0.0)

    def set(self, who: str, at: float) -> None:
        self._at[who] = at
        self._at.move_to_end(who)
        while len(self._at) > REMEMBERED:
            self._at.popitem(last=False)


class _Waiting:
    """How many wait of each network, or of each source in one. Under a flood it is asked for each who comes, so both
    orders are kept as numbers that ``min`` and ``max`` compare by themselves.
    """

    def __init__(self, had: _Had) -> None:
        self._had = had
        self._counts: dict[str, int] = {}
        #: when the last turn was
        self._order: dict[str, float] = {}
        self._rank: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, who: str, count: int) -> None:
        """So many more of them; fewer, when it is negative."""
        now = self._counts.get(who, 0) + count
        if now:
            self._counts[who] = now
            self.moved(who)
        else:
            del self._counts[who], self._order[who], self._rank[who]

    def moved(self, who: str) -> None:
        """Their last turn is another one than it was."""
        if who in self._counts:
            self._order[who] = self._had.get(who)
            self._rank[who] = self._counts[who] * _ONE_MORE + self._order[who]

    def first(self) -> str:
        """Whose turn is longest ago."""
        return min(self._order, key=self._order.__getitem__)

    def crowd(self) -> str:
        """Of whom the most wait; among equals, whose turn is furthest away, then who came last."""
        return max(reversed(self._rank), key=self._rank.__getitem__)


class Turns(Generic[Key]):
    """``per_second``: how many turns there are; ``burst``: so many at once, after a time without any; ``most``: who may
    wait.

    Each ``enter`` ends when ``serve`` returns its key, when it is sent away by another ``enter``, or by ``leave``.
    """

    def __init__(self, per_second: float, burst: float, most: int) -> None:
        self._step = 1 / per_second
        self._slack = burst / per_second
        self._most = most
        self._where: dict[Key, tuple[str, str]] = {}
        #: source → who waits there, in the order of arrival
        self._queues: dict[str, deque[Key]] = {}
        self._networks_had, self._sources_had = _Had(), _Had()
        self._networks = _Waiting(self._networks_had)
        #: network → its sources
        self._sources: dict[str, _Waiting] = {}
        #: when the next turn is
        self._next = 0.0

    def __len__(self) -> int:
        return len(self._where)

    def enter(self, key: Key, address: str, now: float) -> Key | None:
        """One more, from ``address``. Returns whom to send away because too many wait, which may be ``key`` and is the
        last of where the most come from; None when there is room."""
        if not self._where:
            self._next = max(self._next, now - self._slack)
        network, source = network_of(address), source_of(address)
        self._where[key] = network, source
        self._queues.setdefault(source, deque()).append(key)
        self._networks.add(network, 1)
        self._sources.setdefault(network, _Waiting(self._sources_had)).add(source, 1)
        if len(self._where) <= self._most:
            return None
        last = self._queues[self._sources[self._networks.crowd()].crowd()][-1]
        self.leave(last)
        return last

    def due(self) -> float | None:
        """When the next turn is; None when nobody waits."""
        return self._next if self._where else None

    def serve(self, now: float, gone: Callable[[Key], bool] = lambda key: False) -> tuple[Key | None, list[Key]]:
        """Whose turn is now, and those who were before it and are ``gone``, which takes nobody's turn. Nobody's, when
        nobody waits or it is not time yet."""
        left: list[Key] = []
        while self._where and self._next <= now:
            network = self._networks.first()
            source = self._sources[network].first()
            key = self._queues[source][0]
            self.leave(key)
            if gone(key):
                left.append(key)
                continue
            self._moved(network, source, lambda at: max(at, now))
            self._next += self._step
            return key, left
        return None, left

    def leave(self, key: Key) -> None:
        """It does not wait any more. Again is harmless."""
        found = self._where.pop(key, None)
        if found is None:
            return
        network, source = found
        queue = self._queues[source]
        if queue[-1] == key:
            queue.pop()
        else:
            queue.remove(key)
        if not queue:
            del self._queues[source]
        self._networks.add(network, -1)
        self._sources[network].add(source, -1)
        if not self._sources[network]:
            del self._sources[network]

    def proved(self, address: str, now: float) -> None:
        """Somebody there was entitled to a turn: what others failed to show is not held against them."""
        self._moved(network_of(address), source_of(address), lambda at: min(at, now))

    def failed(self, address: str, now: float) -> None:
        """A turn came to nothing."""
        later = now + WORST
        self._moved(network_of(address), source_of(address), lambda at: min(max(at, now) + FAILURE, later))

    def _moved(self, network: str, source: str, change: Callable[[float], float]) -> None:
        self._networks_had.set(network, change(self._networks_had.get(network)))
        self._sources_had.set(source, change(self._sources_had.get(source)))
        self._networks.moved(network)
        if network in self._sources:
            self._sources[network].moved(source)
