"""Dial-back: the worker is a TLS client first, and gives its ticket to nobody but the proxy that asked."""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.session_harness import LIMIT, Rig, wait_for
from tests.node.tiny_cluster import Cluster

TICKET = "ab" * 32


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def rig(tmp_path: Path, cluster: Cluster) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.authority.tls_cas = [cluster.tls_ca]
    rig.start()
    rig.install(rig.authority.policy())
    yield rig
    rig.stop()


def ask_to_dial(rig: Rig, address: tuple[str, int], proxy: str) -> None:
    stream = socket.create_connection(address)
    rig.tell(
        {
            "op": "conn",
            "kind": "dial",
            "peer": ["192.0.2.7", 4711],
            "local": ["198.51.100.1", 3023],
            "ticket": TICKET,
            "proxy": proxy,
            "server": "proxy.example:443",
        },
        stream.detach(),
    )


def splice(left: socket.socket, right: ssl.SSLSocket) -> None:
    """Copy both ways until one side ends."""
    while True:
        ready = [right] if right.pending() else select.select([left, right], [], [])[0]
        for source in ready:
            data = source.recv(65536)
            if not data:
                left.close()
                right.close()
                return
            (right if source is left else left).sendall(data)


def test_a_session_through_a_proxy(rig: Rig, cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.create_server(("127.0.0.1", 0)) as public:
        command = rig.command("echo $SSH_CONNECTION; cat", port=public.getsockname()[1])
        pipe = subprocess.PIPE
        client = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        accepted, _ = public.accept()
        ask_to_dial(rig, proxy.getsockname(), cluster.proxy_uuid)
        dialled, _ = proxy.accept()
        secure = cluster.server("proxy", "tinyport-dial", client="none").wrap_socket(dialled, server_side=True)
        ticket = b""
        while not ticket.endswith(b"\n"):
            # Byte by byte: what follows is SSH and not ours.
            ticket += secure.recv(1)
        assert ticket == f"{TICKET}\n".encode()
        thread = threading.Thread(target=splice, args=(accepted, secure))
        thread.start()
        data = bytes(range(256)) * 4000
        output, error = client.communicate(data, LIMIT)
        thread.join(LIMIT)
    first, _, rest = output.partition(b"\n")
    # The client's address is the one of the notice, not the proxy's.
    assert first == b"192.0.2.7 4711 198.51.100.1 3023", error
    assert rest == data
    assert client.returncode == 0


@pytest.mark.parametrize("who", ["another proxy", "auth", "a stranger"])
def test_the_ticket_is_for_one_proxy_alone(rig: Rig, cluster: Cluster, who: str) -> None:
    kind = "auth" if who == "auth" else "proxy"
    authority = Cluster() if who == "a stranger" else cluster
    identity = cluster.proxy_uuid if who == "a stranger" else str(uuid.uuid4())
    context = authority.server(kind, "tinyport-dial", id=identity, client="none")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        ask_to_dial(rig, proxy.getsockname(), cluster.proxy_uuid)
        dialled, _ = proxy.accept()
        dialled.settimeout(LIMIT)
        got = b""
        try:
            with context.wrap_socket(dialled, server_side=True) as secure:
                got = secure.recv(100)
        except (ssl.SSLError, ConnectionError):
            # It hung up in the middle: all the better.
            dialled.close()
    assert got == b""
    wait_for("the worker to say so", lambda: "a connection did not come about" in rig.log())
