"""The live table of ``tsh run``: a few lines at the bottom of the terminal, drawn anew in place."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import IO

from tinyport.core.names import printable
from tinyport.host.console import paint
from tinyport.host.console_wrap import width

# A person sees no more; each drawing is one write.
_PERIOD = 0.1
#: nodes that are shown at work; the others are counted
_MOST_SHOWN = 8


class Display:
    """``running``, ``ended`` as it happens; ``hide`` before anything else is printed; ``close`` in the end.

    Silent where ``stream`` (default: standard error) is no terminal. ``clock`` gives seconds that only grow.
    """

    def __init__(
        self, total: int, *, stream: IO[str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._clock = clock
        self._shown = self._stream.isatty()
        self._working: dict[str, float] = {}
        self._counts = {"ok": 0, "failed": 0, "away": 0}
        self._lines = 0
        self._drawn = float("-inf")

    def running(self, name: str) -> None:
        self._working[name] = self._clock()
        self.draw()

    def ended(self, name: str, kind: str) -> None:
        """``kind``: ok, failed or away."""
        self._working.pop(name, None)
        self._counts[kind] += 1
        self.draw(now=True)

    def rows(self) -> list[str]:
        """As it is now: one line of counts, and a line for each node at work."""
        counts = self._counts
        done = sum(counts.values())
        parts = [f"{done} of {self._total} done", paint(f"{counts['ok']} ok", "green", self._stream)]
        if counts["failed"]:
            parts.append(paint(f"{counts['failed']} failed", "red", self._stream))
        if counts["away"]:
            parts.append(paint(f"{counts['away']} away", "yellow", self._stream))
        lines = [", ".join(parts)]
        now = self._clock()
        working = sorted(self._working.items(), key=lambda item: item[1])
        shown = working[:_MOST_SHOWN]
        size = max((width(name) for name, _ in shown), default=0)
        lines += [f"  {name}{' ' * (size - width(name))}  {now - since:4.0f} s" for name, since in shown]
        if len(working) > len(shown):
            lines.append(f"  and {len(working) - len(shown)} more")
        return lines

    def draw(self, *, now: bool = False) -> None:
        if not self._shown or (not now and self._clock() - self._drawn < _PERIOD):
            return
        self._drawn = self._clock()
        columns = shutil.get_terminal_size().columns
        rows = self.rows()
        rows = [rows[0], *(printable(row, max(columns - 1, 20)) for row in rows[1:])]
        self._write(self._back() + "".join(f"{row}\x1b[K\n" for row in rows) + "\x1b[J")
        self._lines = len(rows)

    def hide(self) -> None:
        """Take the lines away; they come back with the next drawing."""
        if self._lines:
            self._write(self._back() + "\x1b[J")
            self._lines = 0
            self._drawn = float("-inf")

    def close(self) -> None:
        self.hide()
        self._shown = False

    def _back(self) -> str:
        return f"\x1b[{self._lines}A\r" if self._lines else ""

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._shown = False
