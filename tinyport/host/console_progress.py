"""A progress bar for long work, on a terminal alone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import IO

from tinyport.core.durations import format_duration
from tinyport.core.names import printable
from tinyport.host.console_wrap import redraws, width

#: A terminal needs no more; each update is a write call.
_PERIOD = 0.1


def format_size(count: float) -> str:
    """Bytes as three or four digits and a unit, as configuration has them (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 10000:
            return f"{count:.0f}{unit}" if unit == "B" or count >= 100 else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f}TB"


class Progress:
    """``label  42%  12MB  3.1MB/s  12s``, redrawn in place.

    ``update`` at will (it draws at most ten times a second), ``finish`` once. Silent when ``stream`` (default:
    standard error) is no terminal that can be drawn on. ``clock`` gives seconds that only grow.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = printable(label, 200)
        self._total = total
        self._stream = stream or sys.stderr
        self._clock = clock
        self._shown = redraws(self._stream)
        self._began = clock()
        self._drawn = float("-inf")
        self._done = 0

    def update(self, done: int) -> None:
        """``done`` bytes of ``total`` are done."""
        self._done = done
        now = self._clock()
        if self._shown and now - self._drawn >= _PERIOD:
            self._drawn = now
            self._write(f"\r{self.line(self._columns())}\x1b[K")

    def finish(self) -> None:
        """Draw the last state and end the line."""
        if self._shown:
            self._write(f"\r{self.line(self._columns())}\x1b[K\n")
            self._shown = False

    def line(self, columns: int) -> str:
        """The bar as it is now, at most ``columns`` wide."""
        passed = max(self._clock() - self._began, 1e-3)
        rate = self._done / passed
        share = 100 if self._total <= 0 else min(100, self._done * 100 // self._total)
        left = (self._total - self._done) / rate if 0 < self._done < self._total else passed
        tail = f" {share:3d}% {format_size(self._done):>7} {format_size(rate):>7}/s {format_duration(left):>7}"
        room = max(columns - len(tail) - 1, 8)
        label = self._label
        while width(label) > room:
            label = label[:-1]
        return label + " " * (room - width(label)) + tail

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._shown = False
