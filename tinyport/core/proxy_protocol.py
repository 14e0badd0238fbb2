"""The header by which a load balancer says whose connection it passes on (HAProxy's PROXY protocol, versions 1 and 2).

https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt; section numbers below are its. Pure and bounded. Whether
whoever sends one is to be believed is the caller's to know before it asks here.
"""

from __future__ import annotations

import ipaddress

from tinyport.core.errors import PeerError

Address = tuple[str, int]

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V1 = b"PROXY "
# Section 2.1: "a 108-byte buffer is always enough".
_LONGEST_V1 = 107
_SHORTEST_V1 = len(b"PROXY UNKNOWN\r\n")
_FIXED_V2 = 16
# Section 2.2 guarantees 536 bytes to pass; with the certificates that some put into TLVs it is a kilobyte or two.
MAX_HEADER = 4096

_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC, _TCP4, _TCP6, _UNIX_STREAM = 0x00, 0x11, 0x21, 0x31


class Announced:
    """``source``: whose connection it is, None when it is the sender's own (a health check) or not told. ``length``: of
    the header. ``rest``: what follows the addresses in version 2 (TLVs)."""

    __slots__ = ("length", "rest", "source")

    def __init__(self, source: Address | None, length: int, rest: bytes = b"") -> None:
        self.source = source
        self.length = length
        self.rest = rest


def parse_header(data: bytes) -> Announced | int:
    """The first bytes of a connection → what its header says, or how many bytes must be there at least to tell.

    PeerError ``no_header`` when it begins with none, another one when that is malformed.
    """
    if not data:
        return _SHORTEST_V1
    if data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        return _version_2(data)
    if data[: len(_V1)] == _V1[: len(data)]:
        return _version_1(data)
    raise PeerError("no PROXY header", code="no_header")


def _version_1(data: bytes) -> Announced | int:
    line, end, _ = data[:_LONGEST_V1].partition(b"\r\n")
    if not end:
        if len(data) >= _LONGEST_V1:
            raise PeerError("malformed PROXY header: a line without an end")
        return max(_SHORTEST_V1, len(data) + 1)
    words = line.split(b" ")
    length = len(line) + 2
    if words[1] == b"UNKNOWN":
        # Section 2.1: what follows is to be ignored.
        return Announced(None, length)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise PeerError("malformed PROXY header", detail=repr(line))
    try:
        source, _ = (ipaddress.ip_address(word.decode("ascii")) for word in words[2:4])
        port, _ = (_port(word) for word in words[4:])
    except ValueError:
        raise PeerError("malformed PROXY header", detail=repr(line)) from None
    if source.version != int(words[1][3:]):
        raise PeerError("malformed PROXY header", detail=repr(line))
    return Announced((plain(source), port), length)


def _port(text: bytes) -> int:
    if not text.isdigit() or len(text) > 5 or (text[:1] == b"0" and text != b"0") or int(text) > 65535:
        raise ValueError(text)
    return int(text)


def _version_2(data: bytes) -> Announced | int:
    if len(data) < _FIXED_V2:
        return _FIXED_V2
    command, family, size = data[12], data[13], int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXY) or family not in (_UNSPEC, _TCP4, _TCP6, _UNIX_STREAM):
        raise PeerError("malformed PROXY header", detail=f"command 0x{command:02x}, family 0x{family:02x}")
    length = _FIXED_V2 + size
    if length > MAX_HEADER:
        raise PeerError(f"a PROXY header of {length} bytes, at most {MAX_HEADER} are allowed")
    if len(data) < length:
        return length
    if command == _LOCAL or family in (_UNSPEC, _UNIX_STREAM):
        # Section 2.2: the receiver takes the connection's own end.
        return Announced(None, length)
    wide = 4 if family == _TCP4 else 16
    if size < 2 * wide + 4:
        raise PeerError("malformed PROXY header: it ends in the middle of an address")
    body = data[_FIXED_V2:length]
    port = int.from_bytes(body[2 * wide : 2 * wide + 2], "big")
    return Announced((plain(ipaddress.ip_address(body[:wide])), port), length, body[2 * wide + 4 :])


def plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As the kernel would write it; one of IPv4 inside of IPv6 as what it is, so that it is one source, not two."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def make_header(source: Address, tlvs: bytes = b"") -> bytes:
    """Version 2, for a connection that comes from ``source``. Where it went to is nobody's business here."""
    address = ipaddress.ip_address(plain(ipaddress.ip_address(source[0].partition("%")[0])))
    family = _TCP4 if address.version == 4 else _TCP6
    body = address.packed + bytes(len(address.packed)) + source[1].to_bytes(2, "big") + bytes(2) + tlvs
    return SIGNATURE + bytes((_PROXY, family)) + len(body).to_bytes(2, "big") + body


def make_tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def find_tlv(rest: bytes, kind: int) -> bytes | None:
    """The first TLV of a kind; None when there is none, or what stands before it is no TLV."""
    at = 0
    while len(rest) - at >= 3:
        size = int.from_bytes(rest[at + 1 : at + 3], "big")
        value = rest[at + 3 : at + 3 + size]
        if len(value) < size:
            return None
        if rest[at] == kind:
            return value
        at += 3 + size
    return None
