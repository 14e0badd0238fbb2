"""The recording of a session in its worker: frames of what it shows, into the pipe that the keeper gave (recording.md).

In mode ``node`` nothing ever waits: what the pipe does not take is lost, and the position of the next frame says how
much. In mode ``strict`` the session waits with it: while the pipe takes nothing, nothing is read from the process; and
when that lasts too long, the keeper hears why the session cannot go on.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Mapping

from tinyport.core import recording_frames as f

# So long auth may be away, or the way to it be blocked, before a session that must be recorded ends.
STALL_LIMIT = 60.0
# The end of a session that is over waits so long for room: without it the recording would pass for cut off.
END_LIMIT = 120.0
# Of a command without a terminal: enough to see what it said; what is copied through it is no recording's business.
WITHOUT_TERMINAL = 256 * 1024
# Of what one recording may have, this part is for marks and the end.
RESERVE = 16

# What is shown within a moment is one frame: a pipe gives each a page of its own.
MOMENT = 0.02
# With a size before it, a frame still goes into a pipe whole.
PIECE = f.MAX_DATA - len(f.resize(0, 0, 0, 0))

STALLED = f"this session must be recorded, and its recording could not be stored for {STALL_LIMIT:g} seconds"
FULL = "this session must be recorded, and its recording has reached the largest size that is allowed"
REFUSED = "this session must be recorded, and its recording is not accepted any more"


class Recorder:
    """``output``, ``resize`` and ``mark`` as it goes, then ``finish``, which closes the descriptor when the last frame
    is written. ``resumed`` is called when ``blocked`` is over.

    ``failed(why)``, once at most: a session that must be recorded is to end. ``over(lost)``, once, at the end: so many
    bytes were shown after whoever held the pipe's other end had let go. What was lost before that, frames say.
    """

    __slots__ = (
        "_began",
        "_descriptor",
        "_failed",
        "_finishing",
        "_full",
        "_gap",
        "_held",
        "_held_timer",
        "_loop",
        "_lost",
        "_over",
        "_position",
        "_room",
        "_short",
        "_size",
        "_strict",
        "_timer",
        "_waiting",
        "resumed",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        wish: Mapping[str, object],
        terminal: tuple[int, int] | None,
        failed: Callable[[str], None],
        over: Callable[[int], None],
    ) -> None:
        """``wish``: ``strict``, and ``most`` bytes of frames. ``terminal``: (columns, rows), None without one."""
        os.set_blocking(descriptor, False)
        self._loop = loop
        self._descriptor = descriptor
        self._strict = wish.get("strict") is True
        most = int(str(wish.get("most")))
        self._room = most - most // RESERVE
        #: how much of the output of a command without a terminal is still taken; None with one
        self._short = WITHOUT_TERMINAL if terminal is None else None
        self._size = terminal
        self._failed = failed
        self._over: Callable[[int], None] | None = over
        self._began = loop.time()
        self._position = 0
        self._lost = 0
        self._gap = self._full = self._finishing = False
        #: shown, and not yet a frame
        self._held = bytearray()
        self._held_timer: asyncio.TimerHandle | None = None
        self._waiting: deque[bytes] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.resumed: Callable[[], None] = _nothing

    @property
    def blocked(self) -> bool:
        """Is nothing more to be read from the process?"""
        return bool(self._waiting) and self._strict and not self._finishing

    # ------------------------------------------------------------------ what happens

    def output(self, data: bytes) -> None:
        if self._short is not None:
            data = self._cut(data)
        self._held += data
        if len(self._held) >= PIECE:
            self._show(len(self._held) // PIECE * PIECE)
        if self._held and self._held_timer is None:
            self._held_timer = self._loop.call_later(MOMENT, self._show)

    def _show(self, size: int | None = None) -> None:
        """What is held becomes frames, or ``size`` bytes of it."""
        if self._held_timer is not None:
            self._held_timer.cancel()
            self._held_timer = None
        data = bytes(self._held[:size])
        del self._held[:size]
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            if self._descriptor < 0 or not self._put(piece):
                # What comes with it is lost, too: there is no sense in asking for room again at once.
                self._gap = True
                rest = len(data) - at
                self._position += rest
                # Of a pipe that is only full, the next frame says it.
                self._lost += rest if self._descriptor < 0 else 0
                return
            self._position += len(piece)

    def _cut(self, data: bytes) -> bytes:
        assert self._short is not None
        taken = data[: max(self._short, 0)]
        if self._short >= 0 and len(taken) < len(data):
            self.mark(f"of a command without a terminal, {WITHOUT_TERMINAL} bytes are recorded")
            # Said once.
            self._short = -1
        else:
            self._short -= len(taken)
        return taken

    def resize(self, columns: int, rows: int) -> None:
        if self._size is not None:
            self._show()
            self._size = columns, rows
            self._send(f.resize(self._milliseconds(), self._position, columns, rows))

    def mark(self, text: str) -> None:
        data = text.encode("utf-8", "replace")[: f.MAX_MARK]
        self._show()
        if data:
            self._send(f.frame(f.MARK, self._milliseconds(), self._position, data))

    def finish(self) -> None:
        """Nothing more is shown."""
        if self._finishing:
            return
        self._show()
        self._finishing = True
        self._stop_timer()
        if self._descriptor < 0:
            self._end()
            return
        self._waiting.append(f.frame(f.END, self._milliseconds(), self._position))
        self._timer = self._loop.call_later(END_LIMIT, self._end)
        self._loop.add_writer(self._descriptor, self._flush)
        self._flush()

    # ------------------------------------------------------------------ the pipe

    def _milliseconds(self) -> int:
        return int((self._loop.time() - self._began) * 1000)

    def _put(self, piece: bytes) -> bool:
        """One frame of output; False when it is lost."""
        if self._room < f.MAX_FRAME:
            self._no_room()
            return False
        now = self._milliseconds()
        frame = f.frame(f.OUTPUT, now, self._position, piece)
        if self._gap and self._size is not None:
            # What comes after a gap is shown in the terminal as it is now. Both in one write: a size alone would find
            # room where they do not, and make many gaps of one.
            frame = f.resize(now, self._position, *self._size) + frame
        self._room -= len(frame)
        sent = self._send(frame)
        self._gap = self._gap and not sent
        return sent

    def _send(self, frame: bytes) -> bool:
        if self._descriptor < 0 or self._finishing:
            return False
        if not self._waiting and self._write(frame):
            return True
        if not self._strict or self._descriptor < 0:
            return False
        if not self._waiting:
            self._loop.add_writer(self._descriptor, self._flush)
            self._timer = self._loop.call_later(STALL_LIMIT, self._stalled)
        self._waiting.append(frame)
        return True

    def _write(self, frame: bytes) -> bool:
        try:
            # At most PIPE_BUF bytes: all of it, or nothing (pipe(7)).
            os.write(self._descriptor, frame)
        except BlockingIOError:
            return False
        except OSError:
            # Whoever held the other end has let go: auth will not have it.
            self._let_go()
            return False
        return True

    def _flush(self) -> None:
        moved = 0
        while self._waiting and self._write(self._waiting[0]):
            self._waiting.popleft()
            moved += 1
        if self._descriptor < 0:
            return
        if not self._waiting:
            self._loop.remove_writer(self._descriptor)
            self._stop_timer()
            if self._finishing:
                self._end()
            else:
                self.resumed()
        elif moved and self._strict and not self._finishing:
            self._stop_timer()
            self._timer = self._loop.call_later(STALL_LIMIT, self._stalled)

    # ------------------------------------------------------------------ ends

    def _stalled(self) -> None:
        self._fail(STALLED)

    def _no_room(self) -> None:
        if not self._full:
            self._full = True
            self.mark("the recording has reached the largest size that is allowed")
            self._fail(FULL)

    def _let_go(self) -> None:
        self._lost += sum(len(frame) - f.HEADER for frame in self._waiting)
        self._close()
        self._fail(REFUSED)
        if self._finishing:
            self._end()

    def _fail(self, why: str) -> None:
        """A session that must be recorded is about to end; what it still shows is recorded if there is room."""
        if self._strict:
            self._strict = False
            self._stop_timer()
            self._failed(why)
            self.resumed()

    def _end(self) -> None:
        self._close()
        over, self._over = self._over, None
        if over is not None:
            over(self._lost)

    def _close(self) -> None:
        self._stop_timer()
        if self._descriptor >= 0:
            self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        self._waiting.clear()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _nothing() -> None:
    return
