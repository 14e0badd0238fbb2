"""Roles kept running: restart, stop, reload, and what is fatal. With toy roles, each a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyport.admin import supervisor as supervisor_module
from tinyport.admin.role_process import Task, command, spawn_role
from tinyport.admin.supervisor import Stopped, Supervisor
from tinyport.core.errors import OperatorError
from tinyport.host.logging_line import Log

LIMIT = 30.0


def spawn_toy(role: str, task: Task) -> tuple[int, int]:
    return spawn_role(role, task, command("tests.admin.toy_role", "main()"))


class Stage:
    """A supervisor of toy roles, and what they wrote down."""

    def __init__(self, folder: Path, adopts: bool = False) -> None:
        self.lines = folder / "lines"
        self.lines.touch()
        self.supervisor = Supervisor(Log("test", "error"), spawn_toy, first_wait=0.01, adopts=adopts)

    def start(self, name: str, does: str = "serves", **more: Any) -> dict[str, Any]:
        return self.supervisor.start(name, {"does": does, "lines": str(self.lines), **more}, limit=LIMIT)

    def said(self) -> list[str]:
        return [line.rpartition(" ")[0] for line in self.lines.read_text().splitlines()]

    def until(self, check: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not check():
            assert time.monotonic() < end, self.said()
            self.supervisor.pause(0.05)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (15, 2, 1, signal.SIGCHLD)}
    made.supervisor.install_signals()
    try:
        yield made
    finally:
        made.supervisor.stop()
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_role_serves_and_stops(stage: Stage) -> None:
    answer = stage.start("a")
    assert answer["pid"] == stage.supervisor.roles["a"].pid
    stage.supervisor.stop()
    assert stage.said() == ["a began", "a stopped"]


def test_roles_stop_in_the_opposite_order(stage: Stage) -> None:
    for name in "abc":
        stage.start(name)
    stage.supervisor.stop()
    assert stage.said()[3:] == ["c stopped", "b stopped", "a stopped"]


def test_a_role_that_dies_is_started_again_with_its_new_task(stage: Stage) -> None:
    first = stage.start("a")["pid"]
    task = dict(stage.supervisor.roles["a"].task)
    stage.supervisor.retask("a", {**task, "lines": f"{stage.lines}2"})
    os.kill(first, signal.SIGKILL)
    stage.until(lambda: Path(f"{stage.lines}2").exists())
    assert stage.supervisor.roles["a"].pid not in (0, first)


def test_the_wait_grows_when_a_role_dies_again_and_again(stage: Stage) -> None:
    stage.start("a")
    role = stage.supervisor.roles["a"]
    waits = []
    for _ in range(3):
        dead = role.pid
        os.kill(dead, signal.SIGKILL)
        stage.until(lambda dead=dead: role.pid not in (0, dead))  # type: ignore[misc]
        waits.append(role.wait)
    assert waits == [0.01, 0.02, 0.04]


def test_a_role_that_cannot_start_is_fatal(stage: Stage) -> None:
    with pytest.raises(OperatorError, match="a could not start"):
        stage.start("a", "fails")
    assert stage.said() == ["a began"]


def test_a_role_that_a_signal_ended_while_it_started_is_started_again(stage: Stage) -> None:
    stage.start("a", "killed at first")
    assert stage.said() == ["a began", "a began"]


def test_a_role_that_does_not_get_ready_in_time(stage: Stage) -> None:
    with pytest.raises(OperatorError, match="did not start to serve"):
        stage.supervisor.start("a", {"does": "silent", "lines": str(stage.lines)}, limit=0.05)


def test_a_role_that_says_something_else(stage: Stage) -> None:
    with pytest.raises(OperatorError, match="something else than that it is ready"):
        stage.start("a", "babbles")


def test_sighup_is_handed_on(stage: Stage) -> None:
    stage.start("a")
    stage.start("b")
    os.kill(os.getpid(), signal.SIGHUP)
    stage.until(lambda: {"a reloaded", "b reloaded"} <= set(stage.said()))


def test_sigterm_ends_a_wait(stage: Stage) -> None:
    stage.start("a")
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopped):
        stage.supervisor.pause(LIMIT)
    stage.supervisor.watch()


def test_a_stubborn_role_is_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "STOP_LIMIT", 0.1)
    pid = stage.start("a", "stubborn")["pid"]
    stage.supervisor.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


ADOPTS = """
import sys
from tests.admin.test_supervisor import Stage
from pathlib import Path
stage = Stage(Path(sys.argv[1]), adopts=True)
stage.supervisor.install_signals()
stage.start("a", "leaves a child")
stage.until(lambda: "a began a child" in stage.said())
stage.supervisor.stop()
"""


def run_script(script: str, folder: Path) -> int:
    words = [sys.executable, "-c", script, str(folder)]
    return subprocess.run(words, cwd=Path(__file__).parents[2], check=False, timeout=LIMIT).returncode


def test_what_roles_leave_behind_can_be_ended_too(tmp_path: Path) -> None:
    # In a process of its own: this one should not adopt anybody.
    assert run_script(ADOPTS, tmp_path) == 0
    lines = (tmp_path / "lines").read_text().splitlines()
    assert [line.rpartition(" ")[0] for line in lines] == ["a began", "a began a child", "a stopped", "a stopped"]
    assert len({line.rpartition(" ")[2] for line in lines}) == 2


ORPHANS = """
import sys, os, signal
from tests.admin.test_supervisor import Stage
from pathlib import Path
stage = Stage(Path(sys.argv[1]))
stage.start("a")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_roles_end_with_their_supervisor_however_it_ends(tmp_path: Path) -> None:
    assert run_script(ORPHANS, tmp_path) == -signal.SIGKILL
    end = time.monotonic() + LIMIT
    while "a stopped" not in (tmp_path / "lines").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_role_sees_nothing_of_its_task_in_argv_and_no_modules_of_the_current_folder(stage: Stage) -> None:
    pid = stage.start("a", secret="hunter2")["pid"]
    assert b"hunter2" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert "-I" in command()
    assert "''" not in command()[-1]
