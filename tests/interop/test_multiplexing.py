"""ControlMaster: one connection, many sessions, one after the other and at once."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.interop.conftest import Peer
from tests.scenarios.cluster import LIMIT, text, wait_for


@pytest.fixture
def shared(peer: Peer, tmp_path: Path) -> Iterator[list[str]]:
    """The words of an ssh that uses a connection which is there already."""
    need_program("ssh")
    control = tmp_path / "c"
    words = ["ssh", *peer.direct, "-o", f"ControlPath={control}"]
    env = peer.cluster.env(peer.user)
    command = [*words, "-o", "ControlMaster=yes", "-N", peer.destination]
    with (tmp_path / "master").open("wb") as said, subprocess.Popen(command, stderr=said, env=env) as master:
        wait_for("the master", control.exists)
        yield words
        peer.cluster.run(*words, "-O", "exit", peer.destination, home=peer.user)
        master.wait(LIMIT)


@pytest.mark.slow
def test_200_sessions_one_after_the_other(peer: Peer, shared: list[str]) -> None:
    for number in range(200):
        done = peer.cluster.run(*shared, peer.destination, f"exit {number}", home=peer.user)
        assert done.returncode == number, text(done)


def test_150_sessions_at_once(peer: Peer, shared: list[str]) -> None:
    env = peer.cluster.env(peer.user)
    running = []
    for number in range(150):
        command = f"echo {number}; read word; echo $word; exit {number}"
        running.append(
            subprocess.Popen(
                [*shared, peer.destination, command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
            )
        )
    for number, process in enumerate(running):
        assert process.stdout is not None
        # All of them are there before any is told to go on.
        assert process.stdout.readline() == b"%d\n" % number
    for number, process in enumerate(running):
        out, _ = process.communicate(b"word\n", timeout=LIMIT)
        assert (process.returncode, out) == (number, b"word\n")
