"""What strangers send: malformed, oversized, slow, too much; and what leaks to them (nothing)."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import stat
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.auth import listener, web
from tinyport.auth.challenge import Challenges
from tinyport.auth.fields import parse_object
from tinyport.auth.joining import check_template
from tinyport.auth.limiter import FailureLimiter
from tinyport.auth.tls_certificates import read_leaf, read_request
from tinyport.core.errors import PeerError, TinyportError
from tinyport.host.tls import unverified_context

from .conftest import AuthServer, Clock, auth_settings

PUBLIC = ("/v1/join", "/v1/return", "/v1/login", "/v1/signup", "/v1/invitation")


@pytest.mark.parametrize("path", PUBLIC)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"user": NaN}',
        b'{"user": 1e999}',
        b'{"user": "\\ud800", "password": "\\ud800\\ud800"}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"user": ' + b"9" * 5000 + b"}",
        json.dumps({"user": ["a"], "password": {}, "token": 5, "invitation": True, "uuid": None}).encode(),
        json.dumps({"user": "a", "password": "\0" * 300, "token": "." * 300, "invitation": "\n" * 200}).encode(),
    ],
    ids=range(14),
)
def test_malformed_bodies(shared: AuthServer, path: str, data: bytes) -> None:
    answer = shared.anyone().raw("POST", path, data)
    assert (answer.status, answer.code) == (400, "bad_request"), answer
    assert "Traceback" not in json.dumps(answer.body)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthServer]:
    clock = Clock()
    server = AuthServer(auth_settings(tmp_path_factory.mktemp("auth"), clock), clock)
    yield server
    server.stop()


def _talk(auth: AuthServer, *pieces: bytes) -> bytes:
    """Send raw bytes over TLS, half-close nothing, read to the end."""
    context = unverified_context(alpn=["tinyport-auth"])
    with socket.create_connection(auth.addresses.listen, 10) as tcp, context.wrap_socket(tcp) as tls:
        answer = b""
        try:
            for piece in pieces:
                tls.sendall(piece)
            while data := tls.recv(65536):
                answer += data
        except (ConnectionError, ssl.SSLError):
            return answer
        return answer


def test_a_body_that_says_it_is_too_large(shared: AuthServer) -> None:
    head = b"POST /v1/login HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 99999999\r\n\r\n"
    answer = _talk(shared, head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"too_large"' in answer


def test_a_body_that_grows_too_large(shared: AuthServer) -> None:
    head = b"POST /v1/login HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    assert _talk(shared, head, *[chunk] * 6).startswith(b"HTTP/1.1 413 ")


def test_a_compressed_body_is_not_unpacked(shared: AuthServer) -> None:
    import zlib

    bomb = zlib.compress(b" " * 50_000_000)
    answer = shared.anyone().raw("POST", "/v1/login", bomb, {"Content-Encoding": "deflate"})
    assert answer.status in (400, 413)


def test_headers_without_end(shared: AuthServer) -> None:
    for head in (b"GET /" + b"a" * 100_000, b"GET / HTTP/1.1\r\nA: " + b"b" * 100_000):
        assert not _talk(shared, head + b"\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert not _talk(shared, b"\0\1\2\3\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert shared.anyone().get("/v1/hello").status == 200


def test_a_slow_body_is_given_up(auth: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "BODY_SECONDS", 0.05)
    head = b"POST /v1/login HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 10\r\n\r\n{"
    answer = _talk(auth, head)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"did not come within" in answer


def test_a_connection_that_says_nothing_is_closed(auth: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "FIRST_REQUEST_SECONDS", 0.05)
    assert _talk(auth, b"GET /v1/hello HTTP/1.1\r\nHost") == b""


def test_a_handshake_that_never_comes_is_closed(auth: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.05)
    for said in (b"", b"SSH-2.0-scanner\r\n"):
        with socket.create_connection(auth.addresses.listen, 10) as tcp:
            try:
                tcp.sendall(said)
                # At most a TLS alert; then the end.
                while data := tcp.recv(100):
                    assert data[:1] == b"\x15"
            except ConnectionResetError:
                continue


def test_no_more_connections_than_allowed(start: Callable[..., AuthServer]) -> None:
    auth = start(max_connections=4)
    context = unverified_context(alpn=["tinyport-auth"])
    held = []
    for _ in range(4):
        tls = context.wrap_socket(socket.create_connection(auth.addresses.listen, 10))
        tls.sendall(b"GET /v1/hello HTTP/1.1\r\nHost: a\r\n\r\n")
        assert tls.recv(65536).startswith(b"HTTP/1.1 200 ")
        held.append(tls)
    late = socket.create_connection(auth.addresses.listen, 10)
    late.settimeout(0.2)
    with pytest.raises(TimeoutError):
        context.wrap_socket(late)
    late.close()
    for tls in held:
        tls.close()
    assert auth.anyone().get("/v1/hello").status == 200


def test_a_bug_is_a_number_to_the_peer(auth: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, object]] = []

    def broken(*_: object, **__: object) -> str:
        raise KeyError("the secret inside")

    monkeypatch.setattr(auth.service.challenges, "make", broken)
    monkeypatch.setattr(auth.service.log, "error", lambda text, **fields: logged.append(fields))
    answer = auth.anyone().get("/v1/hello")
    assert (answer.status, answer.code) == (500, "internal")
    assert "secret" not in json.dumps(answer.body)
    assert str(logged[0]["id"]) in str(answer.body["error"]["hint"])
    assert "secret" in str(logged[0]["error"])


def test_the_socket_is_ours_alone(auth: AuthServer) -> None:
    mode = auth.addresses.socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_another_users_process_is_not_local(auth: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "peer_uid", lambda connection: 12345)
    with pytest.raises((OSError, http.client.HTTPException)):
        auth.local().get("/v1/status")


# -------------------------------------------------------------------- decoders: a value or a PeerError


@given(st.binary(max_size=300))
def test_any_bytes_are_an_object_or_refused(data: bytes) -> None:
    try:
        assert isinstance(parse_object(data), dict)
    except PeerError:
        return


@given(st.one_of(st.text(max_size=300), st.text(alphabet="AQIDBA==-_", max_size=60)))
def test_any_text_is_no_challenge(text: str) -> None:
    with pytest.raises(PeerError):
        Challenges(bytes(32)).check(text, 1000.0)


@given(st.binary(max_size=300))
def test_any_bytes_are_no_leaf(data: bytes) -> None:
    with pytest.raises(PeerError):
        read_leaf(data)


@given(st.text(max_size=300))
def test_any_text_is_no_request(text: str) -> None:
    with pytest.raises(PeerError):
        read_request(text)


@given(st.text(alphabet="abcN-.{}nameserialuuid8 ", max_size=40))
def test_any_template_gives_names_or_is_refused(template: str) -> None:
    try:
        assert check_template(template) == template
    except PeerError:
        return


def test_challenges_live_two_minutes() -> None:
    challenges = Challenges(bytes(32))
    text = challenges.make(1000.9, bytes(16))
    for now in (1000.0, 1000.9, 1120.0):
        challenges.check(text, now)
    for now in (998.0, 1121.5, 2000.0):
        with pytest.raises(PeerError):
            challenges.check(text, now)
    with pytest.raises(PeerError):
        Challenges(bytes(31) + b"x").check(text, 1000.0)


def test_the_limiter_forgets_and_is_bounded() -> None:
    limiter = FailureLimiter(burst=2, rate=1, sources=3)
    for _ in range(2):
        limiter.check("a", 0.0)
        limiter.failed("a", 0.0)
    with pytest.raises(TinyportError) as caught:
        limiter.check("a", 0.0)
    assert (caught.value.code, caught.value.extra) == ("slow_down", {"retry_after": 1})
    limiter.check("b", 0.0)
    limiter.check("a", 1.0)
    for source in "bcde":
        limiter.failed(source, 1.0)
    assert len(limiter._buckets) == 3
