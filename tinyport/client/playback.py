"""Where one is in a recording: the tape of events, and the head that moves over it. No clock, no terminal."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from tinyport.core.asciicast import SHOWN, Header, parse_event, parse_header
from tinyport.core.errors import PeerError
from tinyport.core.terminal_text import Harmless

SLOWEST, FASTEST = 1 / 16, 64.0
# A recording of the largest size that makes sense, as text.
MAX_TAPE = 512 * 1024 * 1024
# What an event costs besides its text: many small ones are large, too.
EVENT_COST = 100


class Tape:
    """Events that are shown, each with its second; idle times longer than ``idle_limit`` seconds are cut to that.

    Fed line by line, from another thread while it is played: times and texts only ever get longer, times last.
    """

    def __init__(self, idle_limit: float | None = None) -> None:
        self.header: Header | None = None
        self.times: list[float] = []
        self.texts: list[str] = []
        self.ended = False
        self._idle_limit = idle_limit
        self._harmless = Harmless()
        self._last = 0.0
        self._size = 0
        self._now = 0.0

    def feed(self, line: bytes) -> None:
        """PeerError when it is no line of a recording."""
        if self.header is None:
            self.header = parse_header(line)
            return
        if self.header.version == 3 and line.startswith(b"#"):
            return
        event = parse_event(line)
        # Version 3 says how long after the event before; a time that goes back is no time.
        said = self._last + event.seconds if self.header.version == 3 else max(event.seconds, self._last)
        passed, self._last = said - self._last, said
        self._now += passed if self._idle_limit is None else min(passed, self._idle_limit)
        if event.kind != SHOWN:
            return
        text = self._harmless.feed(event.text)
        self._size += len(text) + EVENT_COST
        if self._size > MAX_TAPE:
            raise PeerError("the recording is too large to be played")
        if text:
            self.texts.append(text)
            self.times.append(self._now)

    @property
    def length(self) -> float:
        return self.times[-1] if self.times else 0.0


class Playback:
    """The head. ``now`` is any clock's seconds. ``live``: whatever comes is shown at once, until somebody goes back."""

    def __init__(self, tape: Tape, now: float, *, speed: float = 1.0, live: bool = False) -> None:
        self.tape = tape
        self.speed = speed
        self.paused = False
        self.live = live
        #: the next event
        self.index = 0
        self._at = 0.0
        self._since = now

    def position(self, now: float) -> float:
        """Seconds; it waits at the end of what there is."""
        if self.live:
            return self.tape.length
        if self.paused:
            return self._at
        return min(self._at + (now - self._since) * self.speed, self.tape.length)

    def _move(self, position: float, now: float) -> None:
        self._at, self._since = position, now

    def due(self, now: float) -> Sequence[str]:
        """What is to be shown now."""
        if self.paused:
            return ()
        # Once: the tape may grow meanwhile.
        end = len(self.tape.times) if self.live else bisect_right(self.tape.times, self.position(now) + 1e-9)
        found = self.tape.texts[self.index : end]
        self.index = max(self.index, end)
        if self.index >= len(self.tape.times) and not self.live:
            # Whatever comes next counts from here, not from when the tape ran out.
            self._move(self.position(now), now)
        return found

    def wait(self, now: float) -> float | None:
        """Seconds until something is due; None when that is not known."""
        if self.paused or self.index >= len(self.tape.times):
            return None
        return 0.0 if self.live else max(0.0, (self.tape.times[self.index] - self.position(now)) / self.speed)

    @property
    def at_end(self) -> bool:
        return self.tape.ended and self.index >= len(self.tape.times)

    def pause(self, now: float) -> None:
        """Or go on."""
        at = self.position(now)
        self.paused = not self.paused
        self.live = False
        self._move(at, now)

    def change_speed(self, factor: float, now: float) -> None:
        self._move(self.position(now), now)
        self.speed = min(max(self.speed * factor, SLOWEST), FASTEST)

    def skip(self, seconds: float, now: float) -> bool:
        """Go on or back; was it back, so that the screen is to be drawn anew up to ``index``?"""
        return self.go_to(self.position(now) + seconds, now)

    def go_to(self, position: float, now: float) -> bool:
        self.live = False
        position = min(max(position, 0.0), self.tape.length)
        self._move(position, now)
        index = bisect_right(self.tape.times, position)
        back = index < self.index
        self.index = min(self.index, index)
        if back:
            # From the beginning of that moment.
            self.index = 0
        return back

    def catch_up(self, now: float) -> Sequence[str]:
        """What stands before the head and was not shown, although paused."""
        end = bisect_right(self.tape.times, self.position(now) + 1e-9)
        found = self.tape.texts[self.index : end]
        self.index = max(self.index, end)
        return found

    def go_live(self, now: float) -> None:
        self.paused, self.live = False, True
        self._move(self.tape.length, now)
