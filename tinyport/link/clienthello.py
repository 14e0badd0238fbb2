"""What a TLS client asks for, read from its first bytes before any TLS is spoken (RFC 8446 section 4.1.2).

Pure and bounded: the proxy peeks at a stranger's first bytes to choose the context that will speak with it. Nothing
here is believed: the chosen context negotiates again from the same bytes.
"""

from __future__ import annotations

from tinyport.core.errors import PeerError

# Real ones have 200 bytes to 2 kB, with post-quantum key shares and padding up to some 6 kB.
MAX_HELLO = 16 * 1024

# RFC 8446 section 5.1: a record's fragment; 2^14 is the limit of plain text.
_RECORD_HEADER = 5
#: a peeker needs no more bytes than this: ``parse`` never asks for more
MAX_PEEK = MAX_HELLO + _RECORD_HEADER
_MAX_FRAGMENT = 1 << 14
_HANDSHAKE_RECORD = 22

_EXT_SERVER_NAME = 0  # RFC 6066 section 3
_EXT_ALPN = 16  # RFC 7301 section 3.1


class NeedMore:
    """The bytes so far could become a ClientHello; ``least`` is how many are needed before asking again makes sense."""

    __slots__ = ("least",)

    def __init__(self, least: int) -> None:
        self.least = least


class ClientHello:
    """The protocols offered, in the client's order, and the server's name ("" when not said)."""

    __slots__ = ("alpn", "server_name")

    def __init__(self, alpn: tuple[str, ...], server_name: str) -> None:
        self.alpn = alpn
        self.server_name = server_name


class _Bytes:
    """Takes counted vectors off a message; PeerError where the message is shorter than it says."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._end = len(data)

    def take(self, count: int) -> bytes:
        if count > self._end - self._at:
            raise PeerError("malformed ClientHello: it ends too early")
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Bytes:
        """A vector whose length stands before it in ``size`` bytes."""
        return _Bytes(self.take(self.number(size)))

    def rest(self) -> bytes:
        return self.take(self._end - self._at)

    def __bool__(self) -> bool:
        return self._at < self._end


def parse(data: bytes) -> NeedMore | ClientHello:
    """The first bytes of a TLS connection → what its ClientHello says, or how many bytes must be there at least.

    PeerError when they cannot become a ClientHello of at most ``MAX_HELLO`` bytes. What follows it is not looked at.
    """
    message = b""
    at = 0
    while True:
        length = _fragment(data, at)
        if length is None:
            return _more(at + _RECORD_HEADER)
        fragment = data[at + _RECORD_HEADER : at + _RECORD_HEADER + length]
        message += fragment
        if message[:1] not in (b"", b"\x01"):
            raise PeerError("not a ClientHello", detail=f"handshake message of type {message[0]}")
        if len(message) >= 4:
            size = 4 + int.from_bytes(message[1:4], "big")
            if size > MAX_HELLO:
                raise PeerError(f"a ClientHello of {size} bytes, at most {MAX_HELLO} are allowed")
            if len(message) >= size:
                return _client_hello(_Bytes(message[4:size]))
        at += _RECORD_HEADER + length
        if len(fragment) < length:
            return _more(at)


def _fragment(data: bytes, at: int) -> int | None:
    """The length of the record that begins at ``at``; None when its header is not complete."""
    header = data[at : at + _RECORD_HEADER]
    # Judged byte by byte: what is wrong already will not become right.
    if header and header[0] != _HANDSHAKE_RECORD:
        raise PeerError("not a TLS handshake", detail=f"record of type {header[0]}")
    # RFC 8446 section 5.1: legacy_record_version, 0x0301 to 0x0303 in the wild.
    if len(header) > 1 and header[1] != 3:
        raise PeerError("not a TLS handshake", detail=f"record version {header[1]}.x")
    if len(header) < _RECORD_HEADER:
        return None
    length = int.from_bytes(header[3:5], "big")
    # RFC 8446 section 5.1: no zero-length fragments of handshake types.
    if not 0 < length <= _MAX_FRAGMENT:
        raise PeerError("not a TLS handshake", detail=f"record of {length} bytes")
    return length


def _more(least: int) -> NeedMore:
    if least > MAX_PEEK:
        # Many tiny records around a message within its bound: nobody honest does this.
        raise PeerError("a ClientHello in too many pieces")
    return NeedMore(least)


def _client_hello(body: _Bytes) -> ClientHello:
    body.take(2 + 32)  # legacy_version, random
    body.vector(1)  # legacy_session_id
    body.vector(2)  # cipher_suites
    body.vector(1)  # legacy_compression_methods
    alpn: tuple[str, ...] | None = None
    server_name: str | None = None
    # TLS 1.2 (RFC 5246 section 7.4.1.2) lets a client say no extensions at all.
    extensions = body.vector(2) if body else _Bytes(b"")
    if body:
        raise PeerError("malformed ClientHello: bytes after its end")
    while extensions:
        kind = extensions.number(2)
        content = extensions.vector(2)
        if kind == _EXT_ALPN:
            # RFC 8446 section 4.2: no extension type appears twice. Two readers could take different ones.
            if alpn is not None:
                raise PeerError("malformed ClientHello: protocols are offered twice")
            alpn = _protocols(content)
        elif kind == _EXT_SERVER_NAME:
            if server_name is not None:
                raise PeerError("malformed ClientHello: two server names")
            server_name = _server_name(content)
    return ClientHello(alpn or (), server_name or "")


def _protocols(content: _Bytes) -> tuple[str, ...]:
    names = content.vector(2)
    found = []
    while names:
        name = names.vector(1).rest()
        # RFC 7301 section 3.1: no empty names. They are bytes; ours are ASCII, others' need only stay apart from ours.
        if not name:
            raise PeerError("malformed ClientHello: a protocol without a name")
        found.append(name.decode("latin-1"))
    return tuple(found)


def _server_name(content: _Bytes) -> str:
    names = content.vector(2)
    name = ""
    while names:
        kind = names.number(1)
        value = names.vector(2).rest()
        if kind == 0 and not name:
            name = value.decode("latin-1")
    return name
