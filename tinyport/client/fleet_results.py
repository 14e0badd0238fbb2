"""What came of a command on each node, for people and for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from tinyport.core.durations import format_duration
from tinyport.host.console import paint
from tinyport.host.console_table import table

#: kinds of results
COLOURS = {"ok": "green", "failed": "red", "away": "yellow"}
# What went well comes first: what did not is above the prompt then, however many there are.
_ORDER = ("ok", "away", "failed")


@dataclass
class Result:
    """``kind``: ok, failed (it ran, or was refused) or away. ``code``: why it is not ok, in a word for programs:
    status, signal, timeout, interrupted, not_begun, lost, output, or the code of a refusal (offline, denied, ...).
    ``began``: the command was started there.
    """

    name: str
    uuid: str
    kind: str = "failed"
    text: str = ""
    code: str = ""
    status: int | None = None
    signal: str | None = None
    began: bool = False
    seconds: float = 0.0
    output: dict[str, object] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        well = self.kind == "ok"
        return {
            "node": self.name,
            "uuid": self.uuid,
            "result": self.kind,
            "status": self.status,
            "signal": self.signal,
            "code": None if well else self.code,
            "reason": None if well else self.text,
            "seconds": round(self.seconds, 3),
            **self.output,
        }


def counted(results: Sequence[Result]) -> dict[str, int]:
    """How many of each kind."""
    return {kind: sum(one.kind == kind for one in results) for kind in COLOURS}


def took(seconds: float, *, live: bool = False) -> str:
    """A duration, with tenths while it is short; ``live``: one that goes on, whose tenths nobody reads."""
    return format_duration(seconds) if live or seconds >= 10 else f"{seconds:.1f}s"


def summary(results: Sequence[Result]) -> list[str]:
    """A line for each node, and how many of each kind, for standard error."""
    rows = [
        (one.name, took(one.seconds) if one.seconds else "", _outcome(one))
        for one in sorted(results, key=lambda one: (_ORDER.index(one.kind), one.name))
    ]

    def painted(header: str, text: str) -> str:
        kind = text.partition(":")[0]
        return paint(text, COLOURS[kind], sys.stderr) if header == "RESULT" and kind in COLOURS else text

    counts = ", ".join(f"{count} {kind}" for kind, count in counted(results).items())
    return [*table(rows, ["NODE", "TIME", "RESULT"], paint_cell=painted, stream=sys.stderr), counts]


def _outcome(one: Result) -> str:
    return one.kind if one.text == one.kind else f"{one.kind}: {one.text}"
