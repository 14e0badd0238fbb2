"""A taken-over worker against a real keeper, byte for byte: whatever it says, it becomes nobody who did not just prove
to it who they are. ``test_keeper_table`` has more bent proofs; here is what only whole processes can show.
"""

from __future__ import annotations

import array
import itertools
import json
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.proofs import b64
from tests.node.session_harness import LIMIT, LOGIN, wait_for
from tests.security.hostile import HostileRig, HostileWorker
from tinyport.core.signatures import Ed25519Key
from tinyport.core.userauth import signed_data
from tinyport.node.keeper.connection import GONE, KEYED, PROVED, SERVED, TABLE

REQUESTS = sorted({request for _, request in TABLE})


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[HostileRig]:
    rig = HostileRig(tmp_path, connections_per_worker=1, worker_idle=0).start()
    yield rig
    rig.stop()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[HostileRig]:
    """One worker serves many."""
    rig = HostileRig(tmp_path).start()
    yield rig
    rig.stop()


def _honest(rig: HostileRig) -> None:
    """The keeper serves somebody else as if nothing had been."""
    _serve_honestly(rig, *rig.visited())


def _serve_honestly(rig: HostileRig, worker: HostileWorker, number: int) -> None:
    worker.sign_in(number)
    answer = worker.try_to_open(number)
    assert answer is not None
    assert answer["ok"], answer
    wait_for("the session to run", rig.mark.exists)


def test_a_proof_opens_a_session(rig: HostileRig) -> None:
    """Without this the rest would show nothing."""
    assert rig.nobody_was_become()
    _honest(rig)
    assert not rig.nobody_was_become()


def _everything(rig: HostileRig, worker: HostileWorker) -> dict[str, object]:
    """Fields that would do for any request."""
    return {
        **rig.order(),
        **worker.proof(os.urandom(32)),
        "hash": "sha256",
        "transcript": b64(os.urandom(64)),
        "certificate": b64(rig.certificate),
        "signal": "TERM",
        "host": "127.0.0.1",
        "port": rig.port,
        "listener": 1,
    }


@pytest.mark.parametrize("state", [SERVED, KEYED, PROVED])
def test_what_is_not_unlocked_ends_the_worker(rig: HostileRig, state: str) -> None:
    for request in [*REQUESTS, "serve", "exit", "ready", "leave", ""]:
        if (state, request) in TABLE:
            continue
        worker, number = rig.visited()
        if state in (KEYED, PROVED):
            hashed = worker.kex(number)
            if state == PROVED:
                worker.ask("prove", number, **worker.proof(hashed))
        assert worker.ask(request, number, **_everything(rig, worker)) is None, request
    assert not rig.mark.exists()
    if state != PROVED:
        assert rig.nobody_was_become()
    _honest(rig)


def test_nothing_is_done_for_a_connection_that_is_over(shared: HostileRig) -> None:
    worker, number = shared.visited()
    worker.sign_in(number)
    answer = worker.ask("gone", number)
    assert answer is not None
    assert answer["ok"]
    for request in REQUESTS:
        answer = worker.ask(request, number, **_everything(shared, worker))
        assert answer is not None, request
        assert (answer["ok"], answer["message"]) == (False, "the connection is gone"), request
    assert (GONE, "open") not in TABLE
    assert not shared.mark.exists()


def test_a_worker_that_was_not_ready_is_not_heard(rig: HostileRig) -> None:
    rig.connect()
    line, _ = rig._workers.accept()
    line.settimeout(LIMIT)
    worker = HostileWorker(line, rig)
    rig.played.append(worker)
    worker.say({"op": "kex", "id": 1, "conn": 1})
    assert worker.ended()
    # The client that waits gets another one.
    successor = rig.worker()
    _serve_honestly(rig, successor, successor.given())


# ---------------------------------------------------------------------------- other people's connections


def test_another_connection_of_the_same_worker_stays_locked(shared: HostileRig) -> None:
    worker, first = shared.visited()
    shared.connect()
    second = worker.given()
    worker.sign_in(first)
    # The one that proved nothing gets nothing, and the attempt costs the worker its life.
    assert worker.try_to_open(second) is None
    assert not shared.mark.exists()


def test_a_proof_is_good_for_its_own_connection(shared: HostileRig) -> None:
    worker, first = shared.visited()
    shared.connect()
    second = worker.given()
    proof = worker.sign_in(first)
    worker.kex(second)
    answer = worker.ask("prove", second, **proof)
    assert answer is not None
    assert not answer["ok"]
    assert worker.try_to_open(second) is None
    assert not shared.mark.exists()


def test_the_same_exchange_hash_cannot_be_had_twice(shared: HostileRig) -> None:
    """The transcript of one connection, shown for another: its nonce is not that one's."""
    worker, first = shared.visited()
    shared.connect()
    second = worker.given()
    transcript = worker.transcript(first)
    answer = worker.ask("kex", first, hash="sha256", transcript=b64(transcript))
    assert answer is not None
    assert answer["ok"]
    assert worker.ask("kex", second, hash="sha256", transcript=b64(transcript)) is None


def test_another_workers_connection_is_out_of_reach(rig: HostileRig) -> None:
    victim, number = rig.visited()
    victim.sign_in(number)
    thief, own = rig.visited()
    assert own != number
    for request in REQUESTS:
        answer = thief.ask(request, number, **_everything(rig, thief))
        assert answer is not None, request
        assert not answer["ok"], request
    assert not rig.mark.exists()
    # Nothing that the thief said ended it, either.
    answer = victim.try_to_open(number)
    assert answer is not None
    assert answer["ok"]
    # And one that nobody has had yet is nobody's.
    assert thief.ask("kex", number + 1000) is None


# ---------------------------------------------------------------------------- other people's proofs

Bend = Callable[[HostileRig, HostileWorker, bytes], dict[str, object]]


def _captured_elsewhere(rig: HostileRig, worker: HostileWorker, hashed: bytes) -> dict[str, object]:
    """A person signed in to another machine, whose worker kept the proof: the same cluster, another host key."""
    folder = rig.folder / "elsewhere"
    folder.mkdir()
    other = HostileRig(folder, connections_per_worker=1)
    other.authority = rig.authority
    other.authority.identity(folder)
    other.start()
    try:
        other.user_key, other.certificate = rig.user_key, rig.certificate
        played, number = other.visited()
        return played.sign_in(number)
    finally:
        other.stop()


def _captured_here(rig: HostileRig, worker: HostileWorker, hashed: bytes) -> dict[str, object]:
    other, number = rig.visited()
    return other.proof(other.kex(number))


def _invented(rig: HostileRig, worker: HostileWorker, hashed: bytes) -> dict[str, object]:
    return worker.proof(os.urandom(32))


BENT: dict[str, Bend] = {
    "captured on another machine": _captured_elsewhere,
    "captured on another connection": _captured_here,
    "for an exchange hash of its own making": _invented,
    "signed by somebody else's key": lambda r, w, h: w.proof(h, signer=Ed25519Key.generate()),
    "for another login than the one signed": lambda r, w, h: w.proof(h, login="nobody"),
    "for a login that the certificate does not name": lambda r, w, h: w.proof(h, login="nobody", user="nobody"),
    "for another service": lambda r, w, h: w.proof(h, service="ssh-userauth"),
    "for another method": lambda r, w, h: w.proof(h, method="hostbased"),
    "that says it is unsigned": lambda r, w, h: w.proof(h, signed=False),
    "with a plain algorithm and a certificate": lambda r, w, h: w.proof(h, algorithm="ssh-ed25519"),
    "with ssh-rsa": lambda r, w, h: w.proof(h, algorithm="ssh-rsa-cert-v01@openssh.com"),
    "by a plain key": lambda r, w, h: w.proof(h, algorithm="ssh-ed25519", key=r.user_key.public_blob),
    "by a certificate of its own issuing": lambda r, w, h: w.proof(
        h, key=r.authority.certificate(r.user_key.public_blob, ca=Ed25519Key.generate())
    ),
    "with the certificate that was asked about and another in the proof": lambda r, w, h: w.proof(
        h, key=r.authority.certificate(r.user_key.public_blob, logins=["nobody"])
    ),
}


@pytest.mark.parametrize("name", BENT)
def test_a_bent_proof_opens_nothing(rig: HostileRig, name: str) -> None:
    worker, number = rig.visited()
    hashed = worker.kex(number)
    # Asking first whether the good certificate would do changes nothing about what is proved.
    answer = worker.ask("query", number, user=LOGIN, certificate=b64(rig.certificate))
    assert answer is not None
    assert answer["ok"]
    answer = worker.ask("prove", number, **BENT[name](rig, worker, hashed))
    assert answer is not None
    assert not answer["ok"], answer
    assert worker.try_to_open(number) is None
    assert not rig.mark.exists()


def test_a_proof_counts_once(rig: HostileRig) -> None:
    worker, number = rig.visited()
    proof = worker.sign_in(number)
    assert worker.ask("prove", number, **proof) is None


def test_the_session_identifier_is_that_of_the_first_exchange(rig: HostileRig) -> None:
    worker, number = rig.visited()
    first, second = worker.kex(number), worker.kex(number)
    answer = worker.ask("prove", number, **worker.proof(second))
    assert answer is not None
    assert not answer["ok"]
    # And no third for somebody who has proved nothing.
    transcript = b64(worker.transcript(number))
    answer = worker.ask("kex", number, hash="sha256", transcript=transcript)
    assert answer is not None
    assert not answer["ok"]
    answer = worker.ask("prove", number, **worker.proof(first))
    assert answer is not None
    assert answer["ok"]


@pytest.mark.parametrize("part", ["server", "host_key", "client_kexinit"])
def test_the_host_key_signs_for_this_connection_of_this_machine_alone(rig: HostileRig, part: str) -> None:
    worker, number = rig.visited()
    bent = {
        "server": b"SSH-2.0-" + worker.connections[number]["version"].encode()[:-1] + b"x",
        "host_key": Ed25519Key.generate().public_blob,
        "client_kexinit": b"no such message",
    }
    transcript = worker.transcript(number, **{part: bent[part]})
    assert worker.ask("kex", number, hash="sha256", transcript=b64(transcript)) is None


def test_the_host_key_signs_no_request_for_authentication(rig: HostileRig) -> None:
    """What a user would sign elsewhere, shown as a transcript."""
    worker, number = rig.visited()
    wanted = signed_data(os.urandom(32), os.urandom(200))
    assert worker.ask("kex", number, hash="sha256", transcript=b64(wanted)) is None


# ---------------------------------------------------------------------------- numbers, ends


def test_numbers_of_sessions_are_not_used_again(rig: HostileRig) -> None:
    worker, number = rig.visited()
    worker.sign_in(number)
    answer = worker.try_to_open(number, 7)
    assert answer is not None
    assert answer["ok"]
    assert worker.try_to_open(number, 7) is None


def test_nobody_acts_for_a_client_that_has_left(rig: HostileRig) -> None:
    worker, number = rig.visited()
    worker.sign_in(number)
    rig.clients[-1].close()
    answer = worker.try_to_open(number)
    assert answer is not None
    assert (answer["ok"], answer["message"]) == (False, "the connection is gone")
    assert not rig.mark.exists()


def test_nobody_acts_for_a_client_that_has_hung_up_half(rig: HostileRig) -> None:
    """SSH clients say EOF inside of SSH; one that shuts its end of TCP down has left."""
    worker, number = rig.visited()
    worker.sign_in(number)
    rig.clients[-1].shutdown(socket.SHUT_WR)
    answer = worker.try_to_open(number)
    assert answer is not None
    assert not answer["ok"]


def test_the_end_of_a_connection_is_not_the_workers_to_put_off(rig: HostileRig) -> None:
    """A lock holds from the moment that the keeper knows of it, and not when the worker has said goodbye."""
    worker, number = rig.visited()
    worker.sign_in(number)
    lock = {"id": "1", "target": {"login": LOGIN}, "expires": None, "message": ""}
    rig.install(rig.authority.policy(locks=[lock]))
    answer = worker.try_to_open(number)
    assert worker.told[0]["op"] == "end"
    assert answer is not None
    assert not answer["ok"], answer
    assert not rig.mark.exists()


# ---------------------------------------------------------------------------- nonsense

NONSENSE: dict[str, bytes] = {
    "no JSON": b"\x00\xff" * 100,
    "no object": b"[1, 2]",
    "a number": b"7",
    "half": b'{"op": "kex", "id": 1',
    "deep": b'{"op": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "an endless number": b'{"op": "kex", "id": 1' + b"0" * 200_000 + b', "conn": N}',
    "NaN": b'{"op": "kex", "id": NaN, "conn": N}',
    "infinite": b'{"op": "kex", "id": 1, "conn": Infinity}',
    "a fraction": b'{"op": "kex", "id": 1.5, "conn": N}',
    "a negative number": b'{"op": "kex", "id": -1, "conn": N}',
    "true": b'{"op": "kex", "id": 1, "conn": true}',
    "no request": b'{"id": 1, "conn": N}',
    "a request that is a list": b'{"op": ["kex"], "id": 1, "conn": N}',
    "a request as long as a message": b'{"id": 1, "conn": N, "op": "' + b"x" * 200_000 + b'"}',
    "half a surrogate": b'{"op": "\\ud800", "id": 1, "conn": N}',
    "no number of a connection": b'{"op": "kex", "id": 1}',
}


def test_nonsense_ends_the_worker_and_nothing_else(rig: HostileRig) -> None:
    for name, data in NONSENSE.items():
        worker, number = rig.visited()
        worker.shout(data.replace(b'"conn": N', b'"conn": %d' % number))
        assert worker.ended(), name
    assert "Traceback" not in rig.log()
    assert rig.nobody_was_become()
    _honest(rig)


WRONG: dict[str, dict[str, object]] = {
    "kex": {"hash": "sha256", "transcript": b64(bytes(64))},
    "query": {"user": LOGIN, "certificate": b64(b"x")},
    "prove": {"user": LOGIN, "message": b64(b"x"), "signature": b64(b"x")},
    "open": {"session": 1, "kind": "exec", "command": b64(b"true"), "pty": None, "env": {}},
    "signal": {"session": 0, "signal": "TERM"},
}
VALUES: list[object] = [None, True, -1, 2**80, 1.5, "\ud800", "A" * 200_000, [], {}, [[]], {"a": {}}]


@pytest.mark.parametrize("request_name", WRONG)
def test_fields_of_wrong_types_and_sizes(shared: HostileRig, request_name: str) -> None:
    """Each field with each value: an answer that refuses, or the worker's end."""
    good = WRONG[request_name]
    for field in good:
        for value in VALUES:
            if good[field] == value:
                continue
            worker, number = _in_the_right_state(shared, request_name)
            answer = worker.ask(request_name, number, **{**good, field: value})
            assert answer is None or not answer["ok"], (field, value)
            worker.close()
    assert "Traceback" not in shared.log()
    assert not shared.mark.exists()


def _in_the_right_state(rig: HostileRig, request: str) -> tuple[HostileWorker, int]:
    worker, number = rig.visited()
    if request != "kex":
        hashed = worker.kex(number)
        if request not in ("query", "prove"):
            worker.ask("prove", number, **worker.proof(hashed))
    return worker, number


# ---------------------------------------------------------------------------- descriptors


def _keepers_descriptors(rig: HostileRig) -> list[str]:
    return [os.readlink(entry.path) for entry in os.scandir(f"/proc/{rig.pid}/fd")]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root, to look at the keeper's descriptors")
def test_descriptors_of_a_worker_are_not_kept(rig: HostileRig, tmp_path: Path) -> None:
    worker, number = rig.visited()
    worker.kex(number)
    with open(tmp_path / "gift", "w") as gift:
        for count in (1, 8, 100):
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [gift.fileno()] * count))]
            message = {"op": "query", "id": 10_000 + count, "conn": number, "user": LOGIN, "certificate": b64(b"x")}
            try:
                worker.raw.sendmsg([json.dumps(message).encode()], rights)
            except PermissionError:
                # Linux 6.16: SO_PASSRIGHTS.
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
            worker.hear()
        assert not [target for target in _keepers_descriptors(rig) if "gift" in target]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root, to look at the keeper's descriptors")
def test_the_keeper_gives_workers_nothing_but_their_own(rig: HostileRig) -> None:
    """What a worker process finds open when it starts: its channel (which the stub has handed over) and no more."""
    worker, _ = rig.visited()
    (pid,) = [int(child) for child in Path(f"/proc/{rig.pid}/task/{rig.pid}/children").read_text().split()]
    found = {entry.name: os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
    assert found.pop("0") == "/dev/null"
    assert {found.pop("1"), found.pop("2")}
    # 4 is its configuration, 5 the stub's line to the test.
    assert "tinyport-configuration" in found.pop("4", "tinyport-configuration")
    assert found.keys() == {"5"}, found
    assert found["5"].startswith("socket:")
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert {line.partition(b"=")[0] for line in environment.split(b"\0") if line} <= {b"PATH", b"TZ", b"LANG"}
    del worker


# ---------------------------------------------------------------------------- patience


def test_a_lingering_socket_does_not_hold_the_keeper_up(rig: HostileRig) -> None:
    """SO_LINGER is the connection's, not the descriptor's: whoever closes it last waits, were it for an hour."""
    client = rig.connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    worker = rig.worker()
    number = worker.given()
    stream = worker.sockets.pop(number)
    stream.setblocking(False)
    _fill(stream)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    stream.close()
    answer = worker.ask("gone", number)
    assert answer is None or answer["ok"]
    _honest(rig)


def test_a_worker_that_does_not_read_is_ended_and_costs_others_nothing(rig: HostileRig) -> None:
    worker, number = rig.visited()
    worker.kex(number)
    before = _resident(rig.pid)
    # Each of them is answered, and no answer is read.
    query = json.dumps({"op": "gone", "id": 2**50, "conn": 0}).encode()
    worker.raw.settimeout(LIMIT)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        _send_for_ever(worker.raw, query)
    _honest(rig)
    assert _resident(rig.pid) - before < 32 * 1024 * 1024
    assert "does not read" in rig.log()


def _send_for_ever(stream: socket.socket, data: bytes) -> None:
    while True:
        stream.send(data)


def _fill(stream: socket.socket) -> int:
    """Send until the kernel takes no more; how often."""
    for count in itertools.count():
        try:
            stream.send(bytes(65536))
        except BlockingIOError:
            return count
    raise AssertionError("never")


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_flood_of_one_worker_does_not_starve_another(rig: HostileRig) -> None:
    """It asks as fast as it can, and reads its answers: the other gets its turn between any two of its requests."""
    flood, number = rig.visited()
    flood.kex(number)
    rig.connect()
    other = rig.worker()
    asked = 0
    second = other.given()
    other.settle()
    flood.raw.setblocking(False)
    ask = json.dumps({"op": "query", "id": 1, "conn": number, "user": LOGIN, "certificate": b64(rig.certificate)})

    def pour() -> int:
        for count in itertools.count():
            try:
                flood.raw.send(ask.encode())
            except BlockingIOError:
                return count
        raise AssertionError("never")

    asked += pour()
    transcript = other.transcript(second)
    other.say({"op": "kex", "id": 99, "conn": second, "hash": "sha256", "transcript": b64(transcript)})
    answered = 0
    while True:
        # The flooder's queue never runs dry before the other has its answer.
        asked += pour()
        if _readable(other.raw):
            break
        if _readable(flood.raw):
            assert flood.hear() is not None
            answered += 1
    message = other.hear()
    assert message is not None
    assert message["ok"]
    # What stood in the flooder's socket before is a few hundred; a fair keeper answers one of them, or some few.
    assert answered < asked


def _readable(stream: socket.socket) -> bool:
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(0))
