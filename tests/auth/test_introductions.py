"""Connections that a proxy passes on: auth knows whose they are, by the word of proxies of the cluster alone."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.auth.conftest import START, AuthServer, Client, Machine
from tests.auth.test_join import _keys
from tinyport.core.errors import PeerError
from tinyport.core.introduction import MOST, PERIOD, TLV, Introductions, introduce
from tinyport.core.proxy_protocol import SIGNATURE, Announced, make_header, make_tlv, parse_header
from tinyport.host.tls import unverified_context

CLIENT = ("192.0.2.7", 4242)
UUID = "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"


class _After(http.client.HTTPSConnection):
    """TLS on a connection that begins with ``first``."""

    first = b""

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), 20)
        plain.sendall(self.first)
        self.sock = unverified_context(alpn=["tinyport-auth"]).wrap_socket(plain)


def after(auth: AuthServer, first: bytes) -> Client:
    def connect() -> http.client.HTTPConnection:
        made = _After(*auth.addresses.listen, timeout=20)
        made.first = first
        return made

    return Client(connect)


def key_of(proxy: Machine) -> tuple[int, bytes]:
    answer = proxy.client.post("/v1/presence", {"full": True, "nodes": []}).body["introduce"]
    return answer["period"], bytes.fromhex(answer["key"])


def introduced(proxy: Machine, nonce: bytes, client: tuple[str, int] = CLIENT) -> bytes:
    period, key = key_of(proxy)
    return introduce(key, proxy.uuid, period, nonce, client)


def source_of_failure(auth: AuthServer, first: bytes) -> str:
    """What auth writes down of a failed login on such a connection."""

    def sources() -> Counter[str]:
        return Counter(event["source"] for event in auth.events("user.login.failed"))

    before = sources()
    assert after(auth, first).post("/v1/login", auth.login_body("nobody", "wrong", _keys()[1])).status == 401
    (found,) = (sources() - before).elements()
    return found


def test_a_proxy_says_whose_connection_it_is(auth: AuthServer) -> None:
    proxy = auth.join("gate", "proxy")
    assert source_of_failure(auth, introduced(proxy, b"1" * 16)) == CLIENT[0]
    token = auth.token(cidr=["192.0.2.0/24"])
    body = auth.join_body(token, "far", *_keys())
    # From the proxy's own address, and from there, and from elsewhere.
    assert auth.anyone().post("/v1/join", body).code == "denied"
    elsewhere = introduced(proxy, b"2" * 16, ("198.51.100.1", 1))
    assert after(auth, elsewhere).post("/v1/join", body).code == "denied"
    assert after(auth, introduced(proxy, b"3" * 16)).post("/v1/join", body).status == 200


def test_nobody_else_may(auth: AuthServer) -> None:
    proxy, node = auth.join("gate", "proxy"), auth.join("greenhouse")
    period, key = key_of(proxy)
    used = introduce(key, proxy.uuid, period, b"1" * 16, CLIENT)
    assert source_of_failure(auth, used) == CLIENT[0]
    header, changed = make_header(CLIENT), used[:16] + bytes((192, 0, 2, 8)) + used[20:]
    for first in (
        used,
        header,
        changed,
        introduce(key, node.uuid, period, b"2" * 16, CLIENT),
        introduce(key, proxy.uuid, period + 2, b"3" * 16, CLIENT),
        introduce(bytes(32), proxy.uuid, period, b"4" * 16, CLIENT),
        make_header(CLIENT, make_tlv(TLV, b"short")),
        SIGNATURE + b"\x20\x00\x00\x00",
    ):
        assert source_of_failure(auth, first) == "127.0.0.1", first
    for broken in (SIGNATURE + b"\x00" * 4, b"\r\n\r\nGET", SIGNATURE[:5]):
        with socket.create_connection(auth.addresses.listen, 20) as plain:
            plain.sendall(broken)
            with contextlib.suppress(OSError):
                plain.shutdown(socket.SHUT_WR)
                assert plain.recv(1) == b""
    # Its keys come by mutual TLS, to proxies.
    assert node.client.post("/v1/presence", {"full": True, "nodes": []}).code == "denied"


def test_keys_end(auth: AuthServer) -> None:
    proxy = auth.join("gate", "proxy")
    period, key = key_of(proxy)
    auth.clock.now = START + PERIOD * 1.5
    assert source_of_failure(auth, introduce(key, proxy.uuid, period, b"1" * 16, CLIENT)) == CLIENT[0]
    auth.clock.now = START + PERIOD * 2
    assert source_of_failure(auth, introduce(key, proxy.uuid, period, b"2" * 16, CLIENT)) == "127.0.0.1"


def test_failures_count_by_the_client_and_shut_out_nobody_else(auth: AuthServer) -> None:
    proxy = auth.join("gate", "proxy")
    now = auth.service.settings.monotonic()
    for _ in range(400):
        auth.service.failures.failed(CLIENT[0], now)
    wrong = auth.login_body("nobody", "wrong", _keys()[1])
    assert after(auth, introduced(proxy, b"1" * 16)).post("/v1/login", wrong).code == "slow_down"
    other = introduced(proxy, b"2" * 16, ("192.0.2.8", 1))
    assert after(auth, other).post("/v1/login", wrong).code == "bad_credentials"


@given(st.ip_addresses().map(str), st.integers(0, 65535), st.binary(min_size=16, max_size=16), st.integers(0, 120))
def test_every_byte_counts(address: str, port: int, nonce: bytes, at: int) -> None:
    judge = Introductions(b"s" * 32)
    period, key = judge.key(UUID, 1000.0)
    header = introduce(key, UUID, period, nonce, (address, port))
    found = parse_header(header)
    assert isinstance(found, Announced)
    assert judge.judge(found, 1000.0) == found.source
    changed = bytearray(found.rest)
    changed[at % len(changed)] ^= 1
    with pytest.raises(PeerError):
        judge.judge(Announced(found.source, found.length, bytes(changed)), 1000.0)
    with pytest.raises(PeerError, match="before"):
        judge.judge(found, 1000.0 + PERIOD)


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyport.core.introduction.MOST", 3)
    assert MOST > 3
    judge = Introductions(b"s" * 32)

    def shown(number: int, now: float) -> None:
        period, key = judge.key(UUID, now)
        found = parse_header(introduce(key, UUID, period, number.to_bytes(16, "big"), CLIENT))
        assert isinstance(found, Announced)
        judge.judge(found, now)

    for number in range(3):
        shown(number, 0.0)
    with pytest.raises(PeerError, match="too many"):
        shown(4, 0.0)
    shown(4, PERIOD)


def test_who_says_nothing_does_not_stay(auth: AuthServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyport.auth.listener.HANDSHAKE_SECONDS", 0.1)
    with socket.create_connection(auth.addresses.listen, 20) as silent:
        assert silent.recv(1) == b""
