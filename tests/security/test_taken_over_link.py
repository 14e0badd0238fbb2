"""A link that was taken over: it may drop, delay and refuse, and see who comes. It opens nothing, and ends no session.

The harness plays link for a real keeper; here it does so badly. What only whole programs show of link (its user, what
it finds open) is in ``node/test_monitor.py``, what it says to auth in ``auth/test_hostile.py``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.node.session_harness import LIMIT, Authority, Rig, wait_for

TICKET = "ab" * 32


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.authority.roles["office"] = {"name": "office", "options": {"source_networks": ["192.0.2.0/24"]}}
    rig.start()
    rig.install(rig.authority.policy())
    yield rig
    rig.stop()


@pytest.fixture
def session(rig: Rig) -> Iterator[Callable[[], None]]:
    """Somebody is here; call it to see that they still are, and that others get in."""
    with rig.popen("echo here; cat") as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.readline() == b"here\n"

        def goes_on() -> None:
            assert running.stdin is not None
            assert running.stdout is not None
            running.stdin.write(b"still\n")
            running.stdin.flush()
            assert running.stdout.readline() == b"still\n"
            assert rig.ssh("echo in").stdout == b"in\n", rig.log()
            assert rig.status is None

        yield goes_on
        running.communicate(b"", LIMIT)


def heard(rig: Rig) -> None:
    """Everything that was told before has been heard: answers come in order."""
    before = rig.said.count("have")
    rig.tell({"op": "reread"})
    wait_for("the keeper to answer", lambda: rig.said.count("have") > before)


# ---------------------------------------------------------------------------- connections that are none

Thing = Callable[[Path], int]


def _file(folder: Path) -> int:
    return os.open(folder / "a file", os.O_RDWR | os.O_CREAT)


def _pipe(folder: Path) -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


def _socket(family: int, kind: int) -> Thing:
    def make(folder: Path) -> int:
        return socket.socket(family, kind).detach()

    return make


def _listening(folder: Path) -> int:
    return socket.create_server(("127.0.0.1", 0)).detach()


def _pair(folder: Path) -> int:
    ours, theirs = socket.socketpair()
    ours.close()
    return theirs.detach()


THINGS: dict[str, Thing] = {
    "a file": _file,
    "a folder": lambda folder: os.open(folder, os.O_RDONLY),
    "a pipe": _pipe,
    "nothing": lambda folder: os.open("/dev/null", os.O_RDWR),
    "memory": lambda folder: os.memfd_create("x"),
    "a unix socket": _pair,
    "a datagram socket": _socket(socket.AF_INET, socket.SOCK_DGRAM),
    "a socket without a peer": _socket(socket.AF_INET, socket.SOCK_STREAM),
    "one that listens": _listening,
}
DIAL = {
    "kind": "dial",
    "peer": ["192.0.2.1", 5],
    "local": ["192.0.2.2", 6],
    "ticket": TICKET,
    "proxy": "p",
    "server": "s",
}


@pytest.mark.parametrize("kind", ["direct", "dial"])
def test_what_is_no_connection(rig: Rig, session: Callable[[], None], kind: str, tmp_path: Path) -> None:
    before = len(os.listdir(f"/proc/{rig.pid}/fd"))
    for make in THINGS.values():
        rig.tell({"op": "conn", **({"kind": "direct"} if kind == "direct" else DIAL)}, make(tmp_path))
    rig.tell({"op": "conn", "kind": kind})
    rig.tell({"op": "conn", "kind": kind}, _pipe(tmp_path), _pipe(tmp_path))
    heard(rig)
    # Processes that wait for a session may have left meanwhile.
    assert len(os.listdir(f"/proc/{rig.pid}/fd")) <= before
    session()
    assert "Traceback" not in rig.log()


WRONG: list[object] = [
    None,
    7,
    [],
    {},
    ["x"],
    [None, None],
    ["1.2.3.4", -1],
    ["1.2.3.4", 2**70],
    "x" * 10_000,
    ["y" * 99, 1],
]


def test_connections_with_wrong_fields(rig: Rig, session: Callable[[], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for field in ("kind", "peer", "local", "ticket", "proxy", "server"):
            for value in WRONG:
                client = socket.create_connection(server.getsockname())
                accepted, _ = server.accept()
                rig.tell({"op": "conn", **DIAL, field: value}, accepted.detach())
                client.settimeout(LIMIT)
                assert client.recv(1) == b"", (field, value)
                client.close()
    session()


# ---------------------------------------------------------------------------- words

WORDS: list[dict[str, object]] = [
    {},
    {"op": None},
    {"op": ["conn"]},
    {"op": {"conn": 1}},
    {"op": "x" * 100_000},
    {"op": "\ud800"},
    {"op": "keeper"},
    {"op": "event", "n": 1, "event": {}},
    {"op": "document"},
    {"op": "document", "signed": []},
    {"op": "document", "signed": {"document": "{}", "signature": "x"}},
    {"op": "document", "signed": {"document": 7, "signature": None}},
    {"op": "time"},
    {"op": "time", "signed": {}, "monotonic": "soon"},
    {"op": "noted"},
    {"op": "noted", "n": "all"},
    {"op": "noted", "n": 2**70},
    {"op": "noted", "n": -1},
    {"op": "recording"},
    {"op": "recording", "sid": ["x"]},
    {"op": "unrecorded", "sid": "none of ours", "message": 7},
    {"op": "closed"},
    {"op": "warm"},
]


def test_words_out_of_place(rig: Rig, session: Callable[[], None]) -> None:
    """Link is not a peer to be ended: what makes no sense is left aside."""
    for word in WORDS:
        rig.tell(word)
        rig.tell(word, os.memfd_create("x"))
    heard(rig)
    session()
    assert "Traceback" not in rig.log()


def test_floods(rig: Rig, session: Callable[[], None]) -> None:
    for _ in range(40):
        for _ in range(25):
            rig.tell({"op": "warm"})
            rig.tell({"op": "resend"})
        # As much as fits into the line.
        heard(rig)
    assert len(rig.workers()) == 1
    session()


def test_what_is_no_message_ends_the_line_and_no_session(rig: Rig) -> None:
    with rig.popen("echo here; cat") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"here\n"
        rig._channel._stream.send(b"no message")
        wait_for("the keeper to let go", lambda: rig.status is not None or "the line to link broke" in rig.log())
        output, _ = running.communicate(b"to the end\n", LIMIT)
        assert (running.returncode, output) == (0, b"to the end\n")


# ---------------------------------------------------------------------------- what it cannot bring about


def forged(signed: Mapping[str, str], **changes: object) -> dict[str, str]:
    return {**signed, "document": json.dumps({**json.loads(signed["document"]), **changes})}


def test_a_policy_of_its_own_or_of_another_day(rig: Rig, session: Callable[[], None]) -> None:
    lock = {"id": "1", "target": {"user": "bob"}, "expires": None, "message": "locked out"}
    old = rig.authority.policy()
    rig.install(rig.authority.policy(locks=[lock]))
    rig.give_certificate(user="bob")
    mallory = Authority()
    for signed in (
        old,
        forged(rig.authority.policy(), locks=[]),
        forged(old, serial=10_000),
        mallory.policy(serial=10_000, epoch=9),
    ):
        rig.tell({"op": "document", "signed": dict(signed)})
        large = os.memfd_create("x")
        os.write(large, json.dumps(signed).encode())
        rig.tell({"op": "document"}, large)
    heard(rig)
    assert b"locked out" in rig.ssh("true").stderr
    rig.give_certificate()
    session()


def test_where_somebody_comes_from_is_the_kernels_word(rig: Rig) -> None:
    """A role that lets people in from the office alone: link cannot say that a stranger comes from there."""
    rig.give_certificate(roles=["ops", "office"])
    with socket.create_server(("127.0.0.1", 0)) as door:
        command = rig.command("echo in", port=door.getsockname()[1])
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ssh:
            stream, _ = door.accept()
            lie: dict[str, object] = {
                "op": "conn",
                "kind": "direct",
                "peer": ["192.0.2.7", 5022],
                "local": ["192.0.2.1", 22],
            }
            rig.tell(lie, stream.detach())
            output, errors = ssh.communicate(timeout=LIMIT)
    assert (ssh.returncode, output) == (255, b"")
    assert b"does not let you in from 127.0.0.1" in errors, errors
