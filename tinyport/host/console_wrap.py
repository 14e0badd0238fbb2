"""Text in columns of a terminal: how many it takes, and how it goes on in the next line."""

from __future__ import annotations

import os
import sys


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


def terminal_columns() -> int | None:
    """How wide the terminal on standard output is; None when it is none, where lines are for programs."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None
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
