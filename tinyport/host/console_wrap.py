"""Text in columns of a terminal: how many it takes, and how it goes on in the next line."""

from __future__ import annotations

import os
import sys
from typing import IO


def width(text: str) -> int:
    """How many columns a terminal gives ``text``: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    import unicodedata

    columns = 0
    for char in text:
        if unicodedata.category(char) in ("Mn", "Me", "Cf"):
            continue
        columns += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return columns


def cut(text: str, columns: int) -> str:
    """``text`` in at most ``columns``, with an ellipsis when that is not all of it."""
    if width(text) <= columns:
        return text
    kept, room = "", max(columns, 1) - 1
    for char in text:
        room -= width(char)
        if room < 0:
            break
        kept += char
    return kept + "…"


def redraws(stream: IO[str]) -> bool:
    """Is it a terminal on which a program can move the cursor, and so draw the same lines anew?"""
    try:
        terminal = stream.isatty()
    except ValueError:
        return False
    return terminal and os.environ.get("TERM", "dumb") != "dumb"


def terminal_columns(stream: IO[str] | None = None) -> int | None:
    """How wide the terminal on ``stream`` (default: standard output) is; None when it is none, where lines are for
    programs.
    """
    stream = stream or sys.stdout
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else None
    except (OSError, ValueError):
        return None


def wrapped(text: str, columns: int) -> list[str]:
    """``text`` as lines of at most ``columns``, broken between words. A word that is longer stays whole: an id is there
    to be copied.
    """
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        if line and width(line) + 1 + width(word) > columns:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]
