"""The data types of the SSH protocol (RFC 4251 section 5): bytes to values and back, with bounds."""

from __future__ import annotations

from tinyport.core.errors import PeerError

# RFC 4253 section 6.1 asks for packets of 35,000 bytes; nothing that we decode as a whole is larger than this.
MAX_STRING = 256 * 1024


def byte(value: int) -> bytes:
    return bytes((value,))


def boolean(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def uint32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def uint64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def mpint(value: int) -> bytes:
    """A non-negative integer as mpint: the shortest two's complement form."""
    if value < 0:
        raise ValueError("negative mpint is not used by any of our formats")
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big") if value else b"")


def strings(data: bytes, what: str, limit: int = MAX_STRING) -> list[bytes]:
    """All of ``data`` as strings, one after the other. PeerError when it is anything else.

    What certificates' lists are made of, and so most of what decoding one costs: in one loop, without a call for each.
    """
    found = []
    at, size = 0, len(data)
    while at < size:
        begin = at + 4
        length = int.from_bytes(data[at:begin], "big")
        at = begin + length
        if at > size or length > limit:
            raise PeerError(f"malformed {what}: a string of {length} bytes where {max(0, size - begin)} are left")
        found.append(data[begin:at])
    return found


class Reader:
    """Takes values off the front of ``data``. Every method raises PeerError when the data does not hold one."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str = "packet") -> None:
        self._data = data
        self._at = 0
        self._what = what

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if count < 0 or end > len(self._data):
            raise PeerError(f"malformed {self._what}: it ends too early")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def byte(self) -> int:
        return self._take(1)[0]

    def boolean(self) -> bool:
        # RFC 4251 section 5: all non-zero values are true.
        return self._take(1) != b"\x00"

    def uint32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def uint64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def string(self, limit: int = MAX_STRING) -> bytes:
        # Written out, for it is what decoding a certificate consists of: a third of the time of three calls.
        begin = self._at + 4
        length = int.from_bytes(self._data[self._at : begin], "big")
        end = begin + length
        if length > limit and begin <= len(self._data):
            raise PeerError(f"malformed {self._what}: a string of {length} bytes, at most {limit} are allowed")
        if end > len(self._data):
            raise PeerError(f"malformed {self._what}: it ends too early")
        self._at = end
        return self._data[begin:end]

    def text(self, limit: int = MAX_STRING) -> str:
        try:
            return self.string(limit).decode("utf-8")
        except UnicodeDecodeError:
            raise PeerError(f"malformed {self._what}: text that is not UTF-8") from None

    def mpint(self) -> int:
        """A non-negative mpint in its only shortest form."""
        data = self.string(2048)
        if data and data[0] & 0x80:
            raise PeerError(f"malformed {self._what}: negative integer")
        if data[:1] == b"\x00" and (len(data) < 2 or not data[1] & 0x80):
            raise PeerError(f"malformed {self._what}: integer with leading zeros")
        return int.from_bytes(data, "big")

    def rest(self) -> bytes:
        return self._take(len(self._data) - self._at)

    @property
    def position(self) -> int:
        """How many bytes were read so far."""
        return self._at

    def at_end(self) -> bool:
        return self._at == len(self._data)

    def end(self) -> None:
        if not self.at_end():
            raise PeerError(f"malformed {self._what}: {len(self._data) - self._at} bytes too many")
