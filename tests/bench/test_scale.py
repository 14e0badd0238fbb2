"""Simulated fleets: they speak to a real proxy as nodes do, and what is measured of them is true."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from bench import fleet_made, pages, plots, processes
from bench.fit import line
from bench.report import Suite
from bench.scale import LARGEST, _room, rows
from bench.simulated_nodes import simulated
from tests.scenarios.cluster import Cluster, wait_for
from tinyport.core.names import parse_address

NODES = 12


def test_a_simulated_fleet_is_online_beats_and_returns(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    file = tmp_path / "fleet.json"

    def online() -> int:
        return int(cluster.tctl_json("status")["nodes"]["online"])

    try:
        cluster.start()
        cluster.stop()
        fleet_made.make(cluster.data, file, 0, NODES)
        cluster.start()
        assert file.stat().st_mode & 0o077 == 0
        with simulated(file, NODES, parse_address(cluster.ready["proxy"], 443)) as simulation:
            simulation.connect(0.1)
            wait_for("the fleet", lambda: simulation.say().up == NODES)
            # With the cluster's own node.
            wait_for("auth to know", lambda: online() == NODES + 1)
            listed = cluster.tctl_json("nodes", "ls", "site=site7")["nodes"]
            assert [node["name"] for node in listed] == ["shelf-7"]
            assert listed[0]["peer"].startswith("127.64.")
            simulation.mark()
            assert simulation.say().returned == []
            os.kill(cluster.ready["pids"]["proxy"], signal.SIGKILL)
            # Those that were up before they noticed are counted when they are up again.
            said = wait_for("all to be back", lambda: (found := simulation.say()).returned[NODES - 1 :] and found)
            assert said.up == NODES
            assert sum(said.refused.values()) == sum(said.closed.values()) == NODES
            assert said.wire > 0
    finally:
        cluster.stop()


def _found(size: int) -> dict[str, object]:
    """Made-up figures of a fleet, each in proportion to its size."""
    return {
        "kB a node": 40.0,
        "memory": {"private": 70 + size * 0.04},
        "idle": {"cpu": size / 1e6, "written a minute": 1024.0, "wire a day": 3e5},
        "listings": {"tsh ls": [size / 1e5], "tctl nodes ls": [size / 1e5]},
        "restart": {
            "all back": 5 + size / 200,
            "median back": size / 400,
            "refused": {"0": size - 3, "2": 3},
            "p99": 1.5,
            "attempts": [{}] * 30,
            "failed": 1,
            "last failure": 2.0,
        },
    }


def test_the_largest_fleet_is_judged_and_a_line_leads_on(tmp_path: Path) -> None:
    found = {size: _found(size) for size in (100, 1000, LARGEST)}
    suite = Suite("scale", details={"fleets": {str(size): one for size, one in found.items()}})
    rows(suite, found)
    judged = {row.what: row.verdict for row in suite.rows if row.target is not None}
    assert all(what.startswith("10,000 nodes") for what in judged)
    assert [what for what, verdict in judged.items() if verdict == "MISSED"] == [
        "10,000 nodes, proxy restarted, turned away most often"
    ]
    suite.save({"options": {"quick": True}, "commit": "c"}, tmp_path)
    made = pages.renewed("<!-- bench: growth -->\n<!-- end -->", tmp_path)
    assert "| memory | 70.0 MB | 470 MB | 4,070 MB | 40,070 MB |" in made
    assert "| tsh ls | 0 s | 0.1 s | 1 s | 10.0 s |" in made
    drawn = {path.name for path in plots.draw(tmp_path)}
    assert {"scale-memory.svg", "scale-idle.svg", "scale-lists.svg", "scale-return.svg"} <= drawn
    assert json.loads((tmp_path / "scale.json").read_text())["details"]["lines"]


def test_a_fleet_that_does_not_fit_is_left_out_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _room(100) is None
    assert "ulimit" in str(_room(10_000_000))
    monkeypatch.setattr(processes, "available_memory", lambda: 400.0)
    assert _room(100) is None
    assert _room(1000) == "it needs 407 MB, and 400 are free"
    nothing = Suite("scale", details={"left out": {"1000": "no room"}})
    rows(nothing, {})
    assert [(row.verdict, row.note) for row in nothing.rows] == [("not here", "no room")]


@pytest.mark.parametrize(
    ("points", "base", "slope"),
    [([(0, 1), (10, 3)], 1.0, 0.2), ([(0, 0), (1, 2), (2, 1)], 0.5, 0.5), ([(5, 7)], 7.0, 0.0)],
)
def test_a_line_by_least_squares(points: list[tuple[float, float]], base: float, slope: float) -> None:
    assert list(line(points)) == pytest.approx([base, slope])
