"""How a fleet comes back: each node in a slot of its own, and never so many at once that people wait behind them.

Slots are pure; who comes next through the gate is decided in ``core.turns``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tinyport.core.errors import PeerError, Unavailable
from tinyport.core.turns import Turns

# A tunnel costs some 1.5 ms from the TCP connection to its documents: two fifths of one core, the rest is people's.
SLOTS_PER_SECOND = 250.0
# A slot has a width, so that two proxies that gave the same ones do not make nodes meet.
SLOT_WIDTH = 2.0
# As many tunnels begin in a second at most. More than there are slots: nodes in their slots do not wait.
HANDSHAKES_PER_SECOND = 320.0
# So many may come together before that: a handful of nodes is no fleet.
BURST = 50.0
# As many wait as begin in this time. More are sent away at once: that costs both of us less than to wait.
LONGEST_TURN = 3.0


class Slots:
    """Slots for the way back after an outage, handed out one after the other."""

    def __init__(self, per_second: float = SLOTS_PER_SECOND) -> None:
        self._per_second = per_second
        self._given = 0

    def give(self, nodes: int) -> list[float]:
        """The next: [from, to] in seconds after the loss. ``nodes``: how many there are to be spread."""
        slot = self._given % max(nodes, 1)
        self._given += 1
        start = slot / self._per_second
        return [round(start, 3), round(start + SLOT_WIDTH, 3)]


class Gate:
    """Lets tunnels begin one after the other, at a certain rate at most, in the order of ``core.turns``.

    And at none that this machine cannot keep up: of those that wait, one begins in a turn of the event loop, so when
    handshakes fill it, the next begins when there is time again. Let in by the clock alone, they would all be under way
    at once on a slow server, and none would end in time.
    """

    def __init__(
        self, per_second: float = HANDSHAKES_PER_SECOND, burst: float = BURST, longest: float = LONGEST_TURN
    ) -> None:
        self._turns: Turns[asyncio.Future[None]] = Turns(per_second, burst, int(per_second * longest))
        self._gone: dict[asyncio.Future[None], Callable[[], bool]] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: how many were sent away
        self.turned_away = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._turns)

    async def turn(self, address: str, gone: Callable[[], bool]) -> None:
        """Wait for the turn of one who comes from ``address``. Unavailable when too many wait; PeerError when it was
        ``gone`` before its turn came. Who has had one tells by ``proved`` or ``failed`` what came of it.
        """
        loop = asyncio.get_running_loop()
        mine = loop.create_future()
        self._gone[mine] = gone
        loser = self._turns.enter(mine, address, loop.time())
        if loser is not None:
            self.turned_away += 1
            loser.set_exception(Unavailable("too many nodes come at once"))
        if self._timer is None:
            self._serve()
        try:
            await mine
        finally:
            del self._gone[mine]
            self._turns.leave(mine)
            if mine.done() and not mine.cancelled():
                # Sent away and turned away in one moment: else asyncio says that nobody looked.
                mine.exception()

    def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        chosen, left = self._turns.serve(loop.time(), lambda one: self._gone[one]())
        for one in left:
            one.set_exception(PeerError("left before its turn came"))
        if chosen is not None and not chosen.done():
            chosen.set_result(None)
        due = self._turns.due()
        if due is not None:
            # What is overdue happens in the next turn of the loop, not in this one.
            self._timer = loop.call_at(due, self._serve)

    def proved(self, address: str) -> None:
        """It was a node."""
        self._turns.proved(address, asyncio.get_running_loop().time())

    def failed(self, address: str) -> None:
        """It did not show that it is one."""
        self._turns.failed(address, asyncio.get_running_loop().time())
