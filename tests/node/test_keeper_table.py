"""A taken-over worker: every request out of order, replayed, borrowed or bent. It never becomes anybody."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from tests.node import proofs
from tests.node.proofs import b64
from tests.node.session_harness import LOGIN, UUID, Authority
from tinyport.core.access import Grant
from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.core.signatures import Ed25519Key, verify
from tinyport.core.sshwire import string
from tinyport.core.userauth import signed_data
from tinyport.host.accounts import Account, lookup
from tinyport.host.logging_line import Log
from tinyport.node.keeper.audit import Audit
from tinyport.node.keeper.connection import (
    FORWARDS,
    GONE,
    KEYED,
    PROVED,
    SERVED,
    TABLE,
    Answer,
    Connection,
    Endpoint,
)
from tinyport.node.keeper.documents import Documents
from tinyport.node.keeper.exchange import REKEYS_AT_ONCE
from tinyport.node.session.plan import Asked

REQUESTS = ("kex", "query", "prove", "open", "signal", "hangup", "hostkey", "gone", *FORWARDS)


class Running:
    def __init__(self) -> None:
        self.signals: list[str] = []

    def signal(self, name: str) -> None:
        self.signals.append(name)

    def hang_up(self) -> None:
        self.signals.append("HUP")


class Starter:
    def __init__(self) -> None:
        self.started: list[tuple[Grant, Asked, Running]] = []

    def account(self, grant: Grant) -> Account:
        return lookup(grant.login)

    def check_usable(self, account: Account) -> None:
        """Each may be used here."""

    def start(
        self, connection: Connection, number: int, grant: Grant, asked: Asked, request: int
    ) -> tuple[Running, Answer]:
        running = Running()
        self.started.append((grant, asked, running))
        return running, ({}, ())

    def party_dropped(self, connection: Connection, message: Mapping[str, object]) -> None:
        """Nobody has joined anything here."""

    def recording_over(self, connection: Connection, message: Mapping[str, object]) -> None:
        """Nothing is recorded here."""

    def recording_failed(self, connection: Connection, message: Mapping[str, object]) -> None:
        """Nothing is recorded here."""


class Desk:
    """A keeper's desk: documents, a clock that the test sets, and connections in it."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.host_key = self.authority.identity(folder)
        paths = {name: str(folder / f"{name}.json") for name in ("identity", "policy", "node", "floor")}
        log = Log("test", descriptor=os.open(os.devnull, os.O_WRONLY))
        self.documents = Documents(paths, log)
        self.events: list[Mapping[str, Any]] = []
        self.starter = Starter()
        self.audit = Audit(self.events.append, self.documents.now, {"node": UUID}, log)
        self.user_key = Ed25519Key.generate()
        self.certificate = self.authority.certificate(self.user_key.public_blob)
        self.time = 100.0
        self.clients: list[socket.socket] = []
        self._numbers = itertools.count(1)

    def connect(self) -> Connection:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.clients.append(socket.create_connection(listener.getsockname()))
            stream, peer = listener.accept()
        number = next(self._numbers)
        return Connection(
            number=number,
            stream=stream,
            endpoint=Endpoint("direct", peer, ("127.0.0.1", 3022)),
            version=f"tinyport_0 {number:032x}",
            identity=self.documents.identity,
            documents=self.documents,
            starter=self.starter,
            audit=self.audit,
            monotonic=lambda: self.time,
        )

    # ------------------------------------------------------------------ what a worker says

    def transcript(self, connection: Connection, **changes: bytes) -> bytes:
        return proofs.transcript(connection.version, **{"host_key": self.host_key.public_blob, **changes})

    def kex(self, connection: Connection, transcript: bytes | None = None) -> bytes:
        """Exchange keys; returns the exchange hash."""
        transcript = self.transcript(connection) if transcript is None else transcript
        answer, _ = connection.handle("kex", {"hash": "sha256", "transcript": b64(transcript)})
        hashed = hashlib.sha256(transcript).digest()
        signature = answer["signature"]
        assert isinstance(signature, bytes)
        verify(self.host_key.public_blob, hashed, signature)
        return hashed

    def request(self, **changes: Any) -> bytes:
        return proofs.request(self.certificate, **changes)

    def proof(
        self,
        session_id: bytes,
        request: bytes | None = None,
        key: Ed25519Key | None = None,
        user: str = LOGIN,
    ) -> dict[str, object]:
        return proofs.proof(session_id, self.request() if request is None else request, key or self.user_key, user)

    def prove(self, connection: Connection) -> dict[str, object]:
        """The honest way in; returns what was sent."""
        sent = self.proof(self.kex(connection))
        connection.handle("prove", sent)
        return sent


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    for client in desk.clients:
        client.close()


@pytest.fixture
def connection(desk: Desk) -> Iterator[Connection]:
    connection = desk.connect()
    yield connection
    connection.close()


OPEN: dict[str, object] = {"session": 1, "kind": "shell", "pty": None, "env": {}}


def test_the_honest_way(desk: Desk, connection: Connection) -> None:
    hashed = desk.kex(connection)
    connection.handle("query", {"user": LOGIN, "certificate": b64(desk.certificate)})
    answer, _ = connection.handle("prove", desk.proof(hashed))
    assert (answer["login"], answer["user"]) == (LOGIN, "alice")
    connection.handle("open", OPEN)
    assert desk.starter.started[0][0].login == LOGIN
    connection.handle("signal", {"session": 1, "signal": "TERM"})
    connection.handle("hangup", {"session": 1})
    assert desk.starter.started[0][2].signals == ["TERM", "HUP"]


def in_state(desk: Desk, connection: Connection, state: str) -> None:
    if state in (KEYED, PROVED):
        hashed = desk.kex(connection)
        if state == PROVED:
            connection.handle("prove", desk.proof(hashed))
    if state == GONE:
        connection.handle("gone", {})
    assert connection.state == state


@pytest.mark.parametrize("state", [SERVED, KEYED, PROVED, GONE])
@pytest.mark.parametrize("request_name", [*REQUESTS, "serve", "", "__class__", "exit"])
def test_what_the_table_does_not_unlock_ends_the_worker(
    desk: Desk, connection: Connection, state: str, request_name: str
) -> None:
    in_state(desk, connection, state)
    if (state, request_name) in TABLE:
        return
    with pytest.raises(PeerError, match="not unlocked"):
        connection.handle(request_name, {**OPEN, **desk.proof(b"x" * 32)})
    assert connection.state == state
    assert not desk.starter.started


def test_no_state_opens_sessions_but_proved() -> None:
    inside = ("open", "signal", "hangup", "hostkey", *FORWARDS)
    assert {state for state, request in TABLE if request in inside} == {PROVED}
    assert [pair for pair, after in TABLE.items() if after == PROVED and pair[0] != PROVED] == [(KEYED, "prove")]
    assert [request for state, request in TABLE if state == GONE] == []


def test_the_host_key_is_shown_in_one_form_only(desk: Desk, connection: Connection) -> None:
    hashed = desk.kex(connection)
    connection.handle("prove", desk.proof(hashed))
    key = connection.identity.key.public_blob
    answer, _ = connection.handle("hostkey", {"key": b64(key)})
    name = b"hostkeys-prove-00@openssh.com"
    shown = string(name) + string(hashed) + string(key)
    verify(key, shown, cast("bytes", answer["signature"]))
    # What was signed is no exchange hash, and of no other connection.
    for other in (hashed, string(name) + string(b"x" * 32) + string(key)):
        with pytest.raises(PeerError):
            verify(key, other, cast("bytes", answer["signature"]))
    for wrong in (b"", hashed, connection.identity.host_keys[0], Ed25519Key.generate().public_blob):
        with pytest.raises(PeerError, match=r"not the host key|malformed|empty"):
            connection.handle("hostkey", {"key": b64(wrong)})
    for _ in range(3):
        connection.handle("hostkey", {"key": b64(key)})
    with pytest.raises(Unavailable):
        connection.handle("hostkey", {"key": b64(key)})


def bad_transcripts(desk: Desk, connection: Connection) -> dict[str, bytes]:
    other = desk.connect()
    try:
        nonce = f"SSH-2.0-{other.version}".encode()
    finally:
        other.close()
    return {
        "another connection's nonce": desk.transcript(connection, server=nonce),
        "a nonce and more": desk.transcript(connection, server=f"SSH-2.0-{connection.version}0".encode()),
        "another host key": desk.transcript(connection, host_key=Ed25519Key.generate().public_blob),
        "a user's certificate as host key": desk.transcript(connection, host_key=desk.certificate),
        "no KEXINIT": desk.transcript(connection, client_kexinit=b"\x15"),
        "cut off": desk.transcript(connection)[:60],
        "empty": b"",
        "too large": desk.transcript(connection) + bytes(128 * 1024),
        "a request to sign": signed_data(os.urandom(32), desk.request()),
    }


@pytest.mark.parametrize(
    "name",
    [
        "another connection's nonce",
        "a nonce and more",
        "another host key",
        "a user's certificate as host key",
        "no KEXINIT",
        "cut off",
        "empty",
        "too large",
        "a request to sign",
    ],
)
def test_the_host_key_signs_nothing_else(desk: Desk, connection: Connection, name: str) -> None:
    with pytest.raises(PeerError):
        desk.kex(connection, bad_transcripts(desk, connection)[name])
    assert connection.state == SERVED


@pytest.mark.parametrize("name", ["md5", "sha1", "shake_128", "", "SHA256"])
def test_only_hashes_of_our_key_exchanges(desk: Desk, connection: Connection, name: str) -> None:
    with pytest.raises(PeerError):
        connection.handle("kex", {"hash": name, "transcript": b64(desk.transcript(connection))})


def test_later_exchanges_are_few_and_do_not_move_the_session_identifier(desk: Desk, connection: Connection) -> None:
    first = desk.kex(connection)
    second = desk.kex(connection)
    with pytest.raises(Unavailable, match="too often"):
        desk.kex(connection)
    with pytest.raises(AccessDenied):
        connection.handle("prove", desk.proof(second))
    connection.handle("prove", desk.proof(first))
    # Somebody who is in may have a small RekeyLimit; but not without end.
    for _ in range(int(REKEYS_AT_ONCE) - 2):
        desk.kex(connection)
    with pytest.raises(Unavailable, match="too often"):
        desk.kex(connection)
    desk.time += 1.0
    for _ in range(10):
        desk.kex(connection)
    with pytest.raises(Unavailable, match="too often"):
        desk.kex(connection)


Bend = Callable[[Desk, Connection, bytes], dict[str, object]]


def _replayed(desk: Desk, connection: Connection, hashed: bytes) -> dict[str, object]:
    other = desk.connect()
    sent = desk.prove(other)
    other.close()
    return sent


def _foreign(desk: Desk, connection: Connection, hashed: bytes) -> dict[str, object]:
    other = desk.connect()
    proof = desk.proof(desk.kex(other))
    other.close()
    return proof


def _no_principals(desk: Desk, connection: Connection, hashed: bytes) -> dict[str, object]:
    # What our issuer refuses to make: the same bytes with an empty list, signed anew.
    made = desk.authority.certificate(desk.user_key.public_blob, logins=["x"])
    body = made[: -len(string(desk.authority.user_ca.sign(b"")))]
    body = body.replace(string(string(b"x")), string(b""))
    return desk.proof(hashed, desk.request(key=body + string(desk.authority.user_ca.sign(body))))


def _certificate(**changes: Any) -> Bend:
    def bend(desk: Desk, connection: Connection, hashed: bytes) -> dict[str, object]:
        blob = desk.authority.certificate(desk.user_key.public_blob, **changes)
        return desk.proof(hashed, desk.request(key=blob))

    return bend


def _request(**changes: Any) -> Bend:
    return lambda desk, connection, hashed: desk.proof(hashed, desk.request(**changes))


BENT: dict[str, Bend] = {
    "a proof that another connection used": _replayed,
    "a proof for another connection": _foreign,
    "an invented session identifier": lambda d, c, h: d.proof(os.urandom(32)),
    "an empty session identifier": lambda d, c, h: d.proof(b""),
    "signed by another key": lambda d, c, h: d.proof(h, key=Ed25519Key.generate()),
    "signed by the CA": lambda d, c, h: d.proof(h, key=d.authority.user_ca),
    "signed by the host key": lambda d, c, h: d.proof(h, key=d.host_key),
    "another login than in the request": lambda d, c, h: d.proof(h, user="nobody"),
    "another login in the request": _request(user="nobody"),
    "another service": _request(service="ssh-userauth"),
    "another method": _request(method="hostbased"),
    "an unsigned request": _request(signed=False),
    "a plain algorithm with a certificate": _request(algorithm="ssh-ed25519"),
    "an RSA algorithm": _request(algorithm="rsa-sha2-512-cert-v01@openssh.com"),
    "more after the request": lambda d, c, h: d.proof(h, d.request() + b"\0"),
    "an empty request": lambda d, c, h: d.proof(h, b""),
    "an empty signature": lambda d, c, h: {**d.proof(h), "signature": ""},
    "a plain key": lambda d, c, h: d.proof(h, d.request(algorithm="ssh-ed25519", key=d.user_key.public_blob)),
    "the host certificate": lambda d, c, h: d.proof(h, d.request(key=d.documents.identity.certificate), d.host_key),
    "half a certificate": lambda d, c, h: d.proof(h, d.request(key=d.certificate[:100])),
    "a certificate of another CA": _certificate(ca=Ed25519Key.generate()),
    "a certificate without principals": _no_principals,
    "an expired certificate": _certificate(now=1000, ttl=1000),
    "a certificate for another login": _certificate(logins=["nobody"]),
    "a certificate with an unknown option": _certificate(critical_options={"x": "y"}),
    "a certificate for another address": _certificate(critical_options={"source-address": "10.0.0.0/8"}),
}


@pytest.mark.parametrize("name", BENT)
def test_a_bent_proof_is_refused(desk: Desk, connection: Connection, name: str) -> None:
    hashed = desk.kex(connection)
    with pytest.raises(AccessDenied):
        connection.handle("prove", BENT[name](desk, connection, hashed))
    assert connection.state == KEYED
    assert connection.grant is None
    with pytest.raises(PeerError, match="not unlocked"):
        connection.handle("open", OPEN)


def test_a_proof_works_once(desk: Desk, connection: Connection) -> None:
    sent = desk.prove(connection)
    with pytest.raises(PeerError, match="not unlocked"):
        connection.handle("prove", sent)


def test_guesses_are_counted(desk: Desk, connection: Connection) -> None:
    hashed = desk.kex(connection)
    for _ in range(6):
        with pytest.raises(AccessDenied):
            connection.handle("prove", desk.proof(os.urandom(32)))
    assert connection.exhausted
    with pytest.raises(AccessDenied, match="too many"):
        connection.handle("prove", desk.proof(hashed))
    # Six failures are one event: strangers must not fill the audit log.
    assert [event["event"] for event in desk.events] == ["auth.failed"] * len(desk.events)
    assert len(desk.events) <= 2


def test_an_agent_full_of_plain_keys_still_gets_to_its_certificate(desk: Desk, connection: Connection) -> None:
    desk.kex(connection)
    for _ in range(15):
        with pytest.raises(AccessDenied):
            connection.handle("query", {"user": LOGIN, "certificate": b64(Ed25519Key.generate().public_blob)})
    connection.handle("query", {"user": LOGIN, "certificate": b64(desk.certificate)})
    assert desk.events == []


def test_a_client_that_left_cannot_be_acted_for(desk: Desk, connection: Connection) -> None:
    desk.prove(connection)
    assert connection.alive()
    desk.clients[-1].close()
    with pytest.raises(Unavailable, match="gone"):
        connection.handle("open", OPEN)
    assert not desk.starter.started


MALFORMED_OPENS: dict[str, dict[str, object]] = {
    "no kind": {"kind": None},
    "another kind": {"kind": "root"},
    "no number": {"session": None},
    "a negative number": {"session": -1},
    "a boolean number": {"session": True},
    "no base64": {"kind": "exec", "command": "%%%"},
    "no command": {"kind": "exec"},
    "a command of megabytes": {"kind": "exec", "command": b64(bytes(200_000))},
    "pty is no object": {"pty": 1},
    "pty without size": {"pty": {"term": "x", "modes": {}}},
    "a term with control characters": {
        "pty": {"term": "x\n", "modes": {}, "columns": 1, "rows": 1, "width": 0, "height": 0}
    },
    "modes by name": {"pty": {"term": "x", "modes": {"x": 1}, "columns": 1, "rows": 1, "width": 0, "height": 0}},
    "env is a list": {"env": []},
    "env of numbers": {"env": {"LANG": 1}},
    "a huge env": {"env": {f"LC_{n}": "" for n in range(65)}},
}


@pytest.mark.parametrize("name", MALFORMED_OPENS)
def test_a_malformed_open_ends_the_worker(desk: Desk, connection: Connection, name: str) -> None:
    desk.prove(connection)
    message = {**OPEN, **MALFORMED_OPENS[name]}
    if name == "another kind":
        # Well-formed; the plan refuses it (test_session_plan).
        connection.handle("open", message)
        return
    with pytest.raises(PeerError):
        connection.handle("open", message)
    assert not desk.starter.started


def test_session_numbers_only_rise(desk: Desk, connection: Connection) -> None:
    desk.prove(connection)
    connection.handle("open", {**OPEN, "session": 5})
    for number in (5, 4):
        with pytest.raises(PeerError, match="used before"):
            connection.handle("open", {**OPEN, "session": number})
    with pytest.raises(PeerError, match="no such session"):
        connection.handle("signal", {"session": 6, "signal": "TERM"})
    with pytest.raises(AccessDenied, match="no signal"):
        connection.handle("signal", {"session": 5, "signal": "STOP"})


def test_too_many_sessions_are_a_refusal(desk: Desk, connection: Connection) -> None:
    desk.prove(connection)
    connection.max_sessions = 2
    for number in (1, 2):
        connection.handle("open", {**OPEN, "session": number})
    with pytest.raises(AccessDenied, match="too many sessions"):
        connection.handle("open", {**OPEN, "session": 3})


def test_documents_judge_those_who_are_here(desk: Desk, connection: Connection) -> None:
    desk.prove(connection)
    connection.judge_again()
    lock = {"id": "1", "target": {"login": LOGIN}, "expires": None, "message": ""}
    assert desk.documents.install(desk.authority.policy(locks=[lock])) == "policy"
    with pytest.raises(AccessDenied, match="locked"):
        connection.judge_again()


def test_permits_follow_the_policy(desk: Desk, connection: Connection) -> None:
    desk.prove(connection)
    assert connection.grant is not None
    assert "exec" in connection.grant.permits
    roles = json.loads(json.dumps(desk.authority.roles))
    roles["ops"]["options"] = {"exec": False}
    desk.documents.install(desk.authority.policy(roles=roles))
    connection.judge_again()
    assert "exec" not in connection.grant.permits


def test_the_end_of_a_certificate_ends_no_running_session(desk: Desk, connection: Connection) -> None:
    desk.certificate = desk.authority.certificate(desk.user_key.public_blob, ttl=1)
    hashed = desk.kex(connection)
    connection.handle("prove", desk.proof(hashed))
    later = desk.documents.now() + 3600
    desk.documents.now = lambda: later  # type: ignore[method-assign]
    connection.judge_again()


def test_no_message_raises_anything_but_our_errors(desk: Desk, connection: Connection) -> None:
    """Every request with every field of every wrong type: a refusal, or the worker's end."""
    values: list[object] = [None, True, -1, 2**80, 1.5, "", "\ud800", "A" * 300, [], {}, [[]], {"a": {}}]
    for state, request in TABLE:
        if request == "gone":
            continue
        for field in ("user", "certificate", "message", "signature", "hash", "transcript", "session", "kind", "env"):
            for value in values:
                fresh = desk.connect()
                in_state(desk, fresh, state)
                message = {**OPEN, **desk.proof(b"s" * 32), "certificate": b64(desk.certificate), field: value}
                try:
                    # Refused in words that a person may read, or the worker's end; nothing else escapes.
                    with contextlib.suppress(TinyportError):
                        fresh.handle(request, message)
                finally:
                    fresh.close()
                    desk.clients.pop().close()


def test_the_keeper_loads_no_ssh_library() -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; import tinyport.node.keeper.keeper; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert not {"asyncio", "asyncssh", "ssl", "logging"} & set(loaded.stdout.split())
