"""Rows as columns that line up, on terminals of any width and with texts of any origin."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, NamedTuple

from tinyport.core.names import printable
from tinyport.host.console_wrap import terminal_columns, width, wrapped

#: columns that are worth breaking lines for
_LEAST_ROOM = 16
#: where columns begin that have no room beside the others
_BENEATH = 4


def table(
    rows: Iterable[Sequence[object]],
    headers: Sequence[str],
    *,
    paint_cell: Callable[[str, str], str] | None = None,
    stream: IO[str] | None = None,
) -> list[str]:
    """Rows as lines with columns that line up, under a line of headers. Cells are hostile text and are escaped.

    On a terminal (``stream``; default: standard output) that is too narrow, the last column goes on beneath itself, and
    what has no room at all beside the columns before it goes beneath them, in every row alike. ``paint_cell(header,
    text)`` may wrap a cell in colour; what it adds is not counted.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    terminal = terminal_columns(stream)
    columns: list[_Column] = []
    # By columns: a list of ten thousand nodes is made in half the time that it takes by lines.
    for place, header in enumerate(headers):
        texts = [header, *(row[place] for row in cells)]
        taken = [width(text) for text in texts]
        if paint_cell is not None and place < len(headers) - 1:
            texts[1:] = [paint_cell(header, text) for text in texts[1:]]
        columns.append(_Column(texts, taken, max(taken)))
    places = _places([column.widest for column in columns], terminal)
    last = columns.pop()
    room = None if terminal is None else terminal - places[-1][1]
    ends = _last_column(
        last.texts, places[-1][1], room, functools.partial(paint_cell, headers[-1]) if paint_cell else None
    )
    return [
        line for row in zip(_fixed(columns, places, len(last.texts)), ends, strict=True) for line in _row_lines(*row)
    ]


class _Column(NamedTuple):
    """``taken``: how wide each text is; ``widest``: the most of them."""

    texts: list[str]
    taken: list[int]
    widest: int


def _places(widths: Sequence[int], terminal: int | None) -> list[tuple[int, int]]:
    """Where each column begins: (line of its row, column of the terminal)."""
    places: list[tuple[int, int]] = []
    line = at = 0
    for number, taken in enumerate(widths):
        need = taken
        if number == len(widths) - 1:
            need = min(taken, max(_LEAST_ROOM, (terminal or 0) * 3 // 10))
        if terminal is not None and at + need > terminal and at > _BENEATH:
            line, at = line + 1, _BENEATH
        places.append((line, at))
        at += taken + 2
    return places


def _fixed(columns: Sequence[_Column], places: Sequence[tuple[int, int]], rows: int) -> Iterator[list[str]]:
    """All columns but the last: the lines of each row, the last of which goes up to where the last column begins."""
    lines: list[list[Sequence[str]]] = [[] for _ in range(places[-1][0] + 1)]
    for number, (texts, taken, widest) in enumerate(columns):
        line, at = places[number]
        before = "" if lines[line] else " " * at
        gap = widest + 2 if places[number + 1][0] == line else 0
        lines[line].append([f"{before}{text}{' ' * (gap - used)}" for text, used in zip(texts, taken, strict=True)])
    if not lines[-1]:
        lines[-1].append([" " * places[-1][1]] * rows)
    joined = [["".join(parts) for parts in zip(*group, strict=True)] for group in lines]
    return (list(row) for row in zip(*joined, strict=True))


def _last_column(texts: Sequence[str], at: int, room: int | None, paint: Callable[[str], str] | None) -> Iterator[str]:
    """Texts that begin at column ``at`` (the first is the header), each in as many lines as ``room`` makes of it."""
    for number, text in enumerate(texts):
        # Where nearly nothing is left, the terminal's own breaking is no worse.
        lines = [text] if room is None or room < _LEAST_ROOM else wrapped(text, room)
        if paint is not None and number:
            lines = [paint(line) for line in lines]
        yield ("\n" + " " * at).join(lines)


def _row_lines(lines: list[str], end: str) -> Iterator[str]:
    """A row's lines, the last of them with the last column; without those that would be empty."""
    *before, last = lines
    for number, line in enumerate((*before, *(last + end).split("\n"))):
        if not number or line.strip():
            yield line.rstrip()


def _cell(value: object) -> str:
    return "" if value is None else printable(str(value), 300)
