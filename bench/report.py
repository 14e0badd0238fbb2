"""Rows with targets, the table of them, and the JSON beside it. A target that is missed is shown as missed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
AT_MOST, AT_LEAST = "at most", "at least"


@dataclass(frozen=True)
class Row:
    """One figure.

    ``ours`` and ``peer`` are medians in ``unit``; ``ratio`` is the median of the rounds' ratios ours/peer, ``spread``
    their least and greatest. ``compared`` says which number the target is about. None: there is none (a peer that
    cannot do it says so in ``note``).
    """

    what: str
    unit: str
    ours: float | None
    peer_name: str = ""
    peer: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    target: float | None = None
    bound: str = AT_MOST
    compared: str = "ours"
    note: str = ""

    @property
    def verdict(self) -> str:
        value = self.ratio if self.compared == "ratio" else self.ours
        if value is None:
            return "not here"
        if self.target is None:
            return ""
        met = value <= self.target if self.bound == AT_MOST else value >= self.target
        return "met" if met else "MISSED"

    def cells(self) -> list[str]:
        target = "" if self.target is None else f"{'≤' if self.bound == AT_MOST else '≥'} {self.target:g}"
        if target and self.compared == "ratio":
            target += " ×"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        if self.spread is not None:
            ratio += f" ({self.spread[0]:.2f}-{self.spread[1]:.2f})"
        peer = "" if self.peer is None else f"{figure(self.peer)} {self.peer_name}"
        return [self.what, self.unit, target, figure(self.ours), peer, ratio, self.verdict, self.note]


HEADINGS = ["figure", "unit", "target", "ours", "peer", "ratio", "", "note"]


def figure(value: float | None) -> str:
    """A number with as many digits as one reads."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )


@dataclass
class Suite:
    """What one group of benchmarks found: rows for the table, ``details`` for the JSON and the plots."""

    name: str
    rows: list[Row] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def save(self, machine: dict[str, Any], folder: Path = RESULTS) -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / f"{self.name}.json"
        rows = [{**asdict(row), "verdict": row.verdict} for row in self.rows]
        document = {"machine": machine, "rows": rows, "details": self.details}
        path.write_text(json.dumps(document, indent=1) + "\n")
        return path
