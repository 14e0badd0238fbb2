"""Keepers that ask each other for sessions: who has one, who does not answer, who says nonsense."""

from __future__ import annotations

import array
import json
import os
import select
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.node.loops import run_until
from tests.node.session_harness import LIMIT
from tests.node.test_session_plan import grant
from tinyport.core.access import Grant
from tinyport.core.errors import AccessDenied, TinyportError
from tinyport.host.logging_line import Log
from tinyport.node.keeper import guests
from tinyport.node.keeper.audit import Audit
from tinyport.node.keeper.guests import Elsewhere, Guests, Neighbours
from tinyport.node.keeper.parties import MAX_PARTIES, Parties
from tinyport.node.loop import Loop

SID = "5" * 32


class Session:
    """What there is to join."""

    sid, connection, number, has_terminal = SID, 7, 1, True

    def __init__(self) -> None:
        self.owner: Grant = grant(user="owner")


class Bench:
    """An old keeper and its successor, in one loop."""

    def __init__(self, folder: Path) -> None:
        (folder / "kept").mkdir()
        self.loop = Loop()
        self.folder = os.open(folder, os.O_RDONLY)
        log = Log("test", descriptor=os.open(os.devnull, os.O_WRONLY))
        self.told: list[tuple[Mapping[str, object], int]] = []
        audit = Audit(lambda event: None, lambda: 0.0, {}, log)
        self.parties = Parties(audit, self._tell, lambda *what: None)
        self.session = Session()
        sessions = {SID: self.session}
        self.guests = Guests(self.loop, self.folder, "abc", sessions.get, self.parties, log)
        self.neighbours = Neighbours(self.loop, self.folder, log)
        self.answers: list[tuple[Elsewhere | None, TinyportError | None]] = []

    def _tell(self, number: int, message: Mapping[str, object], descriptors: Sequence[int] = ()) -> None:
        assert number == self.session.connection
        self.told.append((message, len(descriptors)))

    def find(self, sid: str = SID) -> tuple[Elsewhere | None, TinyportError | None]:
        before = len(self.answers)
        assert self.neighbours.find(sid, lambda *answer: self.answers.append(answer))
        self.spin(lambda: len(self.answers) > before)
        return self.answers[-1]

    def spin(self, check: Callable[[], object]) -> None:
        run_until(self.loop, check)

    def connect(self) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stream.settimeout(LIMIT)
        stream.connect(f"/proc/self/fd/{self.folder}/kept/abc.join")
        return stream


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.guests.open()
    yield bench
    for session, _ in bench.answers:
        if session is not None:
            session.close()
    bench.guests.close()
    bench.loop.close()
    os.close(bench.folder)


def test_a_session_is_found_where_it_is(bench: Bench) -> None:
    session, error = bench.find()
    assert session is not None
    assert error is None
    assert (session.owner.user, session.owner.role_names, session.has_terminal) == ("owner", ("ops",), True)
    session.close()
    assert bench.find("6" * 32) == (None, None)


def test_the_life_of_a_guest(bench: Bench) -> None:
    session, _ = bench.find()
    assert session is not None
    shown, show = os.pipe()
    seen: list[str] = []
    session.say("party", {"party": 99, "mode": "observer", "user": "ann", "text": "ann joins"}, [show])
    session.watch(seen.append, lambda: seen.append("over"))
    bench.spin(lambda: bench.told)
    message, count = bench.told[0]
    assert (message["op"], message["conn"], message["session"], message["text"], count) == (
        "party",
        7,
        1,
        "ann joins",
        1,
    )
    # Its number is the old keeper's own, so that its worker's word about it means something.
    bench.parties.dismiss(next(iter(bench.parties._all.values())), "too slow")
    bench.spin(lambda: seen == ["too slow", "over"])
    for descriptor in (shown, show):
        os.close(descriptor)


def test_the_end_of_a_session_and_of_its_keeper(bench: Bench) -> None:
    over: list[str] = []
    for _ in range(2):
        session, _ = bench.find()
        assert session is not None
        session.say("party", {"mode": "observer", "user": "ann", "text": "ann joins"}, [0])
        session.watch(over.append, lambda: over.append("over"))
    bench.spin(lambda: len(bench.told) == 2)
    bench.parties.session_over(bench.session)
    bench.spin(lambda: over == ["over", "over"])


def test_who_leaves(bench: Bench) -> None:
    session, _ = bench.find()
    assert session is not None
    session.say("party", {"mode": "peer", "user": "ann", "text": "ann joins"}, [0, 0])
    session.say("part", {}, [])
    bench.spin(lambda: [message["op"] for message, _ in bench.told] == ["party", "part"])
    assert bench.told[1][0]["text"] == "ann leaves"


def test_no_more_than_fit(bench: Bench) -> None:
    for _ in range(MAX_PARTIES):
        session, _ = bench.find()
        assert session is not None
        session.say("party", {"mode": "observer", "user": "ann", "text": ""}, [0])
        bench.spin(lambda: bench.told)
    bench.spin(lambda: len(bench.told) == MAX_PARTIES)
    session, error = bench.find()
    assert session is None
    assert isinstance(error, AccessDenied)


def test_nobody_to_ask(bench: Bench, tmp_path: Path) -> None:
    bench.guests.close()
    assert not bench.neighbours.find(SID, lambda *answer: None)
    # One that was killed left its socket behind.
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(f"/proc/self/fd/{bench.folder}/kept/dead.join")
    stale.close()
    assert not bench.neighbours.find(SID, lambda *answer: None)
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_keeper_that_does_not_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "ANSWER_LIMIT", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stuck:
        stuck.bind(f"/proc/self/fd/{bench.folder}/kept/stuck.join")
        stuck.listen()
        bench.guests.close()
        assert bench.find() == (None, None)


def _readable(stream: socket.socket) -> bool:
    return bool(select.select([stream], [], [], 0)[0])


NONSENSE: list[Any] = [
    None,
    [],
    {},
    {"op": "find"},
    {"op": "find", "sid": 7},
    {"op": "find", "sid": "x" * 1000},
    {"op": "party", "sid": SID},
    {"op": "party", "sid": SID, "mode": 7, "user": "u", "text": "t"},
    {"op": "party", "sid": "none", "mode": "peer", "user": "u", "text": "t"},
    {"op": "party", "sid": SID, "mode": "peer", "user": "u" * 1000, "text": "t"},
    {"op": "dropped", "sid": SID},
]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nonsense_ends_its_line_and_nothing_else(bench: Bench, count: int) -> None:
    for word in NONSENSE:
        with bench.connect() as stream:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * count))] if count else []
            stream.sendmsg([json.dumps(word).encode()], rights)
            bench.spin(partial(_readable, stream))
            assert stream.recv(100) == b""
    assert not bench.guests._lines
    assert bench.told == []
    assert bench.find()[0] is not None
