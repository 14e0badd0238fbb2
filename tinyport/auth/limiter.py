"""How often one source may fail, and how much one sender may have kept. Pure; time is an argument."""

from __future__ import annotations

from collections import OrderedDict

from tinyport.core.errors import TinyportError

# A burst for a fleet that was flashed with a wrong token behind one address, or behind our own proxy; then two a
# second.
BURST = 300.0
RATE = 2.0
# Some 200 bytes each. Whoever has more addresses than this is not stopped by a limit for each of them.
SOURCES = 4096
# A device that boots in circles costs a certificate and two audit events each time: ten at once, then one in five
# minutes.
BOOTS, BOOTS_RATE = 10.0, 1 / 300


class FailureLimiter:
    """A bucket of failures for each source address; the longest unheard of is forgotten first."""

    def __init__(self, burst: float = BURST, rate: float = RATE, sources: int = SOURCES) -> None:
        self._burst = burst
        self._rate = rate
        self._sources = sources
        #: source → (failures, when that was counted)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def _level(self, source: str, now: float) -> float:
        level, at = self._buckets.get(source, (0.0, now))
        return max(0.0, level - (now - at) * self._rate)

    def bearable(self, source: str, now: float) -> bool:
        """Has the source failed less than too often, counting what it did last?"""
        return self._level(source, now) <= self._burst

    def check(self, source: str, now: float) -> None:
        """TinyportError ``slow_down`` while the source has failed too often."""
        over = self._level(source, now) - self._burst + 1
        if over > 0:
            wait = max(1, round(over / self._rate))
            error = TinyportError("too many failed attempts", hint=f"try again in {wait} s", code="slow_down")
            error.extra["retry_after"] = wait
            raise error

    def failed(self, source: str, now: float) -> None:
        # Not far above the limit, or a source that is let through all the same would never come down again.
        self._buckets[source] = (min(self._level(source, now) + 1, self._burst + 1), now)
        self._buckets.move_to_end(source)
        while len(self._buckets) > self._sources:
            self._buckets.popitem(last=False)


class Pace:
    """How many bytes each sender may have written down: ``burst``, then ``rate`` a second."""

    def __init__(self, burst: float, rate: float, senders: int = 16 * SOURCES) -> None:
        self._burst = burst
        self._rate = rate
        self._senders = senders
        #: sender → (bytes, when that was counted)
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, sender: str, size: float, now: float) -> None:
        """TinyportError ``slow_down`` when it is too much."""
        level, at = self._levels.get(sender, (0.0, now))
        level = max(0.0, level - (now - at) * self._rate) + size
        if level > self._burst:
            wait = max(1, round((level - self._burst) / self._rate))
            error = TinyportError("too much at once", hint=f"try again in {wait} s", code="slow_down")
            error.extra["retry_after"] = wait
            raise error
        self._levels[sender] = (level, now)
        self._levels.move_to_end(sender)
        while len(self._levels) > self._senders:
            self._levels.popitem(last=False)
