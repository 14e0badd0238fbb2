"""Connections that wait for nobody: refused, unknown, through an HTTP proxy."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.node.tiny_cluster import LIMIT
from tinyport.core.errors import TinyportError, Unavailable
from tinyport.link.http_proxy import connect_request, proxy_for
from tinyport.node.link import connect
from tinyport.node.link.connect import Connect
from tinyport.node.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    made.watch_children()
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        yield listener


def attempt(loop: Loop, address: tuple[str, int], via: tuple[str, int] | None = None) -> socket.socket | TinyportError:
    found: list[socket.socket | TinyportError] = []

    def done(stream: socket.socket | None, error: TinyportError | None) -> None:
        found.append(stream or error)  # type: ignore[arg-type]
        loop.stop()

    Connect(loop, address, done, via=via)
    loop.after(LIMIT, loop.stop)
    loop.run()
    (result,) = found
    return result


def test_a_connection_by_name(loop: Loop, server: socket.socket) -> None:
    stream = attempt(loop, ("localhost", server.getsockname()[1]))
    assert isinstance(stream, socket.socket)
    with stream:
        assert stream.getpeername() == server.getsockname()


def test_a_refused_connection(loop: Loop, server: socket.socket) -> None:
    address = server.getsockname()
    server.close()
    error = attempt(loop, address)
    assert isinstance(error, Unavailable)
    assert error.message == f"cannot reach 127.0.0.1:{address[1]}: connection refused"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "bücher.invalid", "a" * 70 + ".invalid", "::g"])
def test_a_name_that_nobody_has(loop: Loop, host: str) -> None:
    error = attempt(loop, (host, 1))
    assert isinstance(error, Unavailable)
    assert "no such host" in error.message


def test_a_silent_address_is_given_up(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "CONNECT_LIMIT", 0.05)
    monkeypatch.setattr(connect, "LAST_LIMIT", 0.05)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = []
        # Connections beyond the backlog get no answer on Linux.
        for _ in range(3):
            stream = socket.socket()
            stream.setblocking(False)
            stream.connect_ex(full.getsockname())
            waiting.append(stream)
        error = attempt(loop, full.getsockname())
        for stream in waiting:
            stream.close()
    assert isinstance(error, Unavailable)
    assert "no answer" in error.message


def test_a_cancelled_attempt_says_nothing(loop: Loop, server: socket.socket) -> None:
    called: list[object] = []
    Connect(loop, server.getsockname(), lambda *result: called.append(result)).cancel()
    Connect(loop, ("localhost", 1), lambda *result: called.append(result)).cancel()
    loop.after(0.05, loop.stop)
    loop.run()
    assert called == []


class HttpProxy:
    """Answers one CONNECT."""

    def __init__(self, listener: socket.socket, answer: bytes) -> None:
        self.heard = b""
        self._thread = threading.Thread(target=self._serve, args=(listener, answer))
        self._thread.start()

    def _serve(self, listener: socket.socket, answer: bytes) -> None:
        stream, _ = listener.accept()
        with stream:
            stream.settimeout(LIMIT)
            while b"\r\n\r\n" not in self.heard:
                self.heard += stream.recv(4096)
            stream.sendall(answer)
            try:
                # Until the client is done with it.
                stream.recv(1)
            except ConnectionResetError:
                # It did not like the answer.
                return

    def join(self) -> None:
        self._thread.join()


def test_through_an_http_proxy(loop: Loop, server: socket.socket) -> None:
    proxy = HttpProxy(server, b"HTTP/1.1 200 Connection established\r\n\r\n")
    stream = attempt(loop, ("port.example", 443), via=server.getsockname())
    assert isinstance(stream, socket.socket)
    stream.close()
    proxy.join()
    assert proxy.heard == b"CONNECT port.example:443 HTTP/1.1\r\nHost: port.example:443\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "refused"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "refused"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "name and password"),
        (b"SSH-2.0-x\r\n\r\n", "HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\nmore", "before"),
        (b"x" * 9000, "HTTP"),
    ],
)
def test_an_http_proxy_that_says_something_else(loop: Loop, server: socket.socket, answer: bytes, word: str) -> None:
    proxy = HttpProxy(server, answer)
    error = attempt(loop, ("port.example", 443), via=server.getsockname())
    assert isinstance(error, TinyportError)
    assert word in error.message
    proxy.join()


@pytest.mark.parametrize(
    ("proxy", "user"),
    [
        ("http://pia:secret@proxy.example:8080/", b"pia:secret"),
        ("pia:p%40ss%3a%2F@proxy.example", b"pia:p@ss:/"),
        ("http://p%c3%a4ul@proxy.example", "päul:".encode()),
        ("http://100%:5%2@proxy.example", b"100%:5%2"),
        ("http://a%0d%0ab:c@proxy.example", b"a\r\nb:c"),
    ],
)
def test_a_proxy_is_told_who_asks(proxy: str, user: bytes) -> None:
    request = connect_request("port.example:443", {"HTTPS_PROXY": proxy})
    line = b"Proxy-Authorization: Basic " + base64.b64encode(user)
    assert request.split(b"\r\n") == [
        b"CONNECT port.example:443 HTTP/1.1",
        b"Host: port.example:443",
        line,
        b"",
        b"",
    ]
    assert b"Authorization" not in connect_request("port.example:443", {"HTTPS_PROXY": "http://proxy.example:8080"})


def test_which_proxy() -> None:
    names = {"HTTPS_PROXY": "http://user:secret@proxy.example:8080/", "NO_PROXY": "lan.example,.farm"}
    assert proxy_for("port.example", names) == ("proxy.example", 8080)
    assert proxy_for("a.lan.example", names) is None
    assert proxy_for("x.farm", names) is None
    assert proxy_for("127.0.0.1", names) is None
    assert proxy_for("port.example", {}) is None
    assert proxy_for("port.example", {"https_proxy": "proxy.example"}) == ("proxy.example", 3128)
    assert proxy_for("port.example", {"https_proxy": "http://[::1"}) is None
    assert proxy_for("port.example", {**names, "no_proxy": "*"}) is None
