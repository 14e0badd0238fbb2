"""The PROXY protocol's header: what balancers send is understood, everything else a PeerError; nothing is guessed."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinyport.core.errors import PeerError
from tinyport.core.proxy_protocol import (
    MAX_HEADER,
    SIGNATURE,
    Announced,
    find_tlv,
    make_header,
    make_tlv,
    parse_header,
)

SSH = b"SSH-2.0-x\r\n"


def v2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(body).to_bytes(2, "big") + body


FOUR = bytes((192, 0, 2, 1, 198, 51, 100, 7)) + (4242).to_bytes(2, "big") + (443).to_bytes(2, "big")
SIX = ipaddress.ip_address("2001:db8::1").packed * 2 + (4242).to_bytes(2, "big") + (443).to_bytes(2, "big")
MAPPED = ipaddress.ip_address("::ffff:192.0.2.1").packed * 2 + (4242).to_bytes(2, "big") + (443).to_bytes(2, "big")
TLVS = make_tlv(0x03, b"crc!") + make_tlv(0x20, b"\x01\0\0\0\0" + make_tlv(0x21, b"TLSv1.3"))

GOOD = {
    b"PROXY TCP4 192.0.2.1 198.51.100.7 4242 443\r\n": ("192.0.2.1", 4242),
    b"PROXY TCP6 2001:db8::1 2001:DB8:0:0::2 4242 443\r\n": ("2001:db8::1", 4242),
    b"PROXY TCP6 ::ffff:192.0.2.1 ::1 0 65535\r\n": ("192.0.2.1", 0),
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN ffff:f...f ffff:f...f 65535 65535\r\n": None,
    v2(0x21, 0x11, FOUR): ("192.0.2.1", 4242),
    v2(0x21, 0x11, FOUR + TLVS): ("192.0.2.1", 4242),
    v2(0x21, 0x21, SIX): ("2001:db8::1", 4242),
    v2(0x21, 0x21, MAPPED): ("192.0.2.1", 4242),
    v2(0x20, 0x00, b""): None,
    # A health check says where it comes from, and that does not matter.
    v2(0x20, 0x11, FOUR): None,
    v2(0x21, 0x00, b"whatever"): None,
    v2(0x21, 0x31, bytes(216)): None,
}


@pytest.mark.parametrize("header", GOOD)
def test_what_balancers_send(header: bytes) -> None:
    found = parse_header(header + SSH)
    assert isinstance(found, Announced)
    assert (found.source, found.length) == (GOOD[header], len(header))
    for end in range(len(header)):
        # Never sooner, and what it asks for is never more than there will be.
        least = parse_header(header[:end])
        assert isinstance(least, int)
        assert end < least <= len(header)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 192.0.2.1 198.51.100.7 4242\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 4242 443 \r\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.7 4242 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 4242 443\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.7 4242 443\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.7 4242 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 -1 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 04242 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 \xd9\xa1 443\r\n",
        b"PROXY TCP4 localhost 198.51.100.7 4242 443\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.7 4242 443\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 " + b"1" * 97,
        v2(0x11, 0x11, FOUR),
        v2(0x22, 0x11, FOUR),
        v2(0x21, 0x12, FOUR),
        v2(0x21, 0x41, FOUR),
        v2(0x21, 0x11, FOUR[:-1]),
        v2(0x21, 0x21, FOUR),
        v2(0x21, 0x11, bytes(MAX_HEADER)),
    ],
)
def test_what_is_malformed(data: bytes) -> None:
    with pytest.raises(PeerError) as found:
        parse_header(data)
    assert found.value.code != "no_header"


@pytest.mark.parametrize("data", [b"S", SSH, b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"PROXX", b"\r\n\r\n\x01"])
def test_what_is_something_else(data: bytes) -> None:
    with pytest.raises(PeerError) as found:
        parse_header(data)
    assert found.value.code == "no_header"


@given(st.binary(max_size=300) | st.sampled_from(sorted(GOOD)).flatmap(lambda good: st.binary().map(good.__add__)))
@example(b"")
def test_a_value_or_a_peer_error(data: bytes) -> None:
    try:
        found = parse_header(data)
    except PeerError:
        return
    if isinstance(found, int):
        assert len(data) < found <= MAX_HEADER
    else:
        assert found.length <= len(data)
        assert found.source is None or ipaddress.ip_address(found.source[0])


@given(st.sampled_from(sorted(GOOD)), st.integers(0, 60), st.integers(0, 255))
def test_one_byte_changed(good: bytes, at: int, byte: int) -> None:
    changed = bytearray(good + SSH)
    changed[at % len(changed)] = byte
    test_a_value_or_a_peer_error.hypothesis.inner_test(bytes(changed))  # type: ignore[attr-defined]


@given(st.ip_addresses().map(str), st.integers(0, 65535), st.binary(max_size=200))
def test_what_we_make_we_understand(address: str, port: int, value: bytes) -> None:
    header = make_header((address, port), make_tlv(0xE0, b"x") + make_tlv(0xE7, value))
    found = parse_header(header)
    assert isinstance(found, Announced)
    mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    assert found.source == (str(mapped or address), port)
    assert find_tlv(found.rest, 0xE7) == value
    assert find_tlv(found.rest, 0xE8) is None


@given(st.binary(max_size=60))
def test_tlvs_of_anybody(rest: bytes) -> None:
    found = find_tlv(rest, 0xE7)
    assert found is None or found in rest
