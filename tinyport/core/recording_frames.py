"""What a recording is on its way from the worker to auth, and on auth's disk: frames, one after the other.

Big-endian: kind (1 byte), milliseconds since the session began (8), position (8), length (2), data. ``position`` counts
the bytes that the session has shown before this frame, stored or not: where it is ahead of what the frames before hold,
bytes were lost, and how many says itself, whoever lost them. A frame is written into a pipe whole or not at all
(PIPE_BUF, 4,096 bytes on Linux). Light: link loads it.
"""

from __future__ import annotations

import json
import struct

from tinyport.core.errors import PeerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    #: kind, milliseconds, position, data
    Frame = tuple[int, int, int, bytes]

HEAD, OUTPUT, RESIZE, MARK, END = range(1, 6)
_LAYOUT = struct.Struct(">BQQH")
_SIZE = struct.Struct(">HH")
HEADER = _LAYOUT.size
MAX_FRAME = 4096
MAX_DATA = MAX_FRAME - HEADER
MAX_MARK = 256
# Ten years: longer than any session, shorter than what a float of seconds says exactly.
MAX_TIME = 10 * 366 * 86400 * 1000
MAX_POSITION = 2**53
#: of the words in a head
MAX_WORD = 256
VERSION = 1


def frame(kind: int, milliseconds: int, position: int, data: bytes = b"") -> bytes:
    """One frame. ValueError when it is too large: that is our own fault."""
    if len(data) > MAX_DATA:
        raise ValueError(f"a frame of {len(data)} bytes, at most {MAX_DATA} are allowed")
    return _LAYOUT.pack(kind, milliseconds, position, len(data)) + data


def head(fields: Mapping[str, object]) -> bytes:
    """The first frame: what the recording is of. Words that would not fit are cut."""
    cut = {name: value[:MAX_WORD] if isinstance(value, str) else value for name, value in fields.items()}
    data = json.dumps({"version": VERSION, **cut}, separators=(",", ":")).encode()
    if len(data) > MAX_DATA:
        data = json.dumps(
            {name: value for name, value in cut.items() if name != "command"} | {"version": VERSION}
        ).encode()
    return frame(HEAD, 0, 0, data)


def resize(milliseconds: int, position: int, columns: int, rows: int) -> bytes:
    return frame(RESIZE, milliseconds, position, _SIZE.pack(min(columns, 65535), min(rows, 65535)))


def size_of(data: bytes) -> tuple[int, int]:
    """(columns, rows) of a RESIZE frame's data."""
    columns, rows = _SIZE.unpack(data)
    return columns, rows


def parse_head(data: bytes) -> dict[str, object]:
    """A HEAD frame's data → its fields. PeerError when it is malformed or of a version that is not known."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise PeerError("a recording's head is not JSON") from None
    if not isinstance(fields, dict) or fields.get("version") != VERSION:
        raise PeerError("a recording's head is not of a version that is known here")
    return fields


def whole(data: bytes | bytearray | memoryview) -> int:
    """How many bytes at the front are whole frames. PeerError when something there is none."""
    at = 0
    while len(data) - at >= HEADER:
        kind, milliseconds, position, length = _LAYOUT.unpack_from(data, at)
        _check(kind, milliseconds, position, length)
        if len(data) - at - HEADER < length:
            break
        at += HEADER + length
    return at


def missing(data: bytes) -> int:
    """How many bytes half a frame needs: of its header when that is not whole, else to its end."""
    if len(data) < HEADER:
        return HEADER - len(data)
    length: int = _LAYOUT.unpack_from(data)[3]
    return HEADER + length - len(data)


def frames(data: bytes | memoryview) -> Iterator[Frame]:
    """The frames that are whole; what is left over at the end is not looked at. PeerError when one is malformed."""
    at = 0
    while len(data) - at >= HEADER:
        kind, milliseconds, position, length = _LAYOUT.unpack_from(data, at)
        _check(kind, milliseconds, position, length)
        end = at + HEADER + length
        if end > len(data):
            return
        yield kind, milliseconds, position, bytes(data[at + HEADER : end])
        at = end


def _check(kind: int, milliseconds: int, position: int, length: int) -> None:
    fits = {HEAD: length > 0, OUTPUT: length > 0, RESIZE: length == _SIZE.size, MARK: 0 < length <= MAX_MARK}
    if not HEAD <= kind <= END or length > MAX_DATA or not fits.get(kind, length == 0):
        raise PeerError("a recording's frame is malformed", detail=f"kind {kind}, {length} bytes")
    if milliseconds > MAX_TIME or position > MAX_POSITION:
        raise PeerError("a recording's frame is malformed", detail=f"time {milliseconds}, position {position}")


class Progress:
    """What the frames so far come to: ``shown`` bytes of output are there, ``lost`` are not, and whether it ``ended``.

    Whoever stores frames and whoever reads them follow the same rules: HEAD first and once, nothing after END, and
    positions that never go back.
    """

    __slots__ = ("ended", "lost", "milliseconds", "position", "shown", "started")

    def __init__(self) -> None:
        self.started = False
        self.ended = False
        self.milliseconds = 0
        self.position = 0
        self.shown = 0
        self.lost = 0

    def follow(self, one: Frame) -> int:
        """Take one frame in; how many bytes are missing before it. PeerError when it cannot come here."""
        kind, milliseconds, position, data = one
        if self.started == (kind == HEAD) or self.ended:
            raise PeerError("a recording's frames are out of order", detail=f"kind {kind}")
        if position < self.position:
            raise PeerError("a recording's frames are out of order", detail=f"position {position} < {self.position}")
        self.started = True
        self.milliseconds = max(self.milliseconds, milliseconds)
        missing = position - self.position
        self.lost += missing
        self.position = position
        if kind == OUTPUT:
            self.position += len(data)
            self.shown += len(data)
        self.ended = kind == END
        return missing

    def copy(self) -> Progress:
        made = Progress()
        for name in self.__slots__:
            setattr(made, name, getattr(self, name))
        return made
