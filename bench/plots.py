"""Which plots there are: from ``bench/results/*.json`` alone, so that they can be drawn again without measuring."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.fit import line
from bench.plot import FITTED, bars, lines
from bench.report import RESULTS

Details = dict[str, Any]


def _handshake(details: Details, folder: Path) -> None:
    cpu: dict[str, dict[str, float]] = {}
    rate: dict[str, dict[str, float]] = {}
    for key, found in details.items():
        # The cold start is a figure of another size.
        if isinstance(found, dict) and "tinyport" in found:
            cpu[key] = {name: statistics.median(one["cpu"] for one in loads) for name, loads in found.items()}
            rate[key] = {name: statistics.median(one["rate"] for one in loads) for name, loads in found.items()}
    bars(folder / "handshake-cpu.svg", "Full handshake, server CPU", "ms, less is better", cpu)
    bars(folder / "handshake-rate.svg", "Full handshakes, one core", "a second", rate)


def _bulk(details: Details, folder: Path) -> None:
    rates = {
        key.replace("@openssh.com", ""): {
            name: statistics.median(one["rate"] for one in all) for name, all in found.items()
        }
        for key, found in details.items()
    }
    bars(folder / "bulk.svg", "Bulk transfer, server on one core", "MB/s", rates)


def _memory(details: Details, folder: Path) -> None:
    series = {
        name: sorted((float(count), taken["total"]["pss"]) for count, taken in found.items() if count.isdigit())
        for name, found in details.items()
    }
    lines(folder / "memory.svg", "Memory of all processes by open sessions", "open sessions", "MB PSS", series)


def _certificate(details: Details, folder: Path) -> None:
    found = details["a second, one core"]
    # What the library does by itself is not ours.
    who = {name: "library" if name.startswith("raw") else "tinyport" for name in found}
    groups = {name: {who[name]: statistics.median(rates)} for name, rates in found.items()}
    bars(folder / "certificate.svg", "Certificate checks, one core", "a second", groups)


def _scale(details: Details, folder: Path) -> None:
    fleets = {float(size): one for size, one in details["fleets"].items()}
    if not fleets:
        return
    drawn: dict[str, tuple[str, str, dict[str, Callable[[Details], float]]]] = {
        "scale-memory": ("Auth and proxy together", "MB private", {"tinyport": lambda one: one["memory"]["private"]}),
        "scale-idle": ("Auth and proxy at rest", "% of a core", {"tinyport": lambda one: 100 * one["idle"]["cpu"]}),
        "scale-lists": (
            "Lists of all nodes, from start to end",
            "s",
            {
                "tsh ls": lambda one: statistics.median(one["listings"]["tsh ls"]),
                "tctl nodes ls": lambda one: statistics.median(one["listings"]["tctl nodes ls"]),
            },
        ),
        "scale-return": (
            "The proxy restarted: nodes are back",
            "s",
            {"the last": lambda one: one["restart"]["all back"], "half": lambda one: one["restart"]["median back"]},
        ),
    }
    for name, (title, unit, read) in drawn.items():
        series = {label: sorted((size, value(one)) for size, one in fleets.items()) for label, value in read.items()}
        most = max(fleets)
        for label, points in list(series.items()):
            base, slope = line(points)
            series[label + FITTED] = [(0.0, max(base, 0.0)), (most, base + slope * most)]
        lines(folder / f"{name}.svg", title, "nodes", unit, series)


_DRAWN = {"handshake": _handshake, "bulk": _bulk, "memory": _memory, "certificate": _certificate, "scale": _scale}


def draw(folder: Path = RESULTS) -> list[Path]:
    """Draw what there are results for."""
    for name, make in _DRAWN.items():
        source = folder / f"{name}.json"
        if source.exists():
            make(json.loads(source.read_text())["details"], folder)
    return sorted(folder.glob("*.svg"))
