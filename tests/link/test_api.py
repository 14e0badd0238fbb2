"""The auth API's client: what it says when something is down, and whom it believes."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinyport.core.errors import AccessDenied, OperatorError, PeerError, TinyportError, Unavailable
from tinyport.link.api import AuthClient, check_pins, fetch_hello


class Server(threading.Thread):
    """Answers each connection on a unix socket with fixed bytes, after reading a request."""

    def __init__(self, path: Path, answer: bytes) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._answer = answer

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(self._answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[type[AuthClient]]:
    started: list[Server] = []

    def client(status: int, body: bytes) -> AuthClient:
        path = tmp_path / f"s{len(started)}"
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        server = Server(path, head + body)
        started.append(server)
        server.start()
        return AuthClient(path)

    yield client  # type: ignore[misc]
    for server in started:
        server.close()
        server.join(10)


def refusal(code: str, **more: object) -> bytes:
    return json.dumps({"error": {"code": code, "message": "said so", "hint": "do this", **more}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (403, refusal("denied"), AccessDenied, "denied"),
        (404, refusal("no_such_node"), TinyportError, "no_such_node"),
        (409, refusal("ambiguous", candidates=[{"name": "a"}]), TinyportError, "ambiguous"),
        (503, refusal("unavailable"), Unavailable, "unavailable"),
        (500, b"<html>", Unavailable, "unavailable"),
        (200, b"not json", PeerError, "bad_request"),
        (200, b"[1]", PeerError, "bad_request"),
    ],
)
def test_answers_become_errors_of_ours(
    answering: type[AuthClient], status: int, body: bytes, kind: type[TinyportError], code: str
) -> None:
    with pytest.raises(kind) as caught, answering(status, body) as client:  # type: ignore[call-arg, arg-type]
        client.request("GET", "/v1/x")
    assert caught.value.code == code


def test_candidates_travel(answering: type[AuthClient]) -> None:
    body = refusal("ambiguous", candidates=[{"name": "a"}])
    with pytest.raises(TinyportError) as caught, answering(409, body) as client:  # type: ignore[call-arg, arg-type]
        client.request("GET", "/v1/x")
    assert caught.value.extra["candidates"] == [{"name": "a"}]
    assert caught.value.hint == "do this"


def test_an_answer_is_bounded(answering: type[AuthClient]) -> None:
    with pytest.raises(PeerError, match="more than"), answering(200, b"{" + b" " * 500) as client:  # type: ignore[call-arg, arg-type]
        client.request("GET", "/v1/x", limit=100)


def test_nobody_there_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    with pytest.raises(Unavailable, match=f"{address[1]}"):
        fetch_hello(address)
    with pytest.raises(Unavailable, match="auth"):
        AuthClient(tmp_path / "none").request("GET", "/v1/x")


def test_a_deep_folder_is_no_trouble(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    link = tmp_path / "s"
    server = Server(link, b"HTTP/1.1 200 X\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
    server.start()
    link.rename(deep / "api.sock")
    try:
        assert AuthClient(deep / "api.sock").request("GET", "/v1/x") == {}
    finally:
        server.close()
        server.join(10)


def test_pins_that_do_not_match_name_both_sides() -> None:
    with pytest.raises(OperatorError, match="sha256:00"):
        check_pins([], ["sha256:00"])
