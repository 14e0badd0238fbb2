"""The tables in README and docs, made of ``bench/results/*.json``: a figure that is quoted is one in a file.

A block begins with ``<!-- bench: NAME -->`` and ends with ``<!-- end -->``. NAME is a suite (its whole table),
``targets`` (every figure that has one), ``headlines`` (the few for README), ``growth`` (the lines through the fleets)
or ``processes`` (memory of each process of a node). ``python -m bench.pages`` writes all blocks anew, ``--check`` says
whether they are as the files have it (exit status 1: they are not).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from bench.report import RESULTS, Row, figure

_ROOT = Path(__file__).parent.parent
PAGE = _ROOT / "docs" / "performance.md"
PAGES = (PAGE, _ROOT / "docs" / "scaling.md", _ROOT / "README.md")
_BLOCK = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

#: suite, figure, unit, peer → how README says it
HEADLINES = (
    ("cluster", "idle joined node, all its processes, private", "MB", "", "an idle node, all its processes"),
    ("memory", "each further open session", "MB private", "sshd", "each further session, on a connection of its own"),
    ("memory", "100 open sessions", "MB PSS", "sshd", "100 open sessions, all processes"),
    ("handshake", "handshake, curve25519, 16 at a time", "/s", "sshd", "full handshakes with certificates, one core"),
    ("bulk", "sftp get, aes128-gcm", "MB/s", "sshd", "sftp download, aes128-gcm"),
    ("bulk", "exec input, aes128-gcm", "MB/s", "sshd", "input of a command, aes128-gcm"),
    (
        "latency",
        "exec at 10 a second, a connection each, median",
        "ms",
        "sshd",
        "a command, from ssh's start to its exit",
    ),
    (
        "scale",
        "10,000 nodes, proxy and auth, each node",
        "kB private",
        "",
        "auth and proxy with 10,000 nodes, for each",
    ),
    ("scale", "10,000 nodes, idle, each on the wire", "MB a day", "", "traffic of an idle node"),
    ("scale", "10,000 nodes, proxy restarted, all back", "s", "", "10,000 nodes back after the proxy was restarted"),
)


def rows_of(document: dict[str, Any]) -> list[Row]:
    rows = []
    for stored in document["rows"]:
        values = {key: value for key, value in stored.items() if key != "verdict"}
        if values["spread"] is not None:
            values["spread"] = tuple(values["spread"])
        rows.append(Row(**values))
    return rows


def _read(name: str, results: Path) -> dict[str, Any] | None:
    source = results / f"{name}.json"
    return dict(json.loads(source.read_text())) if source.exists() else None


def _kind(document: dict[str, Any]) -> str:
    return "a quick run" if document["machine"]["options"].get("quick") else "a full run"


def block(document: dict[str, Any]) -> str:
    """One result file as Markdown: its conditions, and its table."""
    machine = document["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores, load {machine['load']} at the end"
    versions = f"Python {machine['python']}, asyncssh {machine['asyncssh']}, cryptography {machine['cryptography']}"
    kind = _kind(document)
    head = f"*{kind} at {machine['commit']}: {where}; {versions}; {machine['openssh']}; {machine['dropbear']}*"
    lines = [head, "", "| figure | unit | target | ours | peer | ratio | | |", "| --- " * 8 + "|"]
    for row in rows_of(document):
        cells = row.cells()
        cells[6] = _stressed(cells[6])
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def _stressed(verdict: str) -> str:
    return f"**{verdict}**" if verdict == "MISSED" else verdict


def targets(results: Path) -> str:
    """Every figure that has a target, those that are missed first."""
    found: list[tuple[str, Row]] = []
    for source in sorted(results.glob("*.json")):
        document = json.loads(source.read_text())
        if "rows" in document:
            found += [(source.stem, row) for row in rows_of(document) if row.target is not None]
    found.sort(key=lambda one: one[1].verdict == "met")
    missed = sum(row.verdict == "MISSED" for _, row in found)
    lines = [f"{len(found)} figures have a target; {missed} miss it.", ""]
    lines += ["| figure | unit | target | ours | peer | ratio | | suite |", "| --- " * 8 + "|"]
    for name, row in found:
        cells = row.cells()[:6]
        lines.append(_line([*cells, _stressed(row.verdict), f"[{name}](#{_section(name)})"]))
    return "\n".join(lines) + "\n"


def _section(name: str) -> str:
    """The anchor of the section of the page that has this suite's table."""
    before = PAGE.read_text().partition(f"<!-- bench: {name} -->")[0]
    titles: list[str] = re.findall(r"^## (.*)$", before, re.MULTILINE)
    return titles[-1].lower().replace(" ", "-") if titles else ""


def headlines(results: Path) -> str:
    lines = ["| | tinyport | beside it |", "| --- | --- | --- |"]
    for suite, what, unit, peer, text in HEADLINES:
        document = _read(suite, results)
        rows = [] if document is None else rows_of(document)
        row = next((one for one in rows if (one.what, one.unit, one.peer_name) == (what, unit, peer)), None)
        ours = "not measured yet" if row is None else f"{figure(row.ours)} {unit}"
        if row is not None and row.verdict == "MISSED":
            ours += ", **misses its target**"
        beside = "" if row is None or row.peer is None else f"{figure(row.peer)} {row.peer_name}"
        lines.append(_line([text, ours, beside]))
    return "\n".join(lines) + "\n"


def growth(results: Path) -> str:
    """The lines through the simulated fleets, and where they lead."""
    document = _read("scale", results)
    if document is None:
        return "Not measured yet: `python -m bench scale`.\n"
    ends = (10_000, 100_000, 1_000_000)
    lines = [_line(["what", "without nodes", *(f"{end:,} nodes" for end in ends)]), "| --- " * 5 + "|"]
    for what, (base, slope) in document["details"]["lines"].items():
        name, _, unit = what.rpartition(", ")
        values = [f"{figure(max(base + slope * end, 0.0))} {unit}" for end in (0, *ends)]
        lines.append(_line([name, *values]))
    return f"*{_kind(document)} at {document['machine']['commit']}*\n\n" + "\n".join(lines) + "\n"


def processes(results: Path) -> str:
    """Memory of each of a node's processes by open sessions."""
    document = _read("memory", results)
    if document is None:
        return "Not measured yet: `python -m bench memory`.\n"
    taken: dict[str, dict[str, Any]] = document["details"]["tinyport"]
    counts = list(taken)
    names = list(dict.fromkeys(name for one in taken.values() for name in one["processes"]))
    heads = {"0": "idle", "1": "1 session", "after": "idle again"}
    lines = [_line(["MB RSS, PSS, private", *(heads.get(count, f"{count} sessions") for count in counts)])]
    lines.append("| --- " * (len(counts) + 1) + "|")
    for name in names:
        cells = []
        for count in counts:
            found = taken[count]["processes"].get(name)
            many = "" if found is None or found["count"] == 1 else f"{found['count']} of them: "
            values = () if found is None else (found["rss"], found["pss"], found["private"])
            cells.append(many + ", ".join(f"{value:.1f}" for value in values))
        lines.append(_line([name, *cells]))
    return "\n".join(lines) + "\n"


def renewed(text: str, results: Path = RESULTS) -> str:
    """The page with its blocks made anew; a block without results says so."""

    def one(found: re.Match[str]) -> str:
        name = found[2]
        if name in _MADE_OF_ALL:
            return found[1] + _MADE_OF_ALL[name](results) + found[3]
        document = _read(name, results)
        if document is None:
            return f"{found[1]}Not measured yet: `python -m bench {name}`.\n{found[3]}"
        return found[1] + block(document) + found[3]

    return _BLOCK.sub(one, text)


_MADE_OF_ALL = {"targets": targets, "headlines": headlines, "growth": growth, "processes": processes}


def write() -> None:
    for page in PAGES:
        page.write_text(renewed(page.read_text()))


def stale() -> list[Path]:
    """Pages that do not say what the files say."""
    return [page for page in PAGES if renewed(text := page.read_text()) != text]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, say what is not current")
    if not parser.parse_args(words).check:
        write()
        return 0
    found = stale()
    for page in found:
        print(f'{page.relative_to(_ROOT)} is not current: run "python -m bench.pages"', file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
