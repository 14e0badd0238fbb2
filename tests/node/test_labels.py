"""Label commands: values, limits, and that a hanging one is the end of nothing but itself."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.node.tiny_cluster import LIMIT
from tinyport.core.names import printable
from tinyport.host.logging_line import Log
from tinyport.node.link import labels as labels_module
from tinyport.node.link.labels import MAX_OUTPUT, LabelCommands, value_of
from tinyport.node.loop import Loop


@given(st.binary(max_size=2000))
def test_any_output_is_a_printable_value(output: bytes) -> None:
    value = value_of(output)
    assert len(value) <= MAX_OUTPUT
    assert printable(value, 10_000) == value


def test_the_first_line_counts() -> None:
    assert value_of(b"\n up 3 days \nsecond\n") == "up 3 days"
    assert value_of(b"") == ""


def run(commands: Sequence[tuple[str, Sequence[str], float]], until: int) -> dict[str, str]:
    """Run until ``until`` values changed or a command failed that often."""
    loop = Loop()
    changes = []

    def changed() -> None:
        changes.append(1)
        if len(changes) == until:
            loop.stop()

    made = LabelCommands(loop, commands, changed, Log("test", "error"))
    made.start()
    loop.watch_children()
    timer = loop.after(LIMIT, loop.stop)
    loop.run()
    timer.cancel()
    made.stop()
    loop.close()
    assert len(changes) == until
    return made.values


@pytest.fixture(autouse=True)
def _no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "_APART", 0.0)


def test_values_are_what_commands_print() -> None:
    found = run([("a", ["echo", "one two"], 60), ("b", ["printf", "x%.0s", *["y"] * 400], 60)], until=2)
    assert found == {"a": "one two", "b": "x" * (MAX_OUTPUT - 1) + "…"}


def test_there_is_no_shell_and_hardly_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "yes")
    found = run([("a", ["echo", "$SECRET; id"], 60), ("b", ["sh", "-c", "echo ${SECRET:-none}"], 60)], until=2)
    assert found == {"a": "$SECRET; id", "b": "none"}


def test_failing_and_missing_commands_give_no_label() -> None:
    commands = [("a", ["false"], 60), ("b", ["/no/such/program"], 60), ("c", ["sh", "-c", "sleep 0.2; echo ok"], 60)]
    assert run(commands, until=1) == {"c": "ok"}


def test_a_hanging_command_is_ended_with_all_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "RUN_LIMIT", 0.3)
    loop = Loop()
    made = LabelCommands(
        loop, [("a", ["sh", "-c", "sleep 600 & echo $!; sleep 600"], 60)], loop.stop, Log("test", "error")
    )
    failures = []

    def failed(name: str, why: str) -> None:
        failures.append(why)
        loop.stop()

    made.failed = failed  # type: ignore[method-assign]
    made.start()
    loop.watch_children()
    timer = loop.after(LIMIT, loop.stop)
    loop.run()
    timer.cancel()
    loop.close()
    assert failures == ["took longer than 0 s"]
    assert made.values == {}


def test_an_old_value_is_not_shown_after_a_failure() -> None:
    loop = Loop()
    changes: list[int] = []
    made = LabelCommands(
        loop, [], lambda: changes.append(1), Log("test", "error", descriptor=os.open(os.devnull, os.O_WRONLY))
    )
    made.said("a", "1")
    made.said("a", "1")
    made.failed("a", "ended with 1")
    loop.close()
    assert made.values == {}
    assert len(changes) == 2
