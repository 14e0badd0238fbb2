"""Events from the moment they happen until link has them: numbered, noted, sent again, kept in a file."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.node.test_session_plan import grant as some_grant
from tinyport.host.logging_line import Log
from tinyport.node.keeper import outbox as keeper_outbox
from tinyport.node.keeper.audit import Audit
from tinyport.node.keeper.outbox import WINDOW, Outbox
from tinyport.node.link.generations import Census, Receipts
from tinyport.node.link.spool import MAX_EVENT


def at_once(seconds: float, call: Callable[[], None]) -> None:
    call()


class Line:
    """A line to link that may be cut."""

    def __init__(self) -> None:
        self.up = True
        self.said: list[Mapping[str, Any]] = []

    def send(self, message: Mapping[str, object]) -> bool:
        if self.up:
            self.said.append(message)
        return self.up

    def numbers(self) -> list[int]:
        return [message["n"] for message in self.said if message["op"] == "event"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def log() -> Iterator[Log]:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    yield Log("test", descriptor=nowhere)
    os.close(nowhere)


def event(number: int) -> dict[str, object]:
    return {"event": "session.end", "code": "T2004I", "time": 1.0, "sid": f"{number}"}


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in (folder / "kept").iterdir() for line in path.read_text().splitlines()]


def test_events_are_numbered_and_forgotten_when_they_are_noted(folder: int, log: Log) -> None:
    line = Line()
    outbox = Outbox(line.send, folder, "a1", at_once, log)
    for number in range(3):
        outbox.add(event(number))
    assert line.numbers() == [1, 2, 3]
    assert [message["event"]["uid"] for message in line.said] == ["a1-1", "a1-2", "a1-3"]
    outbox.noted(2)
    assert not outbox.empty
    for nonsense in (None, "3", True, 0, -1):
        outbox.noted(nonsense)
    assert not outbox.empty
    outbox.noted(3)
    assert outbox.empty
    assert not outbox.saved


def test_events_of_a_moment_are_told_together_a_little_later(log: Log) -> None:
    line, waiting = Line(), list[Callable[[], None]]()
    outbox = Outbox(line.send, None, "a1", lambda seconds, call: waiting.append(call), log)
    for number in range(3):
        outbox.add(event(number))
    assert not line.numbers()
    assert len(waiting) == 1
    waiting.pop()()
    assert line.numbers() == [1, 2, 3]
    outbox.add(event(4))
    assert len(waiting) == 1
    outbox.flush()
    assert line.numbers() == [1, 2, 3, 4]
    waiting.pop()()
    assert line.numbers() == [1, 2, 3, 4]


def test_a_new_link_gets_what_was_not_noted_once_more(folder: int, log: Log) -> None:
    line = Line()
    outbox = Outbox(line.send, folder, "a1", at_once, log)
    for number in range(3):
        outbox.add(event(number))
    outbox.noted(1)
    line.said.clear()
    outbox.again()
    assert [message["op"] for message in line.said] == ["again", "event", "event"]
    assert line.numbers() == [2, 3]


def test_link_is_not_flooded(folder: int, log: Log) -> None:
    line = Line()
    outbox = Outbox(line.send, folder, "a1", at_once, log)
    for number in range(WINDOW + 10):
        outbox.add(event(number))
    assert line.numbers() == list(range(1, WINDOW + 1))
    outbox.noted(WINDOW)
    assert line.numbers() == list(range(1, WINDOW + 11))


def test_without_a_line_they_are_in_a_file_that_is_ours(folder: int, log: Log, tmp_path: Path) -> None:
    line = Line()
    outbox = Outbox(line.send, folder, "a1", at_once, log)
    outbox.add(event(1))
    line.up = False
    outbox.offline()
    outbox.add(event(2))
    assert [one["uid"] for one in kept(tmp_path)] == ["a1-1", "a1-2"]
    assert outbox.saved
    path = tmp_path / "kept" / "a1.events"
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # A line again: all of them, and then the file is not needed.
    line.up = True
    line.said.clear()
    outbox.again()
    assert line.numbers() == [1, 2]
    outbox.noted(2)
    assert not path.exists()
    assert outbox.empty


def test_the_file_has_what_waits_and_nothing_twice(folder: int, log: Log, tmp_path: Path) -> None:
    line = Line()
    outbox = Outbox(line.send, folder, "a1", at_once, log)
    outbox.offline()
    for number in range(3):
        outbox.add(event(number))
    outbox.again()
    outbox.noted(1)
    outbox.offline()
    assert [one["uid"] for one in kept(tmp_path)] == ["a1-2", "a1-3"]


def test_a_full_disk_loses_nothing_while_we_live(
    folder: int, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line()
    outbox = Outbox(line.send, folder, "a1", at_once, log)
    line.up = False
    outbox.offline()

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        outbox.add(event(1))
    assert not outbox.saved
    line.up = True
    outbox.again()
    assert line.numbers() == [1]
    outbox.noted(1)
    assert kept(tmp_path) == []


def test_what_does_not_fit_is_counted(folder: int, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_outbox, "MAX_HELD", 4)
    line = Line()
    outbox = Outbox(line.send, None, "a1", at_once, log)
    line.up = False
    outbox.offline()
    for number in range(7):
        outbox.add(event(number))
    line.up = True
    outbox.again()
    outbox.noted(4)
    last = line.said[-1]["event"]
    assert (last["event"], last["count"], last["uid"]) == ("events.lost", 3, "a1-5")
    outbox.noted(5)
    assert outbox.empty


def test_what_waits_has_a_bound_in_bytes(folder: int, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs commands as long as a page while link is stuck."""
    monkeypatch.setattr(keeper_outbox, "MAX_HELD_BYTES", 10_000)
    line = Line()
    outbox = Outbox(line.send, None, "a1", at_once, log)
    for number in range(7):
        outbox.add({**event(number), "command": "x" * 3000})
    assert line.numbers() == [1, 2, 3]
    outbox.noted(3)
    assert [line.said[-1]["event"][name] for name in ("event", "count")] == ["events.lost", 4]
    outbox.noted(4)
    outbox.add({**event(8), "command": "x" * 3000})
    assert line.numbers()[-1] == 5


@pytest.mark.parametrize("letter", ["x", "é", "\u4e2d", "\U0001f600", "\x01", "\\", '"', "\ue000", "\U000f0000"])
def test_no_command_makes_an_event_that_does_not_fit(letter: str) -> None:
    """One that link cannot spool, or auth does not take, would hide its session from the list and from the log."""
    events: list[Mapping[str, object]] = []
    log = Log("test", descriptor=os.open(os.devnull, os.O_WRONLY))
    audit = Audit(events.append, lambda: 0.0, {"node": "n" * 36, "node_name": "n" * 63, "cluster": "c" * 100}, log)
    roles = [f"{number:064}" for number in range(40)]
    for length in (4000, 128 * 1024):
        grant = some_grant(role_names=tuple(roles))
        audit.session("session.start", grant, ("10.0.0.9", 22), "s" * 32, kind="exec", command=letter * length)
        line = json.dumps({**events[-1], "uid": "0123456789abcdef-123456"})
        assert len(line) < MAX_EVENT
        assert str(events[-1]["command"])
    audit.session("session.start", some_grant(), ("10.0.0.9", 22), "s" * 32, kind="exec", command="y" * 4096)
    assert events[-1]["command"] == "y" * 4096


def test_link_counts_nothing_before_the_keeper_begins_again() -> None:
    got: list[dict[str, object]] = []
    receipts = Receipts(got.append)
    assert receipts.opened() == {"op": "resend"}
    # Sent to a link before us, and still in the socket.
    assert receipts.heard({"op": "event", "n": 5, "event": {"uid": "a-5"}}) is None
    assert receipts.keeper == ""
    assert receipts.heard({"op": "again", "keeper": "a"}) is None
    assert receipts.keeper == "a"
    assert receipts.heard({"op": "event", "n": 4, "event": {"uid": "a-4"}}) == {"op": "noted", "n": 4}
    assert receipts.heard({"op": "event", "n": 5, "event": "nonsense"}) is None
    assert receipts.heard({"op": "nonsense"}) is None
    assert receipts.heard({"op": "event", "n": 5, "event": {"uid": "a-5"}}) == {"op": "noted", "n": 5}
    assert [one["uid"] for one in got] == ["a-4", "a-5"]


def test_a_file_says_that_a_keeper_lives(folder: int, log: Log, tmp_path: Path) -> None:
    """Also when it has nothing to tell: a monitor that has not met it must not take its sessions for lost."""
    outbox = Outbox(Line().send, folder, "a1", at_once, log)
    outbox.offline()
    path = tmp_path / "kept" / "a1.events"
    with path.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    outbox.close()
    assert not path.exists()


def test_the_living_are_told_when_the_dead_have_been_heard() -> None:
    speaking, told = ["a", "b"], list[dict[str, Any]]()
    census = Census(lambda: speaking, told.append, lambda: 7.0)
    for nonsense in (None, "a", {"a": 1}):
        census.taken(nonsense)
    census.look()
    assert told == []
    census.taken(["b", "c"])
    # What "a" has said is not read to its end.
    assert told == []
    speaking.remove("a")
    census.look()
    assert [(one["event"], one["keepers"]) for one in told] == [("node.living", ["b", "c"])]
    census.look()
    assert len(told) == 1
