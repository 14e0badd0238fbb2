"""Parties of a session on a real node: whoever is slow is dropped, and nobody waits for them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.node.session_harness import LIMIT, Rig, wait_for


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("rig")).start()
    yield rig
    rig.stop()


def begin(rig: Rig, command: str, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    """A session that has said "here", and its id."""

    def started() -> list[dict[str, Any]]:
        return [event for event in rig.events if event["event"] == "session.start"]

    before = len(started())
    owner = rig.popen(command, options=options or ("-tt",))
    assert owner.stdout is not None
    assert owner.stdout.readline().rstrip() == b"here"
    return owner, str(wait_for("its start", lambda: started()[before:])[0]["sid"])


def join(rig: Rig, sid: str, mode: str = "observer") -> subprocess.Popen[bytes]:
    """Somebody who has seen the last lines. It is their own session: no role is needed."""
    party = rig.popen(f"join:{mode}:{sid}", options=("-s",))
    assert party.stdout is not None
    assert b"here" in party.stdout.readline()
    return party


def over(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.kill()
        process.communicate(timeout=LIMIT)


def test_a_slow_observer_is_dropped_and_the_owner_does_not_wait(rig: Rig) -> None:
    owner, sid = begin(rig, "echo here; stty -echo; read line; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo all")
    slow = join(rig, sid)
    os.kill(slow.pid, signal.SIGSTOP)
    out, _ = owner.communicate(b"go\n", timeout=LIMIT)
    assert out.split()[-1] == b"all"
    assert out.count(b"x") >= 20_000_000
    left = rig.event("session.leave", sid=sid)
    assert left["reason"].startswith("dropped from the session")
    os.kill(slow.pid, signal.SIGCONT)
    _, said = slow.communicate(timeout=LIMIT)
    assert slow.returncode == 255
    assert b"dropped from the session: your connection is slower" in said


def test_a_session_without_a_terminal(rig: Rig) -> None:
    running, sid = begin(rig, "echo here; cat", "-T")
    refused = rig.ssh(f"join:observer:{sid}", options=("-s",))
    assert (refused.returncode, b"has no terminal" in refused.stderr) == (255, True)
    over(running)


@pytest.fixture
def usual_certificate(rig: Rig) -> Iterator[None]:
    yield
    rig.give_certificate()


@pytest.mark.usefixtures("usual_certificate")
@pytest.mark.parametrize(
    "changes", [{"critical_options": {"force-command": "true"}}, {"permits": []}, {"roles": ["narrow"]}]
)
def test_who_may_have_no_terminal_finds_none_in_a_session(rig: Rig, changes: dict[str, Any]) -> None:
    owner, sid = begin(rig, "echo here; sleep 1000")
    rig.give_certificate(**changes)
    refused = rig.ssh(f"join:peer:{sid}", options=("-s",))
    assert refused.returncode == 255
    assert b"you may have no terminal on this node" in refused.stderr
    over(owner)


def test_what_is_not_there(rig: Rig) -> None:
    refused = rig.ssh("join:observer:0123", options=("-s",))
    assert (refused.returncode, b"there is no live session 0123" in refused.stderr) == (255, True)


def test_a_malformed_request_ends_nobody_elses_work(rig: Rig) -> None:
    stays, _ = begin(rig, "echo here; cat")
    refused = rig.ssh("join:ghost:0123", options=("-s",))
    assert refused.returncode == 255
    assert stays.poll() is None
    over(stays)


def test_the_end_of_the_owner_is_the_end_of_all(rig: Rig) -> None:
    owner, sid = begin(rig, "echo here; read line; exit 4")
    parties = [join(rig, sid), join(rig, sid, "peer")]
    assert parties[1].stdin is not None
    parties[1].stdin.write(b"go\n")
    parties[1].stdin.flush()
    assert [process.wait(LIMIT) for process in (owner, *parties)] == [4, 0, 0]
    over(owner, *parties)


def test_an_owner_who_hangs_up(rig: Rig) -> None:
    owner, sid = begin(rig, "echo here; sleep 1000")
    party = join(rig, sid)
    over(owner)
    assert party.wait(LIMIT) == 0
    over(party)
