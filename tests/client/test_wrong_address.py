"""A login at an address where something else listens: what it is, and what to type."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.host.test_tls import SERVER, Authority
from tinyport.client.wrong_address import explained
from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.host.tls import server_context

Address = tuple[str, int]
LOST = PeerError("the proxy does not speak our TLS")


@pytest.fixture
def listening() -> Iterator[Callable[..., Address]]:
    """A server that says ``words`` as soon as somebody said something, behind ``tls`` if given, and hangs up."""
    sockets: list[socket.socket] = []

    def start(words: bytes, tls: ssl.SSLContext | None = None) -> Address:
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)

        def serve() -> None:
            while True:
                try:
                    plain, _ = server.accept()
                except OSError:
                    return
                try:
                    with plain if tls is None else tls.wrap_socket(plain, server_side=True) as stream:
                        if stream.recv(100):
                            stream.sendall(words)
                except OSError:
                    continue

        threading.Thread(target=serve, daemon=True).start()
        address: Address = server.getsockname()
        return address

    yield start
    for server in sockets:
        # Wakes who waits in accept.
        server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (b"SSH-2.0-tinyport_0.1.0 0123456789abcdef\r\n", "is a tinyport node", "log in at the proxy"),
        (b"tinyport: not allowed at this time\r\n", "is a tinyport node", "log in at the proxy"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "is an SSH server", "cluster's proxy (port 3080"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is a web server without TLS", '"tsh login --proxy 127.0.0.1:3080"'),
        (b"220 \x1b[2Jmail\r\n", "it says: 220 \\x1b[2Jmail", "is the address right?"),
        (b"", "closes connections, or says nothing", "is the address right?"),
    ],
)
def test_what_is_there(listening: Callable[..., Address], words: bytes, said: str, hint: str) -> None:
    found = explained(LOST, listening(words))
    assert said in found.message
    assert hint in found.hint
    assert found.code == "no_proxy"


def test_a_web_server(listening: Callable[..., Address]) -> None:
    authority = Authority()
    certificate, key = authority.leaf("proxy", SERVER)
    context = server_context([authority.pem], alpn=["h2"], cert_pem=certificate, key_pem=key, client="none")
    found = explained(LOST, listening(b"", context))
    assert "is a web server, no proxy of a cluster" in found.message


def test_a_proxy_in_trouble_keeps_its_words(listening: Callable[..., Address]) -> None:
    assert explained(LOST, listening(b"SSH-2.0-tinyport\r\n")) is LOST
    # With the offer that follows it at once.
    assert explained(LOST, listening(b"SSH-2.0-tinyport\r\n\0\0\1\2\x14")) is LOST


def test_what_is_no_mistake_of_address_stays() -> None:
    nowhere = ("127.0.0.1", 1)
    for error in (AccessDenied("no"), LOST):
        assert explained(error, nowhere) is error
    refused = explained(
        Unavailable("cannot reach the proxy at a.example:3080: connection refused"), ("a.example", 3080)
    )
    assert "--proxy a.example:443" in refused.hint


def test_every_error_may_be_explained(listening: Callable[..., Address]) -> None:
    error: TinyportError = Unavailable("the proxy at x answers, but auth behind it does not")
    assert explained(error, listening(b"SSH-2.0-dropbear\r\n")).message.endswith(
        "is an SSH server, no proxy of a cluster"
    )
