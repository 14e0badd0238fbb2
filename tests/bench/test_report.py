"""Rows, rounds, the docs made of them, and the client that handshakes are measured with."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import __main__ as command
from bench import login_files, machine, pages, plot, plots
from bench.handshake import drive
from bench.report import AT_LEAST, RESULTS, Row, Suite, table
from bench.rounds import interleaved, percentile, ratio
from bench.servers import Credentials, Node, Server, StockSshd, Unavailable
from bench.wire_client import CURVE


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("a", "s", 1.0, target=1.0), "met"),
        (Row("a", "s", 1.1, target=1.0), "MISSED"),
        (Row("a", "s", 9.0, ratio=0.9, target=0.8, bound=AT_LEAST, compared="ratio"), "met"),
        (Row("a", "s", 9.0, ratio=0.7, target=0.8, bound=AT_LEAST, compared="ratio"), "MISSED"),
        (Row("a", "s", 9.0, target=0.8, bound=AT_LEAST, compared="ratio"), "not here"),
        (Row("a", "s", 9.0), ""),
    ],
)
def test_a_missed_target_is_shown_as_missed(row: Row, verdict: str) -> None:
    assert row.verdict == verdict
    assert verdict in table([row])


def test_rounds_take_turns_and_the_first_does_not_count() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = interleaved(2, {"a": lambda: run("a"), "b": lambda: run("b")})
    assert order == ["a", "b"] * 3
    assert found == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == (3.0, (2.0, 4.0))
    assert percentile([float(number) for number in range(100)], 0.99) == 99.0


def test_the_page_says_what_the_files_say() -> None:
    assert pages.stale() == [], 'run "python -m bench.pages"'
    assert pages.main(["--check"]) == 0


def test_the_targets_are_all_in_one_table_and_missed_ones_first(tmp_path: Path) -> None:
    machine: dict[str, Any] = {"options": {}}
    rows = [Row("a", "s", 1.0, target=2.0), Row("b", "s", 1.0), Row("c", "s", 3.0, target=2.0)]
    Suite("bulk", rows).save(machine, tmp_path)
    Suite("memory", [Row("d", "MB", 8.0, "sshd", 4.0, 2.0, target=1.0, compared="ratio")]).save(machine, tmp_path)
    made = pages.renewed("<!-- bench: targets -->\n<!-- end -->", tmp_path).splitlines()
    assert made[1] == "3 figures have a target; 2 miss it."
    assert [line.split(" | ")[0] for line in made[5:-1]] == ["| c", "| d", "| a"]
    assert "**MISSED** | [bulk](#bulk)" in made[5]


def test_readme_quotes_figures_that_there_are(tmp_path: Path) -> None:
    row = Row("each further open session", "MB private", 0.04, "sshd", 1.6, 0.025)
    Suite("memory", [row]).save({"options": {}}, tmp_path)
    made = pages.renewed("<!-- bench: headlines -->\n<!-- end -->", tmp_path)
    assert "| each further session, on a connection of its own | 0.04 MB private | 1.6 sshd |" in made
    assert "| traffic of an idle node | not measured yet |" in made


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    suite = Suite("memory", [Row("a|b", "MB", 3.0, "sshd", 6.0, 0.5, (0.4, 0.6), 1.0, compared="ratio")])
    machine = {"options": {"quick": True}, "processor": "p", "cores": 2, "load": 0.1, "python": "3", "asyncssh": "2"}
    machine.update(cryptography="50", openssh="O", dropbear="D", commit="c")
    document = json.loads(suite.save(machine, tmp_path).read_text())
    assert pages.rows_of(document) == suite.rows
    made = pages.renewed("x\n<!-- bench: memory -->\nold\n<!-- end -->\ny", tmp_path)
    assert "| a/b | MB | ≤ 1 × | 3 | 6 sshd | 0.50 (0.40-0.60) | met |  |" in made
    assert "old" not in made
    assert "Not measured" in pages.renewed("<!-- bench: bulk -->\n<!-- end -->", tmp_path)


def test_memory_is_shown_by_process(tmp_path: Path) -> None:
    link = {"count": 1, "rss": 14.5, "pss": 7.0, "private": 3.7, "dirty": 3.0}
    spare = {**link, "count": 3}
    taken = {"0": {"processes": {"link": link}}, "1": {"processes": {"link": link, "session": spare}}, "after": {}}
    taken["after"] = taken["0"]
    Suite("memory", details={"tinyport": taken}).save({"options": {}}, tmp_path)
    made = pages.renewed("<!-- bench: processes -->\n<!-- end -->", tmp_path)
    assert "| MB RSS, PSS, private | idle | 1 session | idle again |" in made
    assert "| link | 14.5, 7.0, 3.7 | 14.5, 7.0, 3.7 | 14.5, 7.0, 3.7 |" in made
    assert "| session |  | 3 of them: 14.5, 7.0, 3.7 |  |" in made


def test_a_suite_that_fails_does_not_take_the_others_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = ModuleType("bench.good"), ModuleType("bench.bad")
    vars(good)["measure"] = lambda quick: Suite("good", [Row("figure", "ms", 1.0 if quick else 2.0)])

    def fails(quick: bool) -> Suite:
        raise SystemExit("bench: error: nothing works")

    vars(bad)["measure"] = fails
    for name, module in (("bad", bad), ("good", good)):
        monkeypatch.setitem(sys.modules, f"bench.{name}", module)
        monkeypatch.setitem(command.SUITES, name, f"the {name} one")
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(machine, "install", lambda programs: None)
    monkeypatch.setattr(login_files, "hide", lambda: None)
    assert command.main(["--quick", "--no-save", "bad", "good"]) == 1
    said = capsys.readouterr()
    assert "[1/2] bad: the bad one" in said.out
    assert "could not be measured: bad" in said.err
    assert "nothing works" in said.err
    assert said.out.splitlines()[-1].split() == ["figure", "ms", "1"]
    assert command.main(["--quick", "--no-save", "good"]) == 0
    with pytest.raises(SystemExit):
        command.main(["nonsense"])


def test_plots_are_svg(tmp_path: Path) -> None:
    plot.bars(tmp_path / "a.svg", "A < B", "ms", {"x & y": {"tinyport": 1.0, "sshd": 200.0}})
    plot.lines(tmp_path / "b.svg", "B", "n", "MB", {"tinyport": [(0, 1), (10, 2)], "sshd": [(0, 3), (10, 90)]})
    for source in RESULTS.glob("*.json"):
        shutil.copy(source, tmp_path)
    for drawn in plots.draw(tmp_path):
        assert ElementTree.fromstring(drawn.read_text()).tag.endswith("svg")


@pytest.mark.parametrize("kind", [Node, StockSshd])
def test_the_wire_client_gets_in(kind: type[Server], tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    server = kind(Credentials(tmp_path))
    try:
        server.start()
    except Unavailable as error:
        pytest.skip(str(error))
    try:
        load = drive(server, CURVE, 6, 3)
    finally:
        server.stop()
    assert load.rate > 0
    assert load.median > 0
