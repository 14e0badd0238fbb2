"""Where in a TOML file a setting stands, for messages about it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"\s*((?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*'))*)\s*=")
#: where a problem goes that is nowhere in the file
_LAST = 1_000_000_000
# What "file: " is followed by: the setting, and then what is wrong with it.
_PLACE = re.compile(r"(.+?)(?:: | is )")


def line_of(text: str, place: str) -> int | None:
    """The line (from 1) on which the setting ``place`` ("node.labels.site", "auth.static_tokens[1].value") stands, or
    the closest one around it: all of a table may be on one line. None when nothing of it is there.
    """
    nearest, found = 0, None
    section, tables = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            section = here = _plain(header[2])
            if header[1] == "[[":
                tables[section] = tables.get(section, -1) + 1
                section = here = f"{section}[{tables[section]}]"
        elif key := _KEY.match(line):
            here = f"{section}.{_plain(key[1])}".lstrip(".")
        else:
            continue
        if len(here) > nearest and (place == here or place.startswith((f"{here}.", f"{here}["))):
            nearest, found = len(here), number
    return found


def _plain(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))


def with_lines(problems: Iterable[str], source: str, text: str) -> list[str]:
    """Problems as ``parse_config`` tells them of the file ``source``, with the line after its name, in that order."""
    told = []
    for problem in problems:
        rest = problem.removeprefix(f"{source}: ")
        place = _PLACE.match(rest) if rest != problem else None
        line = line_of(text, place[1]) if place is not None else None
        told.append((_LAST, problem) if line is None else (line, f"{source}:{line}: {rest}"))
    return [said for _, said in sorted(told, key=lambda one: one[0])]
