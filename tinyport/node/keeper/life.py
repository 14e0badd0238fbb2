"""When a keeper leaves: idle and with link's consent, or, once it has lost its monitor, with its last session."""

from __future__ import annotations

import time
from collections.abc import Callable

from tinyport.node.keeper.outbox import Outbox
from tinyport.node.keeper.redial import PAUSE
from tinyport.node.keeper.workers import Workers
from tinyport.node.loop import Loop, Timer

# Link notes events at once; one that is stuck is not waited for when there is nothing else to stay for.
NOTE_LIMIT = 5.0
# Workers need some milliseconds to go.
LOOK_AGAIN = 0.1


class Life:
    """``kept()``: are there connections or sessions? ``ask()`` asks link whether we may go.

    ``touched`` and ``rest`` tell what happens; ``drain`` is for ever. It ends with ``loop.stop``.
    """

    def __init__(
        self,
        loop: Loop,
        idle: float,
        *,
        kept: Callable[[], bool],
        ask: Callable[[], object],
        workers: Workers,
        outbox: Outbox,
    ) -> None:
        self._loop = loop
        self._idle = idle
        self._kept = kept
        self._ask = ask
        self._workers = workers
        self._outbox = outbox
        self._busy_since = time.monotonic()
        self._timer: Timer | None = None
        #: no more connections
        self.draining = False

    def touched(self) -> None:
        """Link had something to say."""
        self._busy_since = time.monotonic()

    def rest(self) -> None:
        """Somebody left: is that the end?"""
        self.touched()
        if self.draining:
            self._leave_when_drained()
        else:
            self._look_in(self._idle)

    def closed(self) -> None:
        """Link lets us go. It sends nothing after it, and whatever was sent before was heard before."""
        if not self._kept() and not self._workers.busy and self._outbox.empty:
            self._loop.stop()

    def drain(self) -> None:
        """Take nothing more; leave when the last session has ended and its events are told or kept."""
        self.draining = True
        self._leave_when_drained()

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.after(seconds, self._look)

    def _look(self) -> None:
        if self.draining or self._kept():
            # Whoever ends the last of them asks again.
            return
        left = self._idle - (time.monotonic() - self._busy_since)
        if self._workers.busy or left > 0 or not self._outbox.empty:
            self._look_in(max(left, 0.5))
            return
        self._ask()
        # Link may have something for us on its way, and then does not answer.
        self._look_in(max(self._idle, 1.0))

    def _leave_when_drained(self) -> None:
        if self._kept():
            return
        self._workers.leave_all()
        if self._workers.all or not self._told():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.after(LOOK_AGAIN, self._leave_when_drained)
        else:
            self._loop.stop()

    def _told(self) -> bool:
        """Has link every event, or a file that the next monitor finds? A monitor that has just come is waited for."""
        waited = time.monotonic() - self._outbox.newest
        return self._outbox.empty or waited > (2 * PAUSE if self._outbox.saved else NOTE_LIMIT)
