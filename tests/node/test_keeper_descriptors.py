"""A keeper that has no descriptor left, at each step of a sign-in and a session: it refuses, lives, and recovers."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.session_harness import LIMIT, Rig, wait_for
from tinyport.node.keeper.room import LEFT_BY_CONNECTIONS, LEFT_BY_SESSIONS


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path).start()
    wait_for("the keeper", lambda: "have" in made.said)
    made.give_certificate(permits=["pty", "port_forwarding", "agent"])
    yield made
    made.stop()


def allow(rig: Rig, more: int | None) -> None:
    """So many descriptors beside the highest that the keeper has open, or as many as usual."""
    highest = max(int(entry) for entry in os.listdir(f"/proc/{rig.pid}/fd"))
    _, hard = resource.prlimit(rig.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(rig.pid, resource.RLIMIT_NOFILE, (1024 if more is None else highest + 1 + more, hard))


def attempt(rig: Rig, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = rig.command("echo in")
    command[1:1] = [*options, "-o", "ConnectTimeout=5"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=False)


@pytest.mark.parametrize(
    ("worker", "options"),
    [
        (False, ()),
        (True, ()),
        (True, ("-tt",)),
        (True, ("-R", "0:127.0.0.1:9")),
        (True, ("-W", "127.0.0.1:9")),
    ],
    ids=str,
)
def test_wherever_it_runs_out(rig: Rig, options: tuple[str, ...], worker: bool) -> None:
    if worker:
        assert attempt(rig).stdout == b"in\n"
    for more in (*range(9), LEFT_BY_SESSIONS + 4, LEFT_BY_CONNECTIONS + 4):
        allow(rig, more)
        done = attempt(rig, *options)
        assert done.returncode in (0, 255), (more, done.stderr)
        assert rig.status is None, f"{more}: the keeper has ended\n{rig.log()}"
        allow(rig, None)
    assert attempt(rig).stdout == b"in\n", rig.log()
    assert "Traceback" not in rig.log()


def test_who_comes_leaves_some_to_those_who_are_here(rig: Rig) -> None:
    """Who has an account and opens as many connections as they can ends neither the keeper nor others' sessions."""
    with rig.popen("echo here; cat") as here:
        assert here.stdin is not None
        assert here.stdout is not None
        assert here.stdout.readline() == b"here\n"
        allow(rig, LEFT_BY_CONNECTIONS - 8)
        assert attempt(rig).returncode == 255
        with socket.create_connection(("127.0.0.1", rig.port), LIMIT) as stream:
            stream.sendall(b"SSH-2.0-x\r\n")
            assert b"no room for another connection" in stream.recv(200)
        here.stdin.write(b"still\n")
        here.stdin.flush()
        assert here.stdout.readline() == b"still\n"
        allow(rig, None)
        assert attempt(rig).stdout == b"in\n"
        here.communicate(b"", LIMIT)


def test_a_session_too_many_is_refused_in_words(rig: Rig, tmp_path: Path) -> None:
    control = ("-o", f"ControlPath={tmp_path}/c")
    with rig.popen("echo here; cat", options=("-M", *control)) as here:
        assert here.stdout is not None
        assert here.stdout.readline() == b"here\n"
        allow(rig, LEFT_BY_SESSIONS - 8)
        done = attempt(rig, *control)
        assert (done.returncode, done.stdout) == (255, b"")
        assert b"no file descriptors left for another session" in done.stderr, done.stderr
        allow(rig, None)
        assert attempt(rig, *control).stdout == b"in\n"
        here.communicate(b"", LIMIT)
