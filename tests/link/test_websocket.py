"""WebSocket framing: what one end encodes the other decodes, however it is cut; anything else is a PeerError."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.errors import PeerError
from tinyport.link.httphead import MAX_HEAD, Head, parse_head
from tinyport.link.websocket import (
    OP_BINARY,
    OP_CLOSE,
    OP_PING,
    OP_PONG,
    OP_TEXT,
    Decoder,
    accept_value,
    check_request,
    check_response,
    client_handshake,
    close_reason,
    encode,
    encode_close,
    make_key,
    server_handshake,
)

LIMIT = 70_000
MASK = b"\x01\x02\x03\x04"
ROLES = ("client", "server")

# Around the edges of the three length forms, and small.
payloads = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([125, 126, 127, 65535, 65536, LIMIT]).map(lambda count: bytes(range(256)) * (count // 256 + 1)),
).map(lambda data: data[:LIMIT])
messages = st.lists(
    st.one_of(
        st.tuples(st.just(OP_BINARY), payloads),
        st.tuples(st.just(OP_TEXT), st.text(max_size=200).map(str.encode)),
        st.tuples(st.sampled_from([OP_PING, OP_PONG]), st.binary(max_size=125)),
    ),
    max_size=6,
)


def mask_for(role: str) -> bytes | None:
    """What the other end of a decoder of this role must send."""
    return MASK if role == "server" else None


def in_pieces(decoder: Decoder, data: bytes, cuts: list[int]) -> list[tuple[int, bytes]]:
    found = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        found += decoder.feed(data[start:end])
    return found


@given(role=st.sampled_from(ROLES), sent=messages, cuts=st.lists(st.integers(0, 10**6), max_size=8))
def test_what_is_encoded_is_decoded_however_it_is_cut(
    role: str, sent: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(encode(opcode, payload, mask_for(role)) for opcode, payload in sent)
    assert in_pieces(Decoder(role, LIMIT), data, cuts) == sent


@given(
    role=st.sampled_from(ROLES),
    parts=st.lists(st.binary(max_size=50), min_size=1, max_size=6),
    pings=st.booleans(),
    cuts=st.lists(st.integers(0, 10**6), max_size=5),
)
def test_fragments_are_joined_and_control_frames_come_in_between(
    role: str, parts: list[bytes], pings: bool, cuts: list[int]
) -> None:
    data = b""
    for index, part in enumerate(parts):
        frame = bytearray(encode(OP_BINARY if index == 0 else 0, part, mask_for(role)))
        if index < len(parts) - 1:
            frame[0] &= 0x7F
        data += bytes(frame)
        if pings and index < len(parts) - 1:
            data += encode(OP_PING, b"?", mask_for(role))
    found = in_pieces(Decoder(role, LIMIT), data, cuts)
    assert found[-1] == (OP_BINARY, b"".join(parts))
    assert found[:-1] == [(OP_PING, b"?")] * ((len(parts) - 1) if pings else 0)


@given(role=st.sampled_from(ROLES), data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=4))
def test_any_bytes_give_messages_or_a_peer_error(role: str, data: bytes, cuts: list[int]) -> None:
    decoder = Decoder(role, 100)
    try:
        found = in_pieces(decoder, data, cuts)
    except PeerError:
        assert decoder.feed(encode(OP_PING, b"", mask_for(role))) == []
        return
    assert all(len(payload) <= 125 for _, payload in found)


WRONG = {
    "reserved bit": bytes((0xC1, 0x80)) + MASK,
    "unknown opcode": bytes((0x83, 0x80)) + MASK,
    "unknown control opcode": bytes((0x8B, 0x80)) + MASK,
    "not masked": encode(OP_TEXT, b"hi"),
    "fragmented ping": bytes((0x09, 0x80)) + MASK,
    "long ping": bytes((0x89, 0xFE)) + (126).to_bytes(2, "big") + MASK + bytes(126),
    "16 bits for 125": bytes((0x82, 0xFE)) + (125).to_bytes(2, "big") + MASK + bytes(125),
    "64 bits for 65535": bytes((0x82, 0xFF)) + (65535).to_bytes(8, "big"),
    "too long": bytes((0x82, 0xFF)) + (LIMIT + 1).to_bytes(8, "big"),
    "negative in 64 bits": bytes((0x82, 0xFF)) + b"\xff" * 8,
    "continuation of nothing": bytes((0x80, 0x80)) + MASK,
    "message within a message": bytes((0x01, 0x80)) + MASK + encode(OP_TEXT, b"", MASK),
    "text that is not UTF-8": encode(OP_TEXT, b"\xff", MASK),
    "close of one byte": encode(OP_CLOSE, b"\x03", MASK),
    "close with a code that never travels": encode(OP_CLOSE, (1006).to_bytes(2, "big"), MASK),
    "close reason that is not UTF-8": encode(OP_CLOSE, (1000).to_bytes(2, "big") + b"\xff", MASK),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_rfc_forbids_is_refused(name: str) -> None:
    decoder = Decoder("server", LIMIT)
    with pytest.raises(PeerError):
        decoder.feed(WRONG[name])
    assert decoder.feed(encode(OP_PING, b"", MASK)) == []


def test_a_client_refuses_masked_frames() -> None:
    with pytest.raises(PeerError):
        Decoder("client", LIMIT).feed(encode(OP_TEXT, b"hi", MASK))


def test_many_small_fragments_do_not_pass_the_limit() -> None:
    decoder = Decoder("server", 100)
    decoder.feed(bytes((0x02, 0x80 | 60)) + MASK + bytes(60))
    with pytest.raises(PeerError) as caught:
        decoder.feed(bytes((0x00, 0x80 | 60)) + MASK)
    assert caught.value.code == "too_large"


def test_after_a_close_nothing_more_is_taken() -> None:
    decoder = Decoder("client", LIMIT)
    found = decoder.feed(encode_close(1001, "going home") + encode(OP_TEXT, b"late"))
    assert [opcode for opcode, _ in found] == [OP_CLOSE]
    assert close_reason(found[0][1]) == (1001, "going home")
    assert close_reason(b"") == (1005, "")
    assert decoder.feed(encode(OP_TEXT, b"later")) == []


def test_a_long_close_reason_is_cut_between_characters() -> None:
    ((_, payload),) = Decoder("client", LIMIT).feed(encode_close(1008, "ä" * 100))
    assert close_reason(payload) == (1008, "ä" * 61)


def test_encode_refuses_what_decode_would() -> None:
    with pytest.raises(ValueError, match="125"):
        encode(OP_PING, bytes(126))
    with pytest.raises(ValueError, match="four"):
        encode(OP_TEXT, b"", b"abc")


# RFC 6455 section 1.3
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def head(data: bytes) -> Head:
    found = parse_head(data)
    assert found is not None
    return found


def test_the_handshake_of_the_rfc() -> None:
    assert accept_value(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    request = head(client_handshake("/v1/tunnel", "proxy.farm", KEY) + b"\x81")
    assert request.rest == b"\x81"
    assert check_request(request, "/v1/tunnel") == KEY
    check_response(head(server_handshake(KEY)), KEY)
    assert make_key(bytes(16)) == "A" * 22 + "=="


@pytest.mark.parametrize(
    "line",
    ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}", "Host: h"],
)
def test_a_request_needs_each_of_its_lines(line: str) -> None:
    whole = client_handshake("/v1/tunnel", "h", KEY)
    cut = whole.replace(line.encode() + b"\r\n", b"")
    assert cut != whole
    with pytest.raises(PeerError):
        check_request(head(cut), "/v1/tunnel")


@pytest.mark.parametrize(
    "wrong",
    [
        server_handshake(make_key(bytes(16))),
        server_handshake(KEY).replace(b"101 Switching Protocols", b"200 OK"),
        server_handshake(KEY).replace(b"websocket", b"h2c"),
        server_handshake(KEY).replace(b"tinyport.v1", b"chat"),
        server_handshake(KEY).replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
    ],
)
def test_a_response_to_something_else_is_refused(wrong: bytes) -> None:
    with pytest.raises(PeerError):
        check_response(head(wrong), KEY)


def test_heads_are_bounded_and_strict() -> None:
    assert parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n") is None
    for wrong in (
        b"x" * MAX_HEAD,
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 65 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    ):
        with pytest.raises(PeerError):
            parse_head(wrong)
    both = head(b"HTTP/1.1 200 OK\r\nConnection: a\r\nconnection: B\r\nContent-Length: 5\r\n\r\nhello")
    assert (both.status(), both.words("Connection".lower()), both.length(), both.rest) == (200, ["a", "b"], 5, b"hello")


@pytest.mark.parametrize("value", ["-1", "1, 1", "0x10", "", "9" * 20])
def test_a_length_is_one_number(value: str) -> None:
    with pytest.raises(PeerError):
        head(f"HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\n".encode()).length()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_head_or_a_peer_error(data: bytes) -> None:
    try:
        found = parse_head(data + b"\r\n\r\n")
        assert found is not None
        found.request()
        check_response(found, KEY)
    except PeerError:
        return
