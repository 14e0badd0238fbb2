"""Those who answer byte by byte, for as long as one listens: nobody listens for longer than was meant."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.host.test_tls import SERVER, Authority
from tinyport.core.errors import Unavailable
from tinyport.host.tls import server_context
from tinyport.link import api
from tinyport.link.http_proxy import VARIABLES, open_connection

#: seconds between two bytes, far less than anybody waits for one
PAUSE = 0.01


@contextmanager
def dripping(context: ssl.SSLContext | None = None) -> Iterator[tuple[str, int]]:
    """A server that begins an HTTP answer and never comes to its end."""
    ended = threading.Event()

    def serve() -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), stream:
                with stream if context is None else context.wrap_socket(stream, server_side=True) as secure:
                    secure.recv(4096)
                    secure.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                    while not ended.wait(PAUSE):
                        secure.send(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_an_http_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with dripping() as (host, port):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{host}:{port}")
        with pytest.raises(Unavailable, match=f"HTTP proxy at {host}:{port} does not answer"):
            open_connection(("port.example", 443), 20 * PAUSE)


@pytest.mark.parametrize("limit", [0.0, 20 * PAUSE], ids=["while it connects", "while it answers"])
def test_a_server_that_nobody_has_vouched_for(monkeypatch: pytest.MonkeyPatch, limit: float) -> None:
    monkeypatch.setattr(api, "HELLO_LIMIT", limit)
    authority = Authority()
    certificate, key = authority.leaf("proxy", SERVER)
    context = server_context([authority.pem], alpn=[api.ALPN], cert_pem=certificate, key_pem=key, client="none")
    with dripping(context) as address, pytest.raises(Unavailable):
        api.fetch_hello(address)
