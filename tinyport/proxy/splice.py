"""Joining two streams: what comes out of one goes into the other, both ways, until both have ended."""

from __future__ import annotations

import asyncio

from tinyport.proxy.stream import Stream

# Once one side has ended, the other has this long between any two bytes to end as well. SSH ends both at
# once.
HALF_CLOSED = 30.0

# After so many pieces without waiting for the network, others get a turn.
_TURNS = 4


class Splice:
    """Two streams joined.

    ``run`` ends when both have ended, one broke, nothing came for ``idle`` seconds, or ``cut`` was called.

    Owns both streams from the start of ``run`` and closes them. ``sent`` counts bytes from first to second,
    ``received`` back.
    """

    __slots__ = ("_ends", "_first", "_idle", "_last", "_loop", "_second", "_timer", "received", "sent")

    def __init__(self, first: Stream, second: Stream, *, idle: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._first = first
        self._second = second
        self._idle = idle
        self._last = self._loop.time()
        self._ends = 0
        self._timer: asyncio.TimerHandle | None = None
        self.sent = 0
        self.received = 0

    async def run(self) -> None:
        """Join them.

        Broken connections are an end like any other here: the ends learn it, nobody is told twice.
        """
        directions = (
            asyncio.ensure_future(self._pump(self._first, self._second, True)),
            asyncio.ensure_future(self._pump(self._second, self._first, False)),
        )
        self._watch()
        try:
            await asyncio.gather(*directions)
        except OSError:
            # One end is broken. The other still gets what was on its way, in order, and its goodbye.
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            await asyncio.gather(self._first.close(), self._second.close())
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for direction in directions:
                direction.cancel()
            self.cut()

    def cut(self) -> None:
        """End it now."""
        self._first.abort()
        self._second.abort()

    async def _pump(self, source: Stream, sink: Stream, forward: bool) -> None:
        turns = 0
        while data := await source.receive():
            await sink.send(data)
            self._last = self._loop.time()
            if forward:
                self.sent += len(data)
            else:
                self.received += len(data)
            turns += 1
            if turns == _TURNS:
                turns = 0
                await asyncio.sleep(0)
        self._last = self._loop.time()
        self._ends += 1
        self._watch()
        await sink.send_eof()

    def _watch(self) -> None:
        """Arm the timer for the silence that is allowed now, or cut when it is over."""
        allowed = HALF_CLOSED if self._ends else self._idle
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if allowed is None:
            return
        left = self._last + allowed - self._loop.time()
        if left <= 0:
            self.cut()
        else:
            self._timer = self._loop.call_later(left, self._watch)
