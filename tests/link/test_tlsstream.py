"""TLS over a non-blocking socket: what an owner sees of peers that break off."""

from __future__ import annotations

import select
import socket
import ssl

import pytest

from tests.node.tiny_cluster import Cluster
from tinyport.core.errors import Unavailable
from tinyport.host.tls import client_context
from tinyport.link.tlsstream import TlsStream


def test_a_server_that_goes_as_the_handshake_ends_is_a_broken_connection() -> None:
    cluster = Cluster()
    # TCP: writing to a closed Unix socket would fail at once.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.setblocking(False)
    stream = TlsStream(ours, client_context([cluster.tls_ca], alpn=["x"]))
    server = cluster.server("proxy", "x", client="none").wrap_socket(
        theirs, server_side=True, do_handshake_on_connect=False
    )
    try:
        assert stream.turn() == b""
        select.select([server], [], [], 60)
        with pytest.raises(ssl.SSLWantReadError):
            server.do_handshake()
        # Its whole flight is under way: for the client the handshake succeeds, and then there is nobody.
        server.close()
        select.select([stream], [], [], 60)
        assert stream.turn() == b""
        assert stream.established
        assert stream.ended
        with pytest.raises(Unavailable):
            stream.identity()
    finally:
        stream.close()
        server.close()
