"""Recordings on their way to auth: out of the workers' pipes, a piece at a time. Light: link loads it.

The pipe is the buffer, so link holds nothing but the piece that it is sending, and a link that is started again goes on
where the pipe is and auth says it is. Pieces are whole frames; what waits in a pipe that is full is its worker's to
count. One request at a time, in turn, between the audit events that go the same way.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import time
import zlib
from termios import FIONREAD

from tinyport.core import recording_frames as f
from tinyport.core.errors import PeerError, TinyportError, Unavailable
from tinyport.core.names import printable
from tinyport.node.loop import READ, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyport.host.logging_line import Log
    from tinyport.node.link.events import AuthLine
    from tinyport.node.loop import Timer

    Say = Callable[[dict[str, object]], None]

PIECE = 128 * 1024
# What a network of 20 kbit/s takes well within the time that an answer has, packed.
SMALLEST_PIECE = 8 * 1024
# Somebody may be watching; and what is shown within a second travels together.
SOON = 1.0
# But not what fills a pipe in a moment: so often is looked, while something waits, whether it is so much.
GLANCE, ENOUGH = 0.05, 16 * 1024
# Below that, deflate makes it larger.
WORTH_PACKING = 200
# Auth closes what it has heard nothing of for a while (auth.recordings).
STILL_THERE = 300.0
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
MOST = 512
# Of the kernel's memory: what sessions that are over have left while auth is away. The oldest go first, and are told.
MOST_LEFT = 8 * 1024 * 1024
#: what auth means by them ends with the recording
FINAL = ("ended", "too_large", "denied", "removed", "not_found", "bad_request")


class _One:
    __slots__ = (
        "base",
        "descriptor",
        "ended",
        "eof",
        "head",
        "known",
        "must",
        "number",
        "say",
        "sent",
        "sid",
        "since",
        "waits",
    )

    def __init__(self, number: int, sid: str, head: bytes, descriptor: int, must: bool, say: Say) -> None:
        self.number = number
        self.sid = sid
        self.descriptor = descriptor
        self.must = must
        self.say = say
        #: what was read and is not acknowledged; at first, the head
        self.head = True
        self.sent = head
        #: where that belongs, as auth counts
        self.base = 0
        #: auth has it; the pipe has ended; the last frame was read; something is to be read
        self.known = self.eof = self.ended = self.waits = False
        #: monotonic time since when something waits
        self.since = 0.0

    def is_ripe(self) -> bool:
        if self.sent:
            return True
        return self.waits and (time.monotonic() - self.since >= SOON or self.eof or self.waiting() >= ENOUGH)

    def is_over(self) -> bool:
        """Has its session ended? Nobody can write into the pipe any more, then."""
        poll = select.poll()
        poll.register(self.descriptor, 0)
        return bool(poll.poll(0))

    def waiting(self) -> int:
        """How many bytes are in the pipe (ioctl_fionread(2))."""
        count = array.array("i", [0])
        fcntl.ioctl(self.descriptor, FIONREAD, count)
        return count[0]


class Recordings:
    """``take`` gets one of the keeper's ``record`` messages; ``hurry`` when auth can be reached again."""

    def __init__(self, loop: Loop, line: AuthLine, lost: Callable[[str, int], None], log: Log) -> None:
        """``lost(session, bytes)`` is told of what is given up here, and nowhere else known."""
        self._loop = loop
        self._line = line
        self._lost = lost
        self._log = log
        #: in the order of their turns
        self._all: dict[str, _One] = {}
        self._count = 0
        self._busy: _One | None = None
        self._timer: Timer | None = None
        self._pause = 0.0
        #: how much is sent at a time: less after a piece that did not arrive, more after one that did
        self._piece = PIECE
        self._still_there: Timer | None = None

    def take(self, message: dict[str, object], descriptors: list[int], say: Say) -> None:
        """Send what comes out of a pipe. The descriptors are this object's."""
        sid, head = message.get("sid"), message.get("head")
        right = message.get("op") == "record" and len(descriptors) == 1 and isinstance(head, dict)
        if not right or not isinstance(sid, str) or sid in self._all:
            # Known: a line that was given once more. The pipe is the same.
            for descriptor in descriptors:
                os.close(descriptor)
            return
        assert isinstance(head, dict)
        if len(self._all) >= MOST:
            os.close(descriptors[0])
            say({"op": "unrecorded", "sid": sid, "message": "too many recordings are on their way"})
            return
        self._make_room()
        self._count += 1
        one = self._all[sid] = _One(self._count, sid, f.head(head), descriptors[0], message.get("must") is True, say)
        self._loop.add(one.descriptor, READ, lambda events: self._readable(one))
        if one.must:
            # A person waits for it.
            self._pause = 0.0
            self._drop_timer()
        self._soon(0.0)
        if self._still_there is None:
            self._still_there = self._loop.after(STILL_THERE, self._tell_still_there)

    def hurry(self) -> None:
        if self._pause:
            self._pause = 0.0
            self._drop_timer()
            self._soon(0.0)

    def close(self) -> None:
        for one in list(self._all.values()):
            self._forget(one)
        self._drop_timer()

    # ------------------------------------------------------------------ when

    def _readable(self, one: _One) -> None:
        self._loop.remove(one.descriptor)
        one.waits, one.since = True, time.monotonic()
        self._soon(0.0 if one.is_ripe() else GLANCE)

    def _soon(self, seconds: float) -> None:
        if self._busy is None and self._timer is None:
            self._timer = self._loop.after(max(seconds, self._pause), self._next)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell_still_there(self) -> None:
        self._still_there = None
        if self._all:
            for one in self._all.values():
                one.waits, one.since = True, 0.0
            self._soon(0.0)
            self._still_there = self._loop.after(STILL_THERE, self._tell_still_there)

    # ------------------------------------------------------------------ sending

    def _next(self) -> None:
        self._timer = None
        # Those that a person waits for; then what was read already, so that it is one piece at a time; then in turn.
        ready = [one for one in self._all.values() if one.is_ripe()]
        if ready:
            self._send(min(ready, key=lambda one: (not (one.must and not one.known), not one.sent)))
        elif any(one.waits for one in self._all.values()):
            self._soon(GLANCE)

    def _send(self, one: _One) -> None:
        if not one.sent and not one.eof:
            try:
                one.sent = self._read(one)
            except (PeerError, OSError) as error:
                self._log.warning("a recording is broken off", session=one.sid, reason=error)
                one.eof = True
        one.waits = False
        self._busy = one
        # To the end of the line: the others first.
        self._all[one.sid] = self._all.pop(one.sid)
        piece = one.sent[: f.whole(one.sent[: self._piece])]
        last = one.eof and not one.head and len(piece) == len(one.sent)
        path = f"/v1/recordings/{one.sid}?offset={one.base}" + ("&end=1" if last else "")
        packed = zlib.compress(piece) if len(piece) >= WORTH_PACKING else None

        def answered(answer: dict[str, object] | None, error: TinyportError | None) -> None:
            self._answered(one, len(piece), last, answer, error)

        self._line.upload(path, piece if packed is None else packed, packed is not None, answered)

    @staticmethod
    def _read(one: _One) -> bytes:
        """Whole frames: a worker writes each at once, so the rest of one that a read has cut is there."""
        data = _read_up_to(one, PIECE)
        length = f.whole(data)
        while length < len(data):
            more = _read_up_to(one, f.missing(data[length:]))
            if not more:
                raise PeerError("a frame was cut")
            data += more
            length = f.whole(data)
        for kind, _, _, _ in f.frames(data):
            one.ended = kind == f.END
        return data

    def _answered(
        self, one: _One, size: int, last: bool, answer: dict[str, object] | None, error: TinyportError | None
    ) -> None:
        self._busy = None
        if one.sid in self._all:
            if error is None:
                self._took(one, size, last, answer)
            else:
                self._refused(one, error)
        if any(one.sent or one.waits for one in self._all.values()):
            self._soon(0.0)

    def _took(self, one: _One, size: int, last: bool, answer: dict[str, object] | None) -> None:
        offset = (answer or {}).get("offset")
        self._pause = 0.0
        self._piece = min(2 * self._piece, PIECE)
        # A link before us may have sent more than the head: what comes goes on from there.
        one.base = offset if isinstance(offset, int) else one.base + size
        one.sent = one.sent[size:]
        one.head = False
        if not one.known:
            one.known = True
            one.say({"op": "recording", "sid": one.sid})
        if one.sent:
            return
        if last or one.ended:
            self._forget(one)
        elif one.eof or one.waiting() >= ENOUGH:
            one.waits, one.since = True, 0.0
        else:
            self._loop.add(one.descriptor, READ, lambda events: self._readable(one))

    def _refused(self, one: _One, error: TinyportError) -> None:
        wanted = error.extra.get("offset")
        if error.code == "offset" and isinstance(wanted, int) and wanted != one.base and not one.head:
            # It was restored from a backup, say: the frames themselves tell what is missing.
            one.base = wanted
            return
        if error.code in ("offset", *FINAL) or (one.must and not one.known):
            level = self._log.info if isinstance(error, Unavailable) else self._log.warning
            level("a recording is not taken", session=one.sid, reason=error)
            one.say({"op": "unrecorded", "sid": one.sid, "message": printable(error.message, 200)})
            self._forget(one)
            return
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        self._piece = max(self._piece // 4, SMALLEST_PIECE)
        self._log.debug("recordings wait", reason=error, next_try=f"{self._pause:.0f}s")

    def _make_room(self) -> None:
        # Since when they are here, whoever's turn it is.
        oldest = sorted(self._all.values(), key=lambda one: one.number)
        left = [(one, one.waiting() + len(one.sent)) for one in oldest if one.is_over()]
        total = sum(size for _, size in left)
        for one, size in left:
            if total <= MOST_LEFT:
                return
            if one is not self._busy:
                total -= size
                self._log.warning("a recording is given up", session=one.sid, reason="auth was away for too long")
                self._lost(one.sid, size)
                self._forget(one)

    def _forget(self, one: _One) -> None:
        self._all.pop(one.sid, None)
        self._loop.remove(one.descriptor)
        os.close(one.descriptor)


def _read_up_to(one: _One, size: int) -> bytes:
    try:
        data = os.read(one.descriptor, size)
    except BlockingIOError:
        return b""
    one.eof = not data
    return data
