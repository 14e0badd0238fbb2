"""Standard input and output without blocking, whatever they are: terminal, pipe, socket or file.

O_NONBLOCK belongs to the open file and not to the descriptor: set on our copy, it would surprise the shell that
started us. So pipes and terminals are opened once more where the system allows it; else the flag is set and taken back
at the end, as ssh does.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from collections.abc import Callable

_READ = 64 * 1024
#: how much may wait for a slow reader of our output before the node is asked to stop sending, and to go on
HIGH_WATER, LOW_WATER = 1024 * 1024, 256 * 1024


class _Descriptor:
    """A descriptor that does not block. ``always_ready``: a regular file, which no selector takes."""

    def __init__(self, number: int, flags: int) -> None:
        self._original = number
        self._restore = False
        self._own = False
        self.number = number
        mode = os.fstat(number).st_mode
        self.always_ready = stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode)
        if self.always_ready:
            return
        if not stat.S_ISSOCK(mode):
            try:
                self.number = os.open(f"/proc/self/fd/{number}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
                self._own = True
                return
            except OSError:
                # No /proc, a pipe whose other end is gone, another user's terminal: the flag, then.
                self.number = number
        if os.get_blocking(number):
            os.set_blocking(number, False)
            self._restore = True

    def close(self) -> None:
        if self._own:
            self._own = False
            os.close(self.number)
        elif self._restore:
            self._restore = False
            os.set_blocking(self._original, True)


class Input:
    """Calls ``on_data`` with what is read from a descriptor, and ``on_end`` once when it ends or fails."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        number: int,
        on_data: Callable[[bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._source = _Descriptor(number, os.O_RDONLY)
        self._on_data = on_data
        self._on_end = on_end
        self._wanted = False
        self._ended = False
        self._watched = False

    def resume(self) -> None:
        """Begin to read, or go on."""
        if self._ended or self._wanted:
            return
        self._wanted = True
        if not self._source.always_ready:
            try:
                self._loop.add_reader(self._source.number, self._ready)
                self._watched = True
                return
            except PermissionError:
                # epoll refuses /dev/null and its kind; they never block either.
                self._source.always_ready = True
        self._loop.call_soon(self._ready)

    def pause(self) -> None:
        """Read no more for now."""
        self._wanted = False
        self._unwatch()

    def close(self) -> None:
        self._ended = True
        self._wanted = False
        self._unwatch()
        self._source.close()

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._source.number)

    def _ready(self) -> None:
        if not self._wanted or self._ended:
            return
        try:
            data = os.read(self._source.number, _READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # The terminal went away, or we are in the background of one: no more input either way.
            data = b""
        if not data:
            self._ended = True
            self._wanted = False
            self._unwatch()
            self._on_end()
            return
        self._on_data(data)
        if self._source.always_ready and self._wanted:
            self._loop.call_soon(self._ready)


class Output:
    """Writes to a descriptor as fast as it takes it, in order.

    ``on_full`` and ``on_room`` are called when much begins to wait, and when it was written; ``on_broken`` once, when
    nobody reads any more: what is written then is dropped.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        number: int,
        on_full: Callable[[], None],
        on_room: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._target = _Descriptor(number, os.O_WRONLY)
        self._on_full = on_full
        self._on_room = on_room
        self._on_broken = on_broken
        self._waiting: deque[memoryview] = deque()
        self._size = 0
        self._full = False
        self._drained = asyncio.Event()
        self._drained.set()
        self.broken = False

    def write(self, data: bytes) -> None:
        if self.broken:
            return
        view = memoryview(data)
        if not self._waiting:
            view = view[self._put(view) :]
            if not view or self.broken:
                return
            self._loop.add_writer(self._target.number, self._ready)
            self._drained.clear()
        self._waiting.append(view)
        self._size += len(view)
        if self._size > HIGH_WATER and not self._full:
            self._full = True
            self._on_full()

    async def drained(self) -> None:
        """Wait until all was written, or nobody reads any more."""
        await self._drained.wait()

    def close(self) -> None:
        """Give up what still waits."""
        self.broken = True
        if self._waiting:
            self._loop.remove_writer(self._target.number)
            self._waiting.clear()
        self._drained.set()
        self._target.close()

    def _put(self, view: memoryview) -> int:
        """→ how much was taken."""
        try:
            if not self._target.always_ready:
                return os.write(self._target.number, view)
            done = 0
            while done < len(view):
                done += os.write(self._target.number, view[done:])
            return done
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.broken = True
            self._loop.call_soon(self._on_broken)
            return 0

    def _ready(self) -> None:
        while self._waiting:
            view = self._waiting[0]
            done = self._put(view)
            if self.broken:
                self._waiting.clear()
                self._size = 0
                break
            self._size -= done
            if done < len(view):
                self._waiting[0] = view[done:]
                break
            self._waiting.popleft()
        if self._full and self._size <= LOW_WATER:
            self._full = False
            self._on_room()
        if not self._waiting:
            self._loop.remove_writer(self._target.number)
            self._drained.set()
