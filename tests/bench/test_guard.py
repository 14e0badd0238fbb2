"""The guard fails when something has grown, and only then."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bench import guard
from bench.servers import Node

FIGURES = json.loads(guard.BASELINE.read_text())["figures"]


@pytest.fixture(autouse=True)
def _bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


def _runs(*measured: dict[str, float]) -> Callable[[], dict[str, float]]:
    """What ``measure`` finds, one after the other; the last again and again."""
    left = list(measured)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def _grown(name: str, by: float) -> dict[str, float]:
    # Sessions are allowed one arena of the allocator besides the tenth.
    slack = guard.limit(name, 1.0) - guard.GROWTH
    return {**FIGURES, name: FIGURES[name] * by + slack}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_that_is_a_tenth_over_each_time_fails(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard, "measure", _runs(_grown(name, 1.11)))
    assert guard.main([]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "MORE THAN A TENTH OVER" in line] == [
        line for line in said if f": {name}:" in line
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_less_than_a_tenth_or_over_only_once_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "measure", _runs(_grown(name, 1.09)))
    assert guard.main([]) == 0
    # Another program took the processor: it does not do so every time.
    monkeypatch.setattr(guard, "measure", _runs(_grown(name, 3.0), FIGURES))
    assert guard.main([]) == 0


def test_there_is_a_baseline_for_everything_that_is_measured() -> None:
    assert set(FIGURES) == set(guard.FIGURES)


@pytest.mark.slow
def test_a_planted_growth_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A node that starts a worker for each connection: CPU for each handshake, and memory for each session."""
    monkeypatch.setattr(guard, "Node", partial(Node, connections_per_worker=1))
    for name, few in (("ATTEMPTS", 1), ("WARM_UP", 1), ("HANDSHAKES", 8), ("FIRST_SESSIONS", 1), ("MORE_SESSIONS", 3)):
        monkeypatch.setattr(guard, name, few)
    assert guard.main([]) == 1
    found = {line.split(":")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "baseline " in line}
    assert "OVER" in found[guard.HANDSHAKE]
    assert "OVER" in found[guard.SESSION]
    assert found[guard.IDLE].endswith("ok")


def test_what_is_accepted_becomes_the_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "guard.json"
    monkeypatch.setattr(guard, "BASELINE", path)
    monkeypatch.setattr(guard, "measure", _runs(_grown(guard.IDLE, 2.0)))
    assert guard.main(["--accept"]) == 0
    assert guard.main([]) == 0
    assert json.loads(path.read_text())["figures"][guard.IDLE] == pytest.approx(2 * FIGURES[guard.IDLE], abs=0.001)
