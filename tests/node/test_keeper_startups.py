"""Signing in, as the keeper counts it: how it ended is told to link, and who goes nowhere makes room."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.session_harness import LIMIT, LOGIN, Rig, wait_for

Start = Callable[..., Rig]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    rigs: list[Rig] = []

    def make(**changes: Any) -> Rig:
        rigs.append(Rig(tmp_path, **changes).start())
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.stop()


def connect(rig: Rig, words: bytes = b"SSH-2.0-x\r\n") -> socket.socket:
    stream = socket.create_connection(("127.0.0.1", rig.port), timeout=LIMIT)
    stream.sendall(words)
    return stream


def greeted(rig: Rig) -> socket.socket:
    """One that a worker serves."""
    stream = connect(rig)
    assert stream.recv(9) == b"SSH-2.0-t"
    return stream


def test_how_signing_in_ended_is_told(start: Start) -> None:
    rig = start(limits={"login_grace": 0.5})
    assert rig.ssh("true").returncode == 0
    wait_for("the one who signed in", lambda: rig.ended == ["proved"])
    greeted(rig).close()
    wait_for("the one who left", lambda: rig.ended[1:] == ["noauth"])
    with greeted(rig) as stream:
        while stream.recv(4096):
            pass
    wait_for("the one who was late", lambda: rig.ended[2:] == ["grace"])
    rig.give_certificate(logins=["somebody-else"])
    assert rig.ssh("true").returncode == 255
    wait_for("the one who was refused", lambda: rig.ended[3:] == ["authfail"])


def test_a_worker_that_falls_over_one_stranger(start: Start) -> None:
    rig = start()
    with greeted(rig) as stream:
        (worker,) = rig.workers()
        os.kill(worker, signal.SIGSEGV)
        stream.recv(100_000)
        wait_for("the crash to be told", lambda: rig.ended == ["crash"])
    assert rig.ssh("echo on").stdout == b"on\n"


def test_who_waits_longest_makes_room(start: Start) -> None:
    rig = start(limits={"startups": 2, "startups_per_source": 2})
    first, second = greeted(rig), greeted(rig)
    assert rig.ssh("echo in").stdout == b"in\n"
    # Both would have been there longer than the person; one had to go, and no penalty is told for that.
    streams = [first, second]
    for stream in streams:
        stream.setblocking(False)
    wait_for("one of them to be closed", lambda: any(map(closed, streams)))
    assert not all(map(closed, streams))
    assert rig.ended == ["proved"]
    assert "too many connections are signing in" in rig.log()
    for stream in streams:
        stream.close()


def closed(stream: socket.socket) -> bool:
    """Drains what is there; has the other end closed?"""
    try:
        while stream.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


def test_who_signed_in_makes_no_room(start: Start) -> None:
    rig = start(limits={"startups": 1, "startups_per_source": 1})
    process = rig.popen("echo ready; cat")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    for _ in range(5):
        connect(rig).close()
    assert rig.ssh("echo in", login=LOGIN).stdout == b"in\n"
    output, _ = process.communicate(b"still here\n", LIMIT)
    assert (output, process.returncode) == (b"still here\n", 0)


def test_over_its_budget_a_node_takes_no_more_sessions_and_says_why(start: Start) -> None:
    rig = start(limits={"memory": 1})
    done = rig.ssh("echo in")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"no memory left for another session" in done.stderr
