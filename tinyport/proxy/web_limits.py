"""How often one source may try a password or an invitation. Pure; time is an argument."""

from __future__ import annotations

from collections import OrderedDict

from tinyport.core.errors import TinyportError

# A family of people behind one address may all mistype; a guesser gets 20 a minute, and auth locks the user out first.
BURST = 10.0
RATE = 1 / 3
SOURCES = 4096


class Tries:
    """A bucket of tries for each source; the longest unheard of is forgotten first."""

    def __init__(self, burst: float = BURST, rate: float = RATE, sources: int = SOURCES) -> None:
        self._burst = burst
        self._rate = rate
        self._sources = sources
        #: source → (tries, when that was counted)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, source: str, now: float) -> None:
        """Count a try. TinyportError ``slow_down`` when there were too many."""
        level, at = self._buckets.get(source, (0.0, now))
        level = max(0.0, level - (now - at) * self._rate)
        if level + 1 > self._burst:
            wait = max(1, round((level + 1 - self._burst) / self._rate))
            error = TinyportError("too many attempts", hint=f"try again in {wait} s", code="slow_down")
            error.extra["retry_after"] = wait
            raise error
        self._buckets[source] = (level + 1, now)
        self._buckets.move_to_end(source)
        while len(self._buckets) > self._sources:
            self._buckets.popitem(last=False)
