"""The heads of HTTP/1.1 messages (RFC 9112), as far as our programs use them. Bounded and strict. Light: link loads it.

Strict on purpose: both ends are ours, or a load balancer between them. No folded lines, no bare line feeds, no
whitespace before a colon: what two readers could take differently is refused (RFC 9112 section 11.2).
"""

from __future__ import annotations

from tinyport.core.errors import PeerError
from tinyport.core.names import printable

# What nginx and aiohttp allow as well; ours have 300 bytes.
MAX_HEAD = 8 * 1024
MAX_FIELDS = 64

# RFC 9110 section 5.6.2
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class Head:
    """One head. ``start`` is the request or status line, ``fields`` maps lower-case names to values (repeated fields
    joined by ", " as RFC 9110 section 5.3 allows), ``rest`` the bytes after it.
    """

    __slots__ = ("fields", "rest", "start")

    def __init__(self, start: str, fields: dict[str, str], rest: bytes) -> None:
        self.start = start
        self.fields = fields
        self.rest = rest

    def words(self, name: str) -> list[str]:
        """A field that is a comma-separated list, lower case (``Connection: keep-alive, Upgrade``)."""
        return [word.strip().lower() for word in self.fields.get(name, "").split(",") if word.strip()]

    def request(self) -> tuple[str, str]:
        """(method, target) of a request line. PeerError when it is not one of HTTP/1.1."""
        parts = self.start.split(" ")
        if len(parts) != 3 or not _TOKEN.issuperset(parts[0]) or not parts[0] or parts[2] != "HTTP/1.1":
            raise PeerError("not an HTTP/1.1 request", detail=printable(self.start, 80))
        return parts[0], parts[1]

    def status(self) -> int:
        """The status of a status line. PeerError when it is not one of HTTP/1.x."""
        version, _, after = self.start.partition(" ")
        digits = after[:3]
        good = len(digits) == 3 and digits.isascii() and digits.isdigit() and (len(after) == 3 or after[3] == " ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not good:
            raise PeerError("not an HTTP/1.1 response", detail=printable(self.start, 80))
        return int(digits)

    def length(self) -> int | None:
        """Content-Length; None when it is absent. PeerError when it is not one number."""
        text = self.fields.get("content-length")
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 15:
            raise PeerError("malformed HTTP: Content-Length", detail=printable(text, 60))
        return int(text)


def parse_head(data: bytes | bytearray) -> Head | None:
    """The head at the start of ``data``; None when it is not complete yet.

    PeerError when it is malformed, or longer than ``MAX_HEAD`` bytes.
    """
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
    if end < 0:
        if len(data) >= MAX_HEAD:
            raise PeerError(f"an HTTP head of more than {MAX_HEAD} bytes")
        return None
    start, *lines = bytes(data[:end]).decode("latin-1").split("\r\n")
    if len(lines) > MAX_FIELDS:
        raise PeerError(f"an HTTP head of more than {MAX_FIELDS} fields")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or not _TOKEN.issuperset(name):
            raise PeerError("malformed HTTP: a header field", detail=printable(line, 80))
        value = value.strip(" \t")
        if any(char < " " and char != "\t" for char in value):
            raise PeerError("malformed HTTP: control characters in a header field")
        key = name.lower()
        fields[key] = f"{fields[key]}, {value}" if key in fields else value
    if "\n" in start or "\r" in start:
        raise PeerError("malformed HTTP: a bare line end")
    return Head(start, fields, bytes(data[end + 4 :]))
