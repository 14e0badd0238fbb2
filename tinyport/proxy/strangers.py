"""Connections that have not said who they are: how many there may be, and who goes when there are more.

Decides by ``core.startups``, as the node's own port does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tinyport.core.startups import Startups

# SSH connections before the end of their key exchange; we make some 300 of those a second, so this is a queue of a
# fifth of a second. The rest wait outside asyncssh and cost a socket each.
PLACES = 64
# A key exchange takes one round trip. Who needs longer keeps the place until somebody else wants it.
PATIENCE = 0.4


class Stranger:
    """One connection until it has proved who it is (``settle``), which its owner says at the end in any case."""

    __slots__ = ("_owner", "_turn_away", "placed")

    def __init__(self, owner: Strangers, turn_away: Callable[[], object]) -> None:
        self._owner = owner
        self._turn_away = turn_away
        self.placed = asyncio.Event()

    async def place(self) -> None:
        """Wait for one of the places in which keys are exchanged."""
        self._owner.startups.ask(self)
        self._owner.serve()
        await self.placed.wait()

    def keyed(self) -> None:
        """The key exchange is done."""
        self._owner.startups.keyed(self)
        self._owner.serve()

    def settle(self) -> None:
        """No stranger any more, or gone. Again is harmless."""
        self._owner.startups.leave(self)
        self._owner.serve()

    def turn_away(self) -> None:
        self._turn_away()


class Strangers:
    """How many connections have not said who they are, in all and from each source."""

    def __init__(self, limit: int, per_source: int) -> None:
        self.startups: Startups[Stranger] = Startups(limit, per_source, PLACES, PATIENCE)
        self.turned_away = 0
        self._timer: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self.startups)

    def enter(self, source: str, turn_away: Callable[[], object]) -> Stranger:
        """One more from ``source``. ``turn_away`` ends it, when another one needs its room more."""
        stranger = Stranger(self, turn_away)
        loser = self.startups.enter(stranger, source, asyncio.get_running_loop().time())
        if loser is not None:
            self._turn_away(loser)
        return stranger

    def _turn_away(self, loser: Stranger) -> None:
        self.turned_away += 1
        self.startups.leave(loser)
        loser.turn_away()

    def serve(self) -> None:
        """Give places to who waits for one: soon, and once for all that happens at the same time."""
        if self.startups.waiting and (self._timer is None or isinstance(self._timer, asyncio.TimerHandle)):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        chosen, losers = self.startups.serve(loop.time())
        for loser in losers:
            self._turn_away(loser)
        for stranger in chosen:
            stranger.placed.set()
        if self.startups.waiting:
            # Somebody's patience ends, and nothing else tells.
            self._timer = loop.call_later(PATIENCE / 4, self._serve)
