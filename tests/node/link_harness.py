"""A real link process, with the test as its monitor, keeper, proxy and auth."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import ssl
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.node.tiny_cluster import LIMIT, Cluster, TunnelEnd
from tinyport.link.httphead import parse_head
from tinyport.node import identity_view
from tinyport.node.ipc import Channel, pair
from tinyport.node.python_process import light_arguments, spawn

_CODE = """
import json, os, socket
from importlib import import_module
from tinyport.node.link import link
from tinyport.node.link import inherited
from tinyport.node.link import places as link_places
from tinyport.host.logging_line import Log
told = json.loads(os.pread(7, 1 << 20, 0))
for name, value in told["constants"].items():
    module, _, constant = name.rpartition(".")
    setattr(import_module("tinyport.node." + module), constant, value)
versions = {kind: tuple(version) for kind, version in told["versions"].items()}
places = link_places.parse_places(told["reached"])
before = None if told["before"] is None else (told["before"], 8)
rest = {"proxies": told["proxies"], "reached": places, "before": before}
given = inherited.Inherited(socket.socket(fileno=3), [socket.socket(fileno=4)], 5, 6, versions, **rest)
link.run(told["config"], told["identity"], given, Log("node.link", "debug"))
"""


class Line:
    """One end of a channel, waited for."""

    def __init__(self, stream: socket.socket) -> None:
        self.channel = Channel(stream)
        self._kept: list[tuple[dict[str, Any], list[int]]] = []

    def hear(self, op: str) -> tuple[dict[str, Any], list[int]]:
        """The next message of this kind; others are kept."""
        for index, (message, _) in enumerate(self._kept):
            if message["op"] == op:
                return self._kept.pop(index)
        while True:
            ready, _, _ = select.select([self.channel], [], [], LIMIT)
            assert ready, f"no message {op!r}"
            received = self.channel.receive()
            assert received is not None, f"the line ended before {op!r}"
            if received[0]["op"] == op:
                return received
            self._kept.append(received)

    def say(self, message: dict[str, object], descriptors: tuple[int, ...] = ()) -> None:
        self.channel.send(message, descriptors)

    def ended(self) -> bool:
        """Read until the other end is closed."""
        while True:
            ready, _, _ = select.select([self.channel], [], [], LIMIT)
            assert ready, "the line is still open"
            received = self.channel.receive()
            if received is None:
                return True
            for descriptor in received[1]:
                os.close(descriptor)

    def close(self) -> None:
        for _, descriptors in self._kept:
            for descriptor in descriptors:
                os.close(descriptor)
        self.channel.close()


class AuthEnd:
    """Auth's end of link's HTTP connection."""

    def __init__(self, stream: ssl.SSLSocket) -> None:
        self.stream = stream
        self._held = b""

    def request(self) -> tuple[str, str, Any]:
        """(method, path, body) of the next request."""
        while (head := parse_head(self._held)) is None:
            self._more()
        length = head.length() or 0
        self._held = head.rest
        while len(self._held) < length:
            self._more()
        body, self._held = self._held[:length], self._held[length:]
        method, path = head.request()
        return method, path, json.loads(body) if body else None

    def _more(self) -> None:
        piece = self.stream.recv(65536)
        assert piece, "link ended the connection"
        self._held += piece

    def answer(self, body: object, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.stream.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)

    def close(self) -> None:
        self.stream.close()


class Rig:
    """Starts link; ``stop`` ends it and everything that the test opened through the rig."""

    def __init__(self, cluster: Cluster, folder: Path, **changes: Any) -> None:
        self.cluster = cluster
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(LIMIT)
        self.address = self.server.getsockname()[:2]
        self.door = socket.create_server(("127.0.0.1", 0))
        self.identity = cluster.identity(self.address)
        self.spool = folder / "spool"
        self.spool.mkdir(exist_ok=True)
        config: dict[str, object] = {
            "version": "0.1.0",
            "server": list(self.address),
            "advertise": [],
            "labels": {"model": "pi4"},
            "commands": [],
            "user": None,
        }
        config.update(changes.pop("config", {}))
        if "gone" in changes:
            # The configured server is another one; auth had named ours as well.
            config["server"] = list(changes.pop("gone"))
            self.identity["proxies"] = [f"127.0.0.1:{self.address[1]}"]
        policy = changes.pop("policy", None)
        reached = [f"127.0.0.1:{port}" for port in changes.pop("reached", [])]
        identity = {name: self.identity[name] for name in identity_view.PUBLIC}
        #: the identity before that of today (as identity.json has it), while this is on probation
        before = changes.pop("before", None)
        told = {
            "config": config,
            "identity": identity,
            "versions": changes.pop("versions", {}),
            "constants": changes.pop("constants", {}),
            "proxies": policy,
            "reached": reached,
            "before": before and {name: before[name] for name in ("tls_cas", "valid_before", "generation")},
        }
        assert not changes
        ours, theirs = pair()
        view = identity_view.create()
        identity_view.fill(view, self.identity)
        spool = os.open(self.spool, os.O_RDONLY | os.O_DIRECTORY)
        with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as kept:
            if before is not None:
                kept.write(f"{before['tls_certificate']}\n{before['tls_key']}".encode())
                kept.flush()
            file.write(json.dumps(told).encode())
            file.flush()
            fds = [theirs.fileno(), self.door.fileno(), view[1], spool, file.fileno(), kept.fileno()]
            self.pid = spawn([*light_arguments("sys", call="")[:-1], _code()], fds)
        theirs.close()
        for descriptor in (*view, spool):
            os.close(descriptor)
        self.monitor = Line(ours)
        self._opened: list[TunnelEnd | AuthEnd | Line | socket.socket] = []
        self.reports: list[dict[str, Any]] = []

    def connect(self) -> socket.socket:
        """A stranger at the node's own port."""
        stream = socket.create_connection(self.door.getsockname()[:2], LIMIT)
        self._opened.append(stream)
        return stream

    def accept(self) -> socket.socket:
        """The next TCP connection that link opens."""
        stream, _ = self.server.accept()
        stream.settimeout(LIMIT)
        self._opened.append(stream)
        return stream

    def hold(self, end: TunnelEnd) -> TunnelEnd:
        """A tunnel that was taken in another way; ``stop`` closes it."""
        self._opened.append(end)
        return end

    def tunnel(self, **changes: Any) -> TunnelEnd:
        """The next connection as a tunnel, with TLS done and nothing said."""
        context = self.cluster.server(changes.pop("kind", "proxy"), changes.pop("alpn", "tinyport-tunnel"), **changes)
        end = TunnelEnd(self.server, context)
        self._opened.append(end)
        return end

    def auth(self, kind: str = "auth", *, of: Cluster | None = None) -> AuthEnd:
        """The next connection as one to auth."""
        context = (of or self.cluster).server(kind, "tinyport-auth")
        end = AuthEnd(context.wrap_socket(self.accept(), server_side=True))
        self._opened.append(end)
        return end

    def up(self, **options: Any) -> tuple[TunnelEnd, AuthEnd, dict[str, Any]]:
        """A tunnel that stands, the connection on which auth told the time, and the hello."""
        tunnel = self.tunnel()
        hello = tunnel.greet(self.cluster, **options)
        auth = self.auth()
        method, path, _ = auth.request()
        assert (method, path.partition("=")[0]) == ("GET", "/v1/time?nonce")
        auth.answer({"document": json.dumps({"kind": "time", "time": time.time()}), "signature": ""})
        return tunnel, auth, hello

    def keeper(self, *, asked: bool = True) -> Line:
        """Give link a keeper (which the test plays), after it asked for one."""
        if asked:
            self.monitor.hear("keeper")
        ours, theirs = pair()
        self.monitor.say({"op": "keeper"}, (theirs.fileno(),))
        theirs.close()
        line = Line(ours)
        self._opened.append(line)
        line.hear("resend")
        line.say({"op": "again"})
        return line

    def state(self, tunnel: str) -> dict[str, Any]:
        """Wait for a report of this state."""
        while True:
            message, _ = self.monitor.hear("state")
            if message["tunnel"] == tunnel:
                return message

    def wait(self) -> int:
        """Link's exit status, after it ended by itself."""
        pidfd = os.pidfd_open(self.pid)
        try:
            ready, _, _ = select.select([pidfd], [], [], LIMIT)
            assert ready, "link is still there"
        finally:
            os.close(pidfd)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def stop(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        for opened in self._opened:
            opened.close()
        self.monitor.close()
        self.server.close()
        self.door.close()


def _code() -> str:
    prefix = light_arguments("x", call="")[-1].partition("; from x")[0]
    return f"{prefix}\n{_CODE.partition(chr(10))[2]}"
