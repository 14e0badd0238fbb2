"""Rounds: A B C A B C, so that whatever else the machine does happens to all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def interleaved(rounds: int, runs: Mapping[str, Callable[[], T]], *, warm_up: int = 1) -> dict[str, list[T]]:
    """Run each of ``runs`` once a round; what they returned, by round. The first ``warm_up`` rounds do not count."""
    found: dict[str, list[T]] = {name: [] for name in runs}
    for turn in range(rounds + warm_up):
        for name, run in runs.items():
            value = run()
            if turn >= warm_up:
                found[name].append(value)
    return found


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, tuple[float, float]]:
    """Median of the rounds' ratios, and the least and greatest of them."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(ratios), (min(ratios), max(ratios))


def percentile(values: list[float], part: float) -> float:
    """The value below which ``part`` (0 to 1) of the values are: nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
