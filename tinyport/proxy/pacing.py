"""How a fleet comes back: each node in a slot of its own, and never so many at once that people wait behind them.

Pure but for ``Gate.turn``, which sleeps; times are arguments.
"""

from __future__ import annotations

import asyncio
from collections import deque

from tinyport.core.errors import Unavailable

# A tunnel costs some 1.5 ms from the TCP connection to its documents: two fifths of one core, the rest is people's.
SLOTS_PER_SECOND = 250.0
# A slot has a width, so that two proxies that gave the same ones do not make nodes meet.
SLOT_WIDTH = 2.0
# As many tunnels begin in a second at most. More than there are slots: nodes in their slots do not wait.
HANDSHAKES_PER_SECOND = 320.0
# So many may come together before that: a handful of nodes is no fleet.
BURST = 50.0
# Who would wait longer is sent away at once, which costs both of us less than a connection that waits.
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
    """Lets tunnels begin one after the other, at a certain rate at most.

    And at none that this machine cannot keep up: of those that wait, one begins in a turn of the event loop, so when
    handshakes fill it, the next begins when there is time again. Let in by the clock alone, they would all be under way
    at once on a slow server, and none would end in time.
    """

    def __init__(self, per_second: float = HANDSHAKES_PER_SECOND, burst: float = BURST) -> None:
        self._step = 1 / per_second
        self._slack = burst / per_second
        #: when the next turn would be if nothing were to be spared
        self._next = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        #: when the first of these is let in
        self._due = 0.0
        #: how many were sent away
        self.turned_away = 0

    def wait(self, now: float) -> float:
        """Seconds until the caller's turn, by the rate. Unavailable when that is too far away."""
        self._next = max(self._next, now - self._slack)
        wait = self._next - now
        if wait > LONGEST_TURN or len(self._waiting) * self._step > LONGEST_TURN:
            self.turned_away += 1
            raise Unavailable("too many nodes come at once")
        self._next += self._step
        return max(wait, 0.0)

    async def turn(self) -> None:
        """Wait for the caller's turn. Unavailable when that is too far away."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        wait = self.wait(now)
        if not wait and not self._waiting:
            return
        mine = loop.create_future()
        self._waiting.append(mine)
        if len(self._waiting) == 1:
            self._due = now + wait
            loop.call_at(self._due, self._let_in)
        await mine

    def _let_in(self) -> None:
        while self._waiting:
            first = self._waiting.popleft()
            # One that gave up, or was made to, while it waited takes nobody's turn.
            if not first.done():
                first.set_result(None)
                break
        if self._waiting:
            # What is overdue happens in the next turn of the loop, not in this one.
            self._due += self._step
            asyncio.get_running_loop().call_at(self._due, self._let_in)
