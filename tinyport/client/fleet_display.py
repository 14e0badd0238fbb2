"""The live table of ``tsh run``: a few lines at the bottom of the terminal, drawn anew in place."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import IO

from tinyport.client.fleet_results import COLOURS, took
from tinyport.core.names import printable
from tinyport.host.console import paint
from tinyport.host.console_wrap import cut, redraws, width

# A person sees no more; each drawing is one write.
_PERIOD = 0.1
#: nodes that are shown at work; the others are counted
_MOST_SHOWN = 8
#: lines of the terminal that are left to the output above
_ABOVE = 4
_USUAL = os.terminal_size((80, 24))


class Display:
    """``running``, ``said``, ``ended`` as it happens; ``hide`` before anything else is printed, ``draw`` after it;
    ``close`` in the end.

    Silent where ``stream`` (default: standard error) is no terminal, or one that cannot move its cursor (TERM=dumb).
    ``clock`` gives seconds that only grow, ``size`` what the terminal measures now.
    """

    def __init__(
        self,
        total: int,
        *,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        size: Callable[[], os.terminal_size] | None = None,
    ) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._clock = clock
        self._size = size or self._measured
        self._shown = redraws(self._stream)
        self._working: dict[str, float] = {}
        self._last: dict[str, str] = {}
        self._counts = dict.fromkeys(COLOURS, 0)
        self._held: list[int] = []
        self._drawn = float("-inf")

    def running(self, name: str) -> None:
        self._working[name] = self._clock()
        self.draw()

    def said(self, name: str, data: bytes) -> None:
        """Output that goes where nobody sees it: its last line is shown beside the node."""
        if self._shown:
            line = data.replace(b"\r", b"\n").rstrip().rpartition(b"\n")[2][-400:]
            if line:
                self._last[name] = printable(line.decode("utf-8", "replace").expandtabs(), 300)
            self.draw()

    def put_off(self, name: str) -> None:
        """It was begun, and has to wait after all."""
        self._working.pop(name, None)
        self.draw()

    def ended(self, name: str, kind: str) -> None:
        """``kind``: ok, failed or away."""
        self._working.pop(name, None)
        self._last.pop(name, None)
        self._counts[kind] += 1
        self.draw()

    def rows(self, columns: int = _USUAL.columns, lines: int = _USUAL.lines) -> list[str]:
        """As it is now, without colours: one line of counts, and a line for each node at work. None takes more than one
        line of a terminal of this size, and all of them leave room for output."""
        working = sorted(self._working.items(), key=lambda item: item[1])
        shown = working[: max(0, min(_MOST_SHOWN, lines - _ABOVE))]
        now = self._clock()
        # A long name leaves room for the seconds.
        names = [cut(name, max(columns // 2, 12)) for name, _ in shown]
        wide = max(map(width, names), default=0)
        rows = [", ".join(text for text, _ in self._parts())]
        for name, (full, since) in zip(names, shown, strict=True):
            row = f"  {name}{' ' * (wide - width(name))}  {took(now - since, live=True):>6}  {self._last.get(full, '')}"
            rows.append(row.rstrip())
        if len(working) > len(shown) > 0:
            rows.append(f"  and {len(working) - len(shown)} more")
        # Some terminals go on to the next line with the last column.
        return [cut(row, columns - 1) for row in rows]

    def _parts(self) -> list[tuple[str, str]]:
        """Counts and their colours."""
        counts = self._counts
        done = sum(counts.values())
        parts = [(f"{done} of {self._total} done", "")]
        parts += [(f"{count} {kind}", COLOURS[kind]) for kind, count in counts.items() if count or kind == "ok"]
        waiting = self._total - done - len(self._working)
        return [*parts, (f"{waiting} waiting", "")] if waiting > 0 else parts

    def _painted(self, row: str) -> str:
        parts = self._parts()
        if row != ", ".join(text for text, _ in parts):
            return row
        return ", ".join(paint(text, colour, self._stream) if colour else text for text, colour in parts)

    def draw(self, *, now: bool = False) -> None:
        """``now``: even when it was drawn a moment ago."""
        if not self._shown or (not now and self._clock() - self._drawn < _PERIOD):
            return
        self._drawn = self._clock()
        size = self._size()
        rows = self.rows(size.columns, size.lines)
        shown = [self._painted(rows[0]), *rows[1:]]
        self._write(self._back() + "".join(f"{row}\x1b[K\n" for row in shown) + "\x1b[J")
        self._held = [width(row) for row in rows]

    def hide(self) -> None:
        """Take the lines away; they come back with the next drawing."""
        if self._held:
            self._write(self._back() + "\x1b[J")
            self._held = []
            self._drawn = float("-inf")

    def close(self) -> None:
        self.hide()
        self._shown = False

    def _back(self) -> str:
        # A terminal that was made narrower since has broken our lines into more.
        columns = max(self._size().columns, 1)
        up = sum(max(1, -(-columns_taken // columns)) for columns_taken in self._held)
        return f"\x1b[{up}A\r" if up else ""

    def _measured(self) -> os.terminal_size:
        try:
            found = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return _USUAL
        # A serial line says 0 by 0.
        return found if found.columns > 0 and found.lines > 0 else _USUAL

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._shown = False
