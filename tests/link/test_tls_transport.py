"""TLS over a socket that takes a few records at a time."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

import pytest

from tests.node.tiny_cluster import Cluster
from tinyport.host.tls import unverified_context
from tinyport.link.tls_transport import SocketTransport

SIZE = 700_000


def pair() -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Both ends of a TLS connection, whose sender's kernel holds a few records."""
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 60_000)
    client = unverified_context(alpn=["x"]).wrap_socket(near, do_handshake_on_connect=False)
    server = (
        Cluster().server("proxy", "x", client="none").wrap_socket(far, server_side=True, do_handshake_on_connect=False)
    )
    for end in (client, server):
        end.setblocking(False)
    ready: set[ssl.SSLSocket] = set()
    while len(ready) < 2:
        for end in (client, server):
            try:
                end.do_handshake()
                ready.add(end)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                continue
    return client, server


class Sink(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = bytearray()
        self.all = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data
        if len(self.data) >= SIZE:
            self.all.set()


@pytest.mark.parametrize("piece", [100, 16_384, 50_000, SIZE])
def test_pieces_of_any_size_arrive_whole(piece: int) -> None:
    sent = os.urandom(SIZE)

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        client, server = pair()
        sink = Sink()
        sender = SocketTransport(loop, client, asyncio.Protocol())
        receiver = SocketTransport(loop, server, sink)
        sender.start()
        receiver.start()
        for at in range(0, SIZE, piece):
            sender.write(sent[at : at + piece])
        await asyncio.wait_for(sink.all.wait(), 60)
        sender.abort()
        receiver.abort()
        # Their last callbacks.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return bytes(sink.data)

    assert asyncio.run(main()) == sent
