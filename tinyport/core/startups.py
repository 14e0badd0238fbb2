"""Who is signing in, and who goes when there is no room: shared fairly between sources. Pure: time is an argument.

OpenSSH's MaxStartups (sshd_config(5)) turns newcomers away, at random and then all of them, because a process that
has been forked is dear. Here the one who is furthest from signing in makes room instead, so a thousand who say nothing
keep nobody out: docs/decisions/0006-who-waits-longest-makes-room.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from tinyport.core.sources import source_of

Key = TypeVar("Key", bound=Hashable)


class _Starting:
    __slots__ = ("asks", "keyed", "served", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        #: wants one of the places
        self.asks = False
        #: when it got it
        self.served: float | None = None
        #: the key exchange is done: it has spent something of its own
        self.keyed = False


class Startups(Generic[Key]):
    """``most``: how many may be signing in, with those who wait; ``per_source``: of one source; ``places``: how many at
    once may be before the end of their key exchange, which is where they cost us the most and themselves nothing;
    ``patience``: seconds in such a place before another one's need counts more.

    Each ``enter`` is ended by one ``leave``. What is asked of the caller comes back as values: whom to turn away, whom
    to serve.
    """

    def __init__(self, most: int, per_source: int, places: int, patience: float) -> None:
        self._most = most
        self._per_source = per_source
        self._places = places
        self._patience = patience
        #: in the order of arrival
        self._all: OrderedDict[Key, _Starting] = OrderedDict()
        self._sources: dict[str, int] = {}
        self._taken = 0
        #: how many ask for a place and have none
        self._asking = 0

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, key: Key) -> bool:
        return key in self._all

    @property
    def waiting(self) -> bool:
        """Does anybody wait for a place?"""
        return self._asking > 0

    def enter(self, key: Key, source: str, now: float) -> Key | None:
        """One more. Returns whom to turn away for it (to be followed by that one's ``leave``), None when there is room.

        It is never the newcomer: who came last had no chance yet.
        """
        group = source_of(source)
        count = self._sources.get(group, 0)
        loser: Key | None = None
        if count >= self._per_source:
            loser = self._furthest(now, group)
        elif len(self._all) >= self._most:
            # The source that has the most; the newcomer's own counts with the newcomer. Among equals who is furthest
            # from signing in, wherever from.
            largest = max(self._sources.values())
            loser = self._furthest(now, group if count + 1 > largest else None, largest)
        self._all[key] = _Starting(group)
        self._sources[group] = count + 1
        return loser

    def _furthest(self, now: float, group: str | None, count: int = 0) -> Key:
        """The first to go, of one source or of those that have ``count``: who has been here longest without an
        exchange of keys, but for those who got their place just now; then those; then who exchanged keys.
        """
        best: tuple[bool, bool] | None = None
        found: Key | None = None
        for key, entry in self._all.items():
            if entry.source == group if group is not None else self._sources[entry.source] == count:
                rank = (entry.keyed, entry.served is not None and now - entry.served < self._patience)
                if best is None or rank < best:
                    best, found = rank, key
        assert found is not None
        return found

    def ask(self, key: Key) -> None:
        """It wants a place; ``serve`` says when."""
        entry = self._all.get(key)
        if entry is not None and not entry.asks:
            entry.asks = True
            self._asking += 1

    def serve(self, now: float) -> tuple[list[Key], list[Key]]:
        """Who gets a place now, and who has to give theirs up for it: (serve these, turn these away).

        Newest first: under a flood that is who has not given up, and who just came has waited for no other's sake.
        Each source in turn, so that one with many waits longer than one with a single connection.
        """
        chosen = self._order()
        free = max(0, self._places - self._taken)
        losers: list[Key] = []
        if len(chosen) > free:
            # Oldest places first; those younger than the patience stay.
            for key, entry in self._all.items():
                if free + len(losers) >= len(chosen):
                    break
                if entry.served is not None and not entry.keyed and now - entry.served >= self._patience:
                    losers.append(key)
        del chosen[free + len(losers) :]
        for key in chosen:
            self._all[key].served = now
            self._taken += 1
            self._asking -= 1
        return chosen, losers

    def _order(self) -> list[Key]:
        waiting: dict[str, list[Key]] = {}
        for key, entry in reversed(self._all.items()):
            if entry.asks and entry.served is None:
                waiting.setdefault(entry.source, []).append(key)
        queues = list(waiting.values())
        ordered: list[Key] = []
        turn = 0
        while len(ordered) < sum(map(len, queues)):
            ordered += [queue[turn] for queue in queues if len(queue) > turn]
            turn += 1
        return ordered

    def served_at(self, key: Key) -> float | None:
        """When it got its place; None when it has not, or is not here."""
        entry = self._all.get(key)
        return None if entry is None else entry.served

    def keyed(self, key: Key) -> None:
        """The key exchange is done: the place is free, the startup is not over."""
        entry = self._all.get(key)
        if entry is not None and not entry.keyed:
            entry.keyed = True
            if entry.served is not None:
                self._taken -= 1

    def leave(self, key: Key) -> None:
        """Signed in, or gone. Again is harmless."""
        entry = self._all.pop(key, None)
        if entry is None:
            return
        if entry.served is not None and not entry.keyed:
            self._taken -= 1
        if entry.asks and entry.served is None:
            self._asking -= 1
        self._sources[entry.source] -= 1
        if not self._sources[entry.source]:
            del self._sources[entry.source]
