"""WebSocket framing and handshake (RFC 6455) for both ends, without I/O, clock or randomness. Light: link loads it.

No extensions (no compression: it would cost memory per tunnel and leak lengths), one subprotocol. Memory per decoder:
at most ``max_message`` bytes of a message, plus the bytes of one ``feed``.
"""

from __future__ import annotations

import binascii
import hashlib

from tinyport.core.errors import PeerError
from tinyport.link.httphead import Head

OP_CONTINUATION = 0x0
OP_TEXT = 0x1
OP_BINARY = 0x2
OP_CLOSE = 0x8
OP_PING = 0x9
OP_PONG = 0xA

# Status codes of close frames, RFC 6455 section 7.4.1
CLOSE_NORMAL = 1000
CLOSE_GOING_AWAY = 1001
CLOSE_PROTOCOL_ERROR = 1002
CLOSE_POLICY = 1008
CLOSE_TOO_BIG = 1009
# Of IANA's registry: the server is being restarted.
CLOSE_RESTART = 1012

#: the subprotocol of a node's tunnel (docs/protocol/tunnel.md)
SUBPROTOCOL = "tinyport.v1"

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_DATA = frozenset((OP_CONTINUATION, OP_TEXT, OP_BINARY))
_CONTROL = frozenset((OP_CLOSE, OP_PING, OP_PONG))


def _mask(data: bytes, key: bytes) -> bytes:
    # XOR of two long integers: 100 times faster than a loop, and without an array the size of a step per byte.
    count = len(data)
    if not count:
        return b""
    pad = (key * (count // 4 + 1))[:count]
    return (int.from_bytes(data, "little") ^ int.from_bytes(pad, "little")).to_bytes(count, "little")


def encode(opcode: int, payload: bytes = b"", mask: bytes | None = None) -> bytes:
    """One unfragmented frame. ``mask``: four random bytes, which a client must give and a server must not."""
    count = len(payload)
    if opcode in _CONTROL and count > 125:
        raise ValueError("control frames carry at most 125 bytes (RFC 6455 section 5.5)")
    bit = 0 if mask is None else 0x80
    head = bytes((0x80 | opcode,))
    if count < 126:
        head += bytes((bit | count,))
    elif count < 65536:
        head += bytes((bit | 126,)) + count.to_bytes(2, "big")
    else:
        head += bytes((bit | 127,)) + count.to_bytes(8, "big")
    if mask is None:
        return head + payload
    if len(mask) != 4:
        raise ValueError("a mask has four bytes")
    return head + mask + _mask(payload, mask)


def encode_close(code: int, reason: str = "", mask: bytes | None = None) -> bytes:
    """A close frame (RFC 6455 section 5.5.1). The reason is cut to what fits."""
    text = reason.encode()[:123].decode("utf-8", "ignore").encode()
    return encode(OP_CLOSE, code.to_bytes(2, "big") + text, mask)


def close_reason(payload: bytes) -> tuple[int, str]:
    """The payload of a close frame → (status code, reason); (1005, "") when it carries none (section 7.1.5)."""
    if len(payload) < 2:
        return 1005, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8", "replace")


class Decoder:
    """Bytes from the other end → messages.

    ``role`` is our own: a "server" demands masked frames, a "client" unmasked ones (RFC 6455 section 5.1). Each
    ``feed`` gives the messages completed by it: fragments are joined, control frames come in between as they arrive.
    After a PeerError, or after a close frame was given out, the decoder takes nothing more.
    """

    __slots__ = ("_buffer", "_closed", "_limit", "_masked", "_message", "_opcode")

    def __init__(self, role: str, max_message: int) -> None:
        if role not in ("client", "server"):
            raise ValueError("role is client or server")
        self._masked = role == "server"
        self._limit = max_message
        self._buffer = bytearray()
        # The message whose fragments are being joined, and its opcode; 0 between messages.
        self._message = bytearray()
        self._opcode = 0
        self._closed = False

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """(opcode, payload) of each message that is complete now: OP_TEXT (valid UTF-8), OP_BINARY, OP_CLOSE, OP_PING,
        OP_PONG. PeerError for anything that RFC 6455 forbids, and for messages above the limit.
        """
        found: list[tuple[int, bytes]] = []
        if self._closed:
            return found
        self._buffer += data
        try:
            while not self._closed:
                frame = self._frame()
                if frame is None:
                    return found
                message = self._join(*frame)
                if message is not None:
                    found.append(message)
                    self._closed = message[0] == OP_CLOSE
        except PeerError:
            self._closed = True
            self._drop()
            raise
        self._drop()
        return found

    def _drop(self) -> None:
        self._buffer = bytearray()
        self._message = bytearray()

    def _frame(self) -> tuple[bool, int, bytes] | None:
        """(final, opcode, payload) of the frame at the buffer's start; None when it is not complete."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, second = buffer[0], buffer[1]
        opcode = first & 0x0F
        final = bool(first & 0x80)
        if first & 0x70:
            # Section 5.2: reserved bits are zero unless an extension was negotiated, and we negotiate none.
            raise PeerError("WebSocket: reserved bits are set")
        if opcode not in _DATA and opcode not in _CONTROL:
            raise PeerError("WebSocket: unknown opcode", detail=f"opcode {opcode}")
        if bool(second & 0x80) != self._masked:
            # Section 5.1: frames of clients are masked, those of servers are not.
            raise PeerError("WebSocket: a frame is not masked as it must be")
        count = second & 0x7F
        if opcode in _CONTROL and (count > 125 or not final):
            # Section 5.5: control frames are short and whole.
            raise PeerError("WebSocket: a long or fragmented control frame")
        at = 2
        if count >= 126:
            size = 2 if count == 126 else 8
            if len(buffer) < at + size:
                return None
            least = 126 if count == 126 else 65536
            count = int.from_bytes(buffer[at : at + size], "big")
            at += size
            if count < least:
                # Section 5.2: the minimal number of bytes must be used to encode the length.
                raise PeerError("WebSocket: a length is not in its shortest form")
        if opcode in _DATA and count + len(self._message) > self._limit:
            raise PeerError(f"WebSocket: a message of more than {self._limit} bytes", code="too_large")
        key = b""
        if self._masked:
            key = bytes(buffer[at : at + 4])
            at += 4
        if len(buffer) < at + count:
            return None
        payload = bytes(buffer[at : at + count])
        del buffer[: at + count]
        return final, opcode, _mask(payload, key) if self._masked else payload

    def _join(self, final: bool, opcode: int, payload: bytes) -> tuple[int, bytes] | None:
        if opcode == OP_CLOSE:
            _check_close(payload)
        if opcode in _CONTROL:
            return opcode, payload
        # Section 5.4: a message begins with its opcode and goes on with continuations, not interleaved.
        if (opcode == OP_CONTINUATION) != bool(self._opcode):
            raise PeerError("WebSocket: a fragment out of place")
        if opcode != OP_CONTINUATION:
            if final:
                return opcode, _text(payload) if opcode == OP_TEXT else payload
            self._opcode = opcode
        self._message += payload
        if not final:
            return None
        whole, kind = bytes(self._message), self._opcode
        self._message, self._opcode = bytearray(), 0
        return kind, _text(whole) if kind == OP_TEXT else whole


def _text(payload: bytes) -> bytes:
    try:
        payload.decode()
    except UnicodeDecodeError:
        # Section 8.1: a text message that is not UTF-8 fails the connection.
        raise PeerError("WebSocket: a text message is not UTF-8") from None
    return payload


def _check_close(payload: bytes) -> None:
    if not payload:
        return
    # Sections 5.5.1 and 7.4: two bytes of code, then UTF-8; codes that never travel.
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not 1000 <= code < 5000 or code in (1004, 1005, 1006, 1015):
        raise PeerError("WebSocket: a malformed close frame")
    _text(payload[2:])


def accept_value(key: str) -> str:
    """``Sec-WebSocket-Key`` → ``Sec-WebSocket-Accept`` (section 4.2.2)."""
    digest = hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False).decode("ascii")


def make_key(random: bytes) -> str:
    """16 random bytes → a ``Sec-WebSocket-Key``."""
    if len(random) != 16:
        raise ValueError("a key is made of 16 bytes")
    return binascii.b2a_base64(random, newline=False).decode("ascii")


def client_handshake(path: str, host: str, key: str) -> bytes:
    """The client's request (section 4.1). ``key`` as ``make_key`` gave it."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    ).encode("latin-1")


def check_response(head: Head, key: str) -> None:
    """Is this the server's yes to ``client_handshake``? PeerError otherwise (section 4.1, what clients validate)."""
    status = head.status()
    if status != 101:
        raise PeerError(f"the server refused the tunnel with HTTP status {status}")
    if head.fields.get("upgrade", "").lower() != "websocket" or "upgrade" not in head.words("connection"):
        raise PeerError("the server did not switch to WebSocket")
    if head.fields.get("sec-websocket-accept") != accept_value(key):
        raise PeerError("the server's WebSocket answer belongs to another request")
    if head.fields.get("sec-websocket-protocol") != SUBPROTOCOL or "sec-websocket-extensions" in head.fields:
        raise PeerError("the server wants another WebSocket protocol")


def check_request(head: Head, path: str) -> str:
    """Is this a client's request for our tunnel? Returns its key; PeerError otherwise (section 4.2.1)."""
    method, target = head.request()
    if method != "GET" or target != path or "host" not in head.fields:
        raise PeerError("not the request of a tunnel")
    if head.fields.get("upgrade", "").lower() != "websocket" or "upgrade" not in head.words("connection"):
        raise PeerError("not a WebSocket request")
    if head.fields.get("sec-websocket-version") != "13" or SUBPROTOCOL not in head.words("sec-websocket-protocol"):
        raise PeerError("another version of the WebSocket protocol")
    key = head.fields.get("sec-websocket-key", "")
    try:
        raw = binascii.a2b_base64(key.encode("ascii"))
    except ValueError:
        raw = b""
    if len(raw) != 16 or len(key) != 24:
        raise PeerError("malformed Sec-WebSocket-Key")
    return key


def server_handshake(key: str) -> bytes:
    """The server's yes to a request whose key is ``key`` (section 4.2.2)."""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_value(key)}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    ).encode("latin-1")
