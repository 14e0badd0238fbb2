"""A worker that somebody took over: a real keeper starts it, and the test is its mind.

The keeper is told to find ``tinyport.node.worker.worker`` in a folder where another one lies. That one hands the test
its end of the channel and then lives for as long as the keeper lets it.
"""

from __future__ import annotations

import array
import base64
import hashlib
import itertools
import json
import os
import select
import socket
from pathlib import Path
from typing import Any

from tests.node import proofs
from tests.node.session_harness import LIMIT, LOGIN, Rig
from tinyport.core.signatures import verify
from tinyport.node.ipc import Channel
from tinyport.node.python_process import package_root, search_path

_NUMBERS = itertools.count(1)

_STUB = """
import array, os, socket

def main():
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.connect({address!r})
    line.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [3]))])
    os.close(3)
    line.sendall(b"y")
    line.recv(1)
"""


class HostileWorker:
    """``connections``: what it was given, number → ``serve`` message; ``sockets``: its duplicates of the clients'."""

    def __init__(self, line: socket.socket, rig: HostileRig) -> None:
        self._line = line
        self._rig = rig
        data, ancillary, _, _ = line.recvmsg(1, socket.CMSG_SPACE(4))
        assert data == b"x"
        # From now on it is ours alone: what we close is closed.
        assert line.recv(1) == b"y"
        (descriptor,) = array.array("i", ancillary[0][2])
        self.raw = socket.socket(fileno=descriptor)
        self.channel = Channel(self.raw)
        self.connections: dict[int, dict[str, Any]] = {}
        self.sockets: dict[int, socket.socket] = {}
        self.told: list[dict[str, Any]] = []
        #: our answers to the question whether we live, and whether the last of them was taken
        self._living: list[int] = []
        self._settled = False
        self._ids = itertools.count(1)

    def close(self) -> None:
        for stream in (self._line, *self.sockets.values()):
            stream.close()
        self.channel.close()

    # ------------------------------------------------------------------ listening

    def hear(self) -> dict[str, Any] | None:
        """The next message; None when the keeper has hung up. Descriptors of sessions are closed."""
        poll = select.poll()
        poll.register(self.raw, select.POLLIN)
        assert poll.poll(LIMIT * 1000), f"the keeper says nothing:\n{self._rig.log()}"
        received = self.channel.receive()
        if received is None:
            return None
        message, descriptors = received
        if message.get("op") == "serve":
            number = message["conn"]
            assert isinstance(number, int)
            self.connections[number] = message
            self.sockets[number] = socket.socket(fileno=descriptors.pop())
        elif message.get("op") == "alive":
            # Who does not say so is ended, whatever else it does.
            self._living.append(next(self._ids))
            self._settled = False
            self.say({"op": "alive", "id": self._living[-1]})
        elif "op" in message:
            self.told.append(message)
        elif message.get("id") in self._living:
            self._settled = True
        for descriptor in descriptors:
            os.close(descriptor)
        return message

    def given(self) -> int:
        """Wait for a connection; its number."""
        while (message := self.hear()) is not None:
            if message.get("op") == "serve":
                return int(message["conn"])
        raise AssertionError(f"the keeper has ended this worker:\n{self._rig.log()}")

    def settle(self) -> None:
        """Hear what the keeper says unasked when it has given somebody their first connection."""
        while not self._settled:
            assert self.hear() is not None

    def ended(self) -> bool:
        """Read until the keeper has hung up."""
        while self.hear() is not None:
            pass
        return True

    # ------------------------------------------------------------------ speaking

    def say(self, message: dict[str, object]) -> None:
        self.shout(json.dumps(message).encode())

    def shout(self, data: bytes) -> None:
        """Any bytes. A keeper that has hung up is no error."""
        try:
            self.raw.send(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def ask(self, op: str, number: int, **fields: object) -> dict[str, Any] | None:
        """A request and its answer; None when the keeper hung up instead."""
        identifier = next(self._ids)
        self.say({"op": op, "id": identifier, "conn": number, **fields})
        while (message := self.hear()) is not None:
            if message.get("id") == identifier:
                return message
        return None

    # ------------------------------------------------------------------ the honest way

    def transcript(self, number: int, **changes: bytes) -> bytes:
        served = self.connections[number]
        key = base64.b64decode(served["host_key"])
        return proofs.transcript(served["version"], **{"host_key": key, **changes})

    def kex(self, number: int) -> bytes:
        """Exchange keys → the session identifier."""
        transcript = self.transcript(number)
        answer = self.ask("kex", number, hash="sha256", transcript=proofs.b64(transcript))
        assert answer is not None
        assert answer["ok"], answer
        hashed = hashlib.sha256(transcript).digest()
        verify(base64.b64decode(self.connections[number]["host_key"]), hashed, base64.b64decode(answer["signature"]))
        return hashed

    def proof(self, hashed: bytes, **changes: Any) -> dict[str, object]:
        key = changes.pop("signer", self._rig.user_key)
        user = changes.pop("login", LOGIN)
        return proofs.proof(hashed, proofs.request(self._rig.certificate, **changes), key, user)

    def sign_in(self, number: int) -> dict[str, object]:
        """Kex and prove; returns the proof that did it."""
        proof = self.proof(self.kex(number))
        answer = self.ask("prove", number, **proof)
        assert answer is not None
        assert answer["ok"], answer
        return proof

    def try_to_open(self, number: int, session: int = 1) -> dict[str, Any] | None:
        """Run something as somebody: it leaves a mark when it runs."""
        return self.ask("open", number, **self._rig.order(session))


class HostileRig(Rig):
    """A keeper all of whose workers are ours to play."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self._address = f"\0tinyport-hostile-{os.getpid()}-{next(_NUMBERS)}"
        self._workers = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._workers.bind(self._address)
        self._workers.listen()
        self._workers.settimeout(LIMIT)
        overlay = folder / "overlay"
        for package in ("tinyport", "tinyport/node", "tinyport/node/worker"):
            (overlay / package).mkdir(parents=True)
            real = f"{package_root()}/{package}"
            (overlay / package / "__init__.py").write_text(f"__path__.append({real!r})\n")
        (overlay / "tinyport/node/worker/worker.py").write_text(_STUB.format(address=self._address))
        super().__init__(folder, paths=[str(overlay), *search_path()], **changes)
        self.mark = folder / "somebody-was-here"
        self.played: list[HostileWorker] = []
        self.clients: list[socket.socket] = []

    def start(self) -> HostileRig:
        super().start()
        self.certificate = self.authority.certificate(self.user_key.public_blob)
        return self

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        for worker in self.played:
            worker.close()
        super().stop()
        self._workers.close()

    def connect(self) -> socket.socket:
        """A client, which says nothing more."""
        client = socket.create_connection(("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    def worker(self) -> HostileWorker:
        """The next one that the keeper starts, ready to serve."""
        try:
            line, _ = self._workers.accept()
        except TimeoutError:
            raise AssertionError(f"no worker was started:\n{self.log()[-6000:]}") from None
        line.settimeout(LIMIT)
        worker = HostileWorker(line, self)
        self.played.append(worker)
        worker.say({"op": "ready", "missing": []})
        return worker

    def visited(self) -> tuple[HostileWorker, int]:
        """A client has come and been given to a worker: a new one when there is none."""
        self.connect()
        worker = self.worker()
        return worker, worker.given()

    def order(self, session: int = 1) -> dict[str, object]:
        """The fields of an ``open`` that leaves the mark."""
        command = f"echo >> {self.mark}".encode()
        return {
            "session": session,
            "kind": "exec",
            "command": proofs.b64(command),
            "subsystem": "",
            "pty": None,
            "env": {},
            "agent": False,
            "display": None,
        }

    def nobody_was_become(self) -> bool:
        """No session, no mark, no login in the log."""
        return (
            not self.mark.exists()
            and "Accepted publickey" not in self.log()
            and not [event for event in self.events if event["event"].startswith("session")]
        )
