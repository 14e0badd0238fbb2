"""The first bytes of TLS: every real ClientHello is understood, everything else is a PeerError."""

from __future__ import annotations

import ssl
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinyport.core.errors import PeerError
from tinyport.link.clienthello import MAX_HELLO, MAX_PEEK, ClientHello, NeedMore, parse

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def real_hello(version: ssl.TLSVersion, alpn: list[str], server_name: str | None = "port.example.com") -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(alpn)
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def in_records(hello: bytes, cuts: list[int]) -> bytes:
    """The same handshake message, in records that end where ``cuts`` say."""
    message = hello[5:]
    bounds = sorted({0, len(message), *(cut for cut in cuts if 0 < cut < len(message))})
    pieces = [message[a:b] for a, b in pairwise(bounds)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


HELLOS = [real_hello(version, alpn) for version in VERSIONS for alpn in ([], ["tinyport-ssh"], ["h2", "http/1.1"])]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("alpn", [[], ["tinyport-auth"], ["h2", "http/1.1"], ["x" * 255] * 40])
@pytest.mark.parametrize("name", [None, "port.example.com"])
def test_real_ones_are_understood(version: ssl.TLSVersion, alpn: list[str], name: str | None) -> None:
    found = parse(real_hello(version, alpn, name))
    assert isinstance(found, ClientHello)
    assert found.alpn == tuple(alpn)
    assert found.server_name == (name or "")


@given(st.sampled_from(HELLOS), st.lists(st.integers(1, 600), max_size=12))
def test_fragments_and_every_prefix(hello: bytes, cuts: list[int]) -> None:
    whole = in_records(hello, cuts)
    found = parse(whole)
    original = parse(hello)
    assert isinstance(found, ClientHello)
    assert isinstance(original, ClientHello)
    assert found.alpn == original.alpn
    for length in range(len(whole)):
        part = parse(whole[:length])
        assert isinstance(part, NeedMore)
        # It asks for what it does not have, and never for more than there is: nobody waits for ever.
        assert length < part.least <= len(whole)


@given(st.sampled_from(HELLOS), st.binary(max_size=64))
def test_what_follows_is_not_looked_at(hello: bytes, after: bytes) -> None:
    found = parse(hello + after)
    original = parse(hello)
    assert isinstance(found, ClientHello)
    assert isinstance(original, ClientHello)
    assert (found.alpn, found.server_name) == (original.alpn, original.server_name)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"\x16\x03\x01\x01\x00\x01" + tail))
@example(b"\x16\x03\x01\x00\x00")
@example(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff")
def test_random_bytes_give_a_value_or_a_peer_error(data: bytes) -> None:
    try:
        found = parse(data)
    except PeerError:
        return
    assert isinstance(found, (NeedMore, ClientHello))


@given(st.sampled_from(HELLOS), st.integers(0, 10_000), st.integers(0, 255))
def test_damaged_ones_give_a_value_or_a_peer_error(hello: bytes, at: int, value: int) -> None:
    damaged = bytearray(hello)
    damaged[at % len(damaged)] = value
    try:
        found = parse(bytes(damaged))
    except PeerError:
        return
    assert isinstance(found, (NeedMore, ClientHello))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x01\x00",  # an alert
        b"\x16\x02\x00\x00\x05",  # SSL 2
        b"\x16\x03\x01\x00\x00",  # a record without content
        b"\x16\x03\x01\x40\x01\x01",  # a record that is too long
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",  # a ServerHello
        b"\x16\x03\x01\x00\x04\x01" + (MAX_HELLO + 1).to_bytes(3, "big"),
    ],
)
def test_what_cannot_become_a_client_hello(data: bytes) -> None:
    with pytest.raises(PeerError):
        parse(data)


def test_one_byte_records_end_at_the_bound() -> None:
    tiny = b"\x16\x03\x01\x00\x01"
    message = b"\x01" + (MAX_HELLO - 4).to_bytes(3, "big") + bytes(MAX_HELLO)
    data = b"".join(tiny + message[at : at + 1] for at in range(MAX_HELLO))
    with pytest.raises(PeerError, match="too many pieces"):
        parse(data[:MAX_PEEK])


def test_protocols_offered_twice_are_refused() -> None:
    hello = real_hello(ssl.TLSVersion.TLSv1_2, ["a"], None)
    extension = b"\x00\x10\x00\x04\x00\x02\x01b"
    # Append a second list to the extensions and correct the three lengths around it.
    body = bytearray(hello)
    at = 5 + 4 + 34
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    length = int.from_bytes(body[at : at + 2], "big") + len(extension)
    body[at : at + 2] = length.to_bytes(2, "big")
    body += extension
    body[3:5] = (len(body) - 5).to_bytes(2, "big")
    body[6:9] = (len(body) - 9).to_bytes(3, "big")
    with pytest.raises(PeerError, match="twice"):
        parse(bytes(body))
