"""A real keeper with its workers, and a thread that plays link and monitor for it on loopback."""

from __future__ import annotations

import getpass
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.node.tiny_cluster import NAME
from tinyport.core.certificate import certificate_line, public_line
from tinyport.core.issue import issue_host_certificate, issue_user_certificate
from tinyport.core.policy import sign_document
from tinyport.core.signatures import Ed25519Key
from tinyport.host import identity_file
from tinyport.node.generations import PROTOCOL
from tinyport.node.ipc import Channel, pair
from tinyport.node.python_process import arguments, search_path, spawn

SLOWNESS = float(os.environ.get("TINYPORT_TEST_SLOWNESS", "1"))
LIMIT = 30 * SLOWNESS
CLUSTER = NAME
UUID = "0d9b0c2e-7c55-4c1a-9a3e-6c1f5a1b2c3d"
LOGIN = getpass.getuser()


def wait_for(what: str, check: Callable[[], Any], limit: float = LIMIT) -> Any:
    """Poll until ``check`` returns something true, and return it."""
    end = time.monotonic() + limit
    while not (found := check()):
        assert time.monotonic() < end, f"waited {limit:.0f} s for {what}"
        time.sleep(0.02)
    return found


class Authority:
    """The cluster's keys, and documents and certificates made with them."""

    def __init__(self) -> None:
        self.user_ca = Ed25519Key.generate()
        self.host_ca = Ed25519Key.generate()
        self.policy_key = Ed25519Key.generate()
        self.serial = 1
        self.tls_cas: list[str] = []
        self.roles: dict[str, object] = {
            "ops": {"name": "ops", "allow": {"logins": ["*"], "node_labels": {"*": ["*"]}}},
            "narrow": {
                "name": "narrow",
                "allow": {"logins": ["*"], "node_labels": {"*": ["*"]}},
                "options": {"pty": False, "sftp": False, "exec": False},
            },
        }

    def policy(self, **changes: object) -> dict[str, str]:
        body: dict[str, object] = {
            "kind": "policy",
            "cluster": CLUSTER,
            "epoch": 1,
            "serial": self.serial,
            "issued_at": int(time.time()) - 5,
            "user_cas": [public_line(self.user_ca.public_blob)],
            "host_cas": [public_line(self.host_ca.public_blob)],
            "tls_cas": self.tls_cas,
            "roles": self.roles,
            "locks": [],
            "refuse_before": {},
            "config": {},
            "proxies": [],
        }
        self.serial += 1
        return sign_document(self.policy_key, {**body, **changes})

    def node(self, **changes: object) -> dict[str, str]:
        body = {"kind": "node", "cluster": CLUSTER, "epoch": 1, "serial": 1, "uuid": UUID, "name": "shed"}
        body.update(labels={"env": "test"}, state="active", **changes)
        return sign_document(self.policy_key, body)

    def certificate(self, key: bytes, **changes: Any) -> bytes:
        """A user certificate blob for a public key blob."""
        values: dict[str, Any] = {
            "serial": 7,
            "nonce": os.urandom(32),
            "cluster": CLUSTER,
            "user": "alice",
            "logins": [LOGIN],
            "roles": ["ops"],
            "traits": {},
            "permits": ["pty", "port_forwarding"],
            "now": int(time.time()),
            "ttl": 3600,
        }
        ca = changes.pop("ca", self.user_ca)
        return issue_user_certificate(ca, public_key=key, **{**values, **changes})

    def identity(self, folder: Path) -> Ed25519Key:
        """identity.json and both documents in ``folder``; returns the host key."""
        key = Ed25519Key.generate()
        certificate = issue_host_certificate(
            self.host_ca,
            public_key=key.public_blob,
            serial=1,
            nonce=os.urandom(32),
            cluster=CLUSTER,
            uuid=UUID,
            name="shed",
            role="node",
            generation=1,
            now=int(time.time()),
            ttl=3600,
        )
        texts = dict.fromkeys(("tls_key", "tls_certificate", "server"), "-")
        lists: dict[str, list[str]] = {name: [] for name in ("tls_cas", "proxies", "ca_pins")}
        identity: dict[str, object] = {
            **texts,
            **lists,
            "version": 1,
            "kind": "node",
            "cluster": CLUSTER,
            "uuid": UUID,
            "name": "shed",
            "generation": 1,
            "ssh_key": key.to_openssh().decode(),
            "ssh_certificate": certificate_line(certificate),
            "policy_key": public_line(self.policy_key.public_blob),
            "valid_after": 0,
            "valid_before": int(time.time()) + 3600,
        }
        identity_file.save(folder / "identity.json", identity)
        (folder / "policy.json").write_text(json.dumps(self.policy()))
        (folder / "node.json").write_text(json.dumps(self.node()))
        return key


def configuration(folder: Path, **changes: object) -> dict[str, object]:
    made: dict[str, object] = {
        "protocol": PROTOCOL,
        "name": "0123456789abcdef",
        "paths": search_path(),
        **{name: str(folder / f"{name}.json") for name in ("identity", "policy", "node")},
        "floor": str(folder / "floor"),
        "worker_user": None,
        "worker_idle": 60,
        "keeper_idle": 60,
        "connections_per_worker": 0,
        "banner": "",
        "log": {"level": "info", "format": "text"},
        "limits": {},
        "privileged": False,
    }
    return {**made, **changes}


class Rig:
    """``start`` it, use it, ``stop`` it. Everything that the keeper said is in ``events`` and ``said``."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.folder = folder
        self.authority = Authority()
        self.authority.identity(folder)
        self.events: list[dict[str, Any]] = []
        self.said: list[str] = []
        #: how signing in ended, of each connection
        self.ended: list[str] = []
        #: what link is asked to send to auth: the message, and the pipe's end
        self.recordings: list[tuple[dict[str, Any], int]] = []
        self.pid = 0
        self.status: int | None = None
        self._changes = changes
        #: where the keeper itself finds its modules; ``paths`` is for its workers
        self.keeper_path = search_path()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._wake_in, self._wake_out = os.pipe()
        self._outgoing: list[tuple[dict[str, object] | None, list[int]]] = []
        self._thread: threading.Thread | None = None
        self.log_path = folder / "keeper.log"
        self.key = folder / "id"
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(f"@cert-authority * {public_line(self.authority.host_ca.public_blob)}\n")

    # ------------------------------------------------------------------ life

    def start(self) -> Rig:
        self.user_key = Ed25519Key.generate()
        self.give_certificate()
        ours, theirs = pair()
        told = os.memfd_create("configuration", os.MFD_CLOEXEC)
        os.write(told, json.dumps(configuration(self.folder, **self._changes)).encode())
        os.lseek(told, 0, os.SEEK_SET)
        stderr = os.dup(2)
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        os.dup2(log, 2)
        try:
            self.pid = spawn(arguments("tinyport.node.keeper.process", self.keeper_path), [theirs.fileno(), told])
        finally:
            os.dup2(stderr, 2)
            for descriptor in (stderr, log, told):
                os.close(descriptor)
        theirs.close()
        self._channel = Channel(ours, queue_limit=64)
        self._thread = threading.Thread(target=self._play_link)
        self._thread.start()
        return self

    def stop(self) -> None:
        if self._thread is not None:
            if self.status is None:
                os.kill(self.pid, signal.SIGTERM)
            self._thread.join(LIMIT)
            assert not self._thread.is_alive(), f"the keeper did not stop:\n{self.log()}"
        self._listener.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _play_link(self) -> None:
        poll = select.poll()
        for source in (self._listener.fileno(), self._channel.fileno(), self._wake_in):
            poll.register(source, select.POLLIN)
        while True:
            for source, _ in poll.poll():
                if source == self._listener.fileno():
                    stream, _ = self._listener.accept()
                    with stream:
                        self._channel.send({"op": "conn", "kind": "direct"}, [stream.fileno()])
                elif source == self._wake_in:
                    os.read(self._wake_in, 1)
                    told, descriptors = self._outgoing.pop(0)
                    if told is None:
                        self._end()
                        return
                    self._channel.send(told, descriptors)
                    for descriptor in descriptors:
                        os.close(descriptor)
                elif not self._heard():
                    return

    def _heard(self) -> bool:
        received = self._channel.receive()
        if received is None:
            self._end()
            return False
        message = received[0]
        if message["op"] == "record":
            self.recordings.append((message, received[1][0]))
        elif message["op"] == "event":
            self.events.append(message["event"])  # type: ignore[arg-type]
            try:
                self._channel.send({"op": "noted", "n": message["n"]})
            except BrokenPipeError:
                # It ended meanwhile; what it said before is still to be heard.
                pass
        elif message["op"] == "closing":
            self._channel.send({"op": "closed"})
        elif message["op"] == "ended":
            self.ended.append(str(message["how"]))
        self.said.append(str(message["op"]))
        return True

    def _end(self) -> None:
        self._channel.close()
        _, self.status = os.waitpid(self.pid, 0)

    # ------------------------------------------------------------------ doing

    def let_go(self) -> None:
        """Close the line, as a monitor and its link that are gone."""
        self._outgoing.append((None, []))
        os.write(self._wake_out, b"x")

    def tell(self, message: dict[str, object], *descriptors: int) -> None:
        """Something that link sends to the keeper, with descriptors that are taken over."""
        self._outgoing.append((message, list(descriptors)))
        os.write(self._wake_out, b"x")

    def install(self, signed: Mapping[str, str]) -> None:
        """A document from the cluster; returns when the keeper has it."""
        before = self.said.count("have")
        self.tell({"op": "document", "signed": dict(signed)})
        wait_for("the keeper to take a document", lambda: self.said.count("have") > before)

    def give_certificate(self, blob: bytes | None = None, **changes: Any) -> None:
        """Write the user's key and a certificate (the usual one with ``changes``) for ssh."""
        if not self.key.exists():
            self.key.touch(0o600)
            self.key.write_bytes(self.user_key.to_openssh())
        if blob is None:
            blob = self.authority.certificate(self.user_key.public_blob, **changes)
        (self.folder / "id-cert.pub").write_text(certificate_line(blob) + "\n")

    def options(self) -> list[str]:
        settings = {
            "UserKnownHostsFile": self.known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "HostKeyAlias": "shed",
            "IdentityFile": self.key,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "BatchMode": "yes",
            "ConnectTimeout": int(LIMIT),
        }
        return ["-F", "none", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]

    def command(self, *words: str, login: str = LOGIN, port: int = 0) -> list[str]:
        return ["ssh", *self.options(), "-p", str(port or self.port), f"{login}@127.0.0.1", *words]

    def ssh(
        self, *words: str, options: tuple[str, ...] = (), login: str = LOGIN, input: bytes = b"", **more: Any
    ) -> subprocess.CompletedProcess[bytes]:
        command = self.command(*words, login=login)
        command[1:1] = options
        return subprocess.run(command, input=input, capture_output=True, timeout=LIMIT, check=False, **more)

    def popen(self, *words: str, options: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        command = self.command(*words)
        command[1:1] = options
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)

    # ------------------------------------------------------------------ looking

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def event(self, name: str, **fields: object) -> dict[str, Any]:
        """Wait for an event with these fields."""

        def found() -> dict[str, Any] | None:
            for event in self.events:
                if event["event"] == name and fields.items() <= event.items():
                    return event
            return None

        made: dict[str, Any] = wait_for(f"event {name} {fields}", found)
        return made

    def workers(self) -> list[int]:
        """Pids of the keeper's workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children if name_of(int(pid)) == "tinyport-worker"]


def name_of(pid: int) -> str:
    """What the process calls itself; empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
