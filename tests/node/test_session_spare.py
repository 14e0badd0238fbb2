"""The process that waits for a session: it is used once, ends with its keeper, and nobody can tell it from a fork."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.node.session_harness import LOGIN, Rig, name_of, wait_for
from tinyport.host.accounts import Account
from tinyport.host.logging_line import Log
from tinyport.host.login_records import LastLogin
from tinyport.node.loop import Loop
from tinyport.node.session.plan import Plan, Terminal
from tinyport.node.session.process import Manner
from tinyport.node.session.spare import AT_ONCE, MAX_ORDER, Order, PamWish, Spare, packed, unpacked
from tinyport.node.session.start import obey

ACCOUNT = Account("pi", 1000, 1000, (1000, 20), "/home/pi", "/bin/sh")
PLAN = Plan(ACCOUNT, "/bin/sh", (b"sh", b"-c", b"true"), {b"A": b"\xff"}, None, "exec", "true")
ORDER = Order(PLAN, Manner(privileged=False), None, None)


class Calls:
    """A loop that is turned by hand."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.children: dict[int, Callable[[int], None]] = {}

    def after(self, seconds: float, call: Callable[[], None]) -> object:
        self.timers.append((seconds, call))
        return object()

    def child(self, pid: int, call: Callable[[int], None]) -> None:
        self.children[pid] = call

    def turn(self) -> None:
        waiting, self.timers = self.timers, []
        for _, call in waiting:
            call()


def made(loop: Calls) -> Spare:
    return Spare(cast(Loop, loop), obey, Log("test"))


def waiting(loop: Calls | None = None) -> Spare:
    """One that has its process."""
    loop = loop or Calls()
    spare = made(loop)
    spare.started()
    spare.started()
    loop.turn()
    assert loop.children
    return spare


@pytest.mark.parametrize(
    "order",
    [
        ORDER,
        Order(
            Plan(ACCOUNT, "/x", (b"-x",), {}, Terminal("vt", 80, 24, 0, 0, {53: 0}), "shell", "", drops_itself=True),
            Manner(privileged=True, greets=True, last=LastLogin(1.5, "pts/1", "::1"), groups=(1, 2), keeps_umask=True),
            "/dev/pts/7",
            PamWish("tinyport", "192.0.2.1"),
        ),
    ],
    ids=["least", "most"],
)
def test_an_order_arrives_as_it_was(order: Order) -> None:
    assert unpacked(packed(order)) == order


def test_it_is_for_those_who_start_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    loop = Calls()
    spare = made(loop)
    spare.started()
    now += 11
    spare.started()
    assert not loop.timers
    now += 1
    spare.started()
    spare.started()
    assert len(loop.timers) == 1
    loop.turn()
    assert len(loop.children) == AT_ONCE
    # And as long as they do.
    now += 9
    loop.turn()
    spare.started()
    now += 9
    loop.turn()
    assert all(os.waitpid(pid, os.WNOHANG) == (0, 0) for pid in loop.children)
    now += 9
    loop.turn()
    assert all(os.waitpid(pid, 0) == (pid, 0) for pid in loop.children)
    assert not loop.timers


def test_each_is_used_once() -> None:
    loop = Calls()
    spare = waiting(loop)
    null = os.open(os.devnull, os.O_RDWR)
    used = set()
    while (taken := spare.take(ORDER, (null, null, null))) is not None:
        pid, line = taken
        line.close()
        used.add(pid)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert used == set(loop.children)
    os.close(null)


def test_one_that_was_killed_is_not_leaned_on() -> None:
    loop = Calls()
    spare = waiting(loop)
    for pid in loop.children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert spare.take(ORDER, (0, 0, 0)) is None
    # Or the loop has heard of it first.
    for ended in loop.children.values():
        ended(signal.SIGKILL)
    assert spare.take(ORDER, (0, 0, 0)) is None
    spare.drop()


def test_an_order_that_is_too_long_is_not_for_it() -> None:
    spare = waiting()
    long = Order(Plan(ACCOUNT, "/bin/sh", (b"x" * MAX_ORDER,), {}, None, "exec", ""), ORDER.manner, None, None)
    assert spare.take(long, (0, 0, 0)) is None
    spare.drop()


def test_no_process_and_no_descriptor_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> Any:
        raise OSError(24, "too many")

    for module, name in ((os, "fork"), (socket, "socketpair")):
        loop = Calls()
        with monkeypatch.context() as patched:
            patched.setattr(module, name, full)
            spare = made(loop)
            spare.started()
            spare.started()
            loop.turn()
        assert not loop.children
        assert spare.take(ORDER, (0, 0, 0)) is None


# ---------------------------------------------------------------------- in a keeper


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, worker_idle=60).start()
    yield rig
    rig.stop()


def spares(rig: Rig) -> list[int]:
    children = Path(f"/proc/{rig.pid}/task/{rig.pid}/children").read_text().split()
    return [int(pid) for pid in children if name_of(int(pid)) == "tinyport-spare"]


def hurried(rig: Rig) -> list[int]:
    """Two sessions one after the other → the processes that wait for the third."""

    def found() -> list[int]:
        for _ in range(2):
            assert rig.ssh("true").returncode == 0
        return spares(rig)

    pids: list[int] = wait_for("a spare process", found)
    return pids


def test_a_session_in_it_is_like_any_other(rig: Rig) -> None:
    command = "echo $$; ls /proc/self/fd; grep -E 'SigBlk|SigIgn' /proc/self/status; umask; pwd; env | sort; exit 7"

    def by_it() -> tuple[int, list[str]] | None:
        pids = hurried(rig)
        done = rig.ssh(command)
        first, *others = done.stdout.decode().splitlines()
        # On a slow machine it may have left before we came.
        return (done.returncode, others) if int(first) in pids else None

    status, found = wait_for("a session in the spare process", by_it)
    assert status == 7

    changing = ("SSH_C", "TINYPORT_SESSION")
    for pid in spares(rig):
        os.kill(pid, signal.SIGKILL)
    plain = rig.ssh(command).stdout.decode().splitlines()[1:]
    assert [line for line in found if not line.startswith(changing)] == [
        line for line in plain if not line.startswith(changing)
    ]
    assert rig.event("exec", status=7)["login"] == LOGIN


def test_a_signal_reaches_a_session_in_it(rig: Rig) -> None:
    hurried(rig)
    process = rig.popen("echo ready; exec sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.communicate()
    assert rig.event("session.end", signal="HUP")


def test_it_ends_with_its_keeper_and_has_nothing_of_it_open(rig: Rig) -> None:
    pid = hurried(rig)[0]
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd") if int(fd) > 2]
    assert len(links) == 1, links
    os.kill(rig.pid, signal.SIGKILL)
    wait_for("it to end", lambda: name_of(pid) == "")


def test_a_new_document_lets_it_go(rig: Rig) -> None:
    hurried(rig)
    rig.install(rig.authority.policy())
    wait_for("them to end", lambda: not spares(rig))


def test_a_long_command_while_it_waits(rig: Rig) -> None:
    hurried(rig)
    done = rig.ssh(f"true {'x' * 100_000}; echo done")
    assert (done.returncode, done.stdout) == (0, b"done\n")
