"""The tables in docs/performance.md, made of ``bench/results/*.json``: a figure in the docs is one in a file.

A block begins with ``<!-- bench: NAME -->`` and ends with ``<!-- end -->``. ``python -m bench.pages`` writes them anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench.report import RESULTS, Row

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
_BLOCK = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rows_of(document: dict[str, Any]) -> list[Row]:
    rows = []
    for stored in document["rows"]:
        values = {key: value for key, value in stored.items() if key != "verdict"}
        if values["spread"] is not None:
            values["spread"] = tuple(values["spread"])
        rows.append(Row(**values))
    return rows


def block(document: dict[str, Any]) -> str:
    """One result file as Markdown: its conditions, and its table."""
    machine = document["machine"]
    kind = "a quick run" if machine["options"].get("quick") else "a full run"
    where = f"{machine['processor']}, {machine['cores']} cores, load {machine['load']} at the end"
    versions = f"Python {machine['python']}, asyncssh {machine['asyncssh']}, cryptography {machine['cryptography']}"
    head = f"*{kind} at {machine['commit']}: {where}; {versions}; {machine['openssh']}; {machine['dropbear']}*"
    lines = [head, "", "| figure | unit | target | ours | peer | ratio | | |", "| --- " * 8 + "|"]
    for row in rows_of(document):
        cells = row.cells()
        cells[6] = f"**{cells[6]}**" if cells[6] == "MISSED" else cells[6]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def renewed(text: str, results: Path = RESULTS) -> str:
    """The page with its blocks made anew; a block without results says so."""

    def one(found: re.Match[str]) -> str:
        source = results / f"{found[2]}.json"
        if not source.exists():
            return f"{found[1]}Not measured yet: `python -m bench {found[2]}`.\n{found[3]}"
        return found[1] + block(json.loads(source.read_text())) + found[3]

    return _BLOCK.sub(one, text)


def write() -> None:
    PAGE.write_text(renewed(PAGE.read_text()))


if __name__ == "__main__":
    write()
