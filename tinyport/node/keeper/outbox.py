"""Audit events from the moment they happen until link has them on the disk: none lost, none told twice.

Each event has a number on this line and a ``uid`` in the world. Link notes numbers, in order; what is not noted is sent
again to the next link. Without a line, while the daemon is restarted or is of a version that does not understand this
keeper, events are in a file, too, which the next monitor finds when this process is gone.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping

from tinyport.core.events import UID_SEPARATOR
from tinyport.core.events import event as make_event
from tinyport.host.logging_line import Log
from tinyport.node.generations import KEPT, MAX_KEPT, SUFFIX

# Not noted yet: link writes a file in under a millisecond.
WINDOW = 64
# A command that has just begun, and whoever waits for its end, have the processor first; events may come together.
SOON = 0.02
# Some hours of a busy node; and as JSON, for somebody may write long commands. What comes on top is counted.
MAX_HELD = 4096
MAX_HELD_BYTES = 4 * 1024 * 1024


class Outbox:
    """``send(message)`` says whether there is a line. ``folder``: descriptor of the node's folder; None keeps no file.

    ``name``: letters and digits that no other keeper has. ``later(seconds, call)``: a loop's timer.
    """

    def __init__(
        self,
        send: Callable[[Mapping[str, object]], bool],
        folder: int | None,
        name: str,
        later: Callable[[float, Callable[[], None]], object],
        log: Log,
    ) -> None:
        self._send = send
        self._folder = folder
        self._name = name
        self._later = later
        self._pumps = False
        self._log = log
        self._last = 0
        #: number → event, oldest first: what link has not noted
        self._held: dict[int, Mapping[str, object]] = {}
        self._sizes: dict[int, int] = {}
        self._size = 0
        self._sent = 0
        self._online = True
        self._file = -1
        self._file_size = 0
        self._unsaved = False
        self._lost = 0
        #: monotonic time of the newest event
        self.newest = 0.0

    def add(self, event: Mapping[str, object]) -> None:
        """Tell this, soon or when there is somebody to tell it to."""
        size = len(json.dumps(event))
        if len(self._held) >= MAX_HELD or self._size + size > MAX_HELD_BYTES:
            self._lost += 1
            return
        self._last += 1
        self.newest = time.monotonic()
        self._held[self._last] = {**event, "uid": f"{self._name}{UID_SEPARATOR}{self._last}"}
        self._sizes[self._last] = size
        self._size += size
        if not self._online:
            self._write([self._last])
        elif not self._pumps:
            self._pumps = True
            self._later(SOON, self._pump)

    def noted(self, number: object) -> None:
        """Link has the events up to this number."""
        if isinstance(number, bool) or not isinstance(number, int):
            return
        for held in [held for held in self._held if held <= number]:
            del self._held[held]
            self._size -= self._sizes.pop(held)
        if not self._held:
            self._drop_file()
            if self._lost:
                lost, self._lost = self._lost, 0
                self.add(make_event("events.lost", time=time.time(), count=lost, reason="the keeper had no line"))
        self._pump()

    def again(self) -> None:
        """A new link asks for everything that it may not have."""
        self._online = self._send({"op": "again", "keeper": self._name})
        self._sent = 0
        self._pump()

    def flush(self) -> None:
        """Say now what would be said soon."""
        self._pump()

    def offline(self) -> None:
        """There is no line any more, or we leave: what waits is the file, and what comes goes into it, too."""
        self._online = self._unsaved = False
        if self._file >= 0:
            # Of an earlier time without a line. Some of that may have been noted since.
            os.ftruncate(self._file, 0)
            self._file_size = 0
        self._write(list(self._held))

    def close(self) -> None:
        """We leave, and everything is noted."""
        self._drop_file()

    @property
    def empty(self) -> bool:
        return not self._held and not self._lost

    @property
    def saved(self) -> bool:
        """Is everything in the file?"""
        return self._file >= 0 and not self._unsaved

    def _pump(self) -> None:
        self._pumps = False
        if not self._online:
            return
        for number, event in list(itertools.islice(self._held.items(), WINDOW)):
            if number > self._sent:
                if not self._send({"op": "event", "n": number, "event": event}):
                    return
                self._sent = number

    # ------------------------------------------------------------------ the file

    def _write(self, numbers: list[int]) -> None:
        """Also of none: the file, which is locked, tells a monitor that we live."""
        if self._folder is None:
            return
        lines = b"".join(json.dumps(self._held[number], separators=(",", ":")).encode() + b"\n" for number in numbers)
        try:
            if self._file < 0:
                self._open()
            if self._file_size + len(lines) > MAX_KEPT:
                raise OSError("the file of kept events is full")
            if os.write(self._file, lines) != len(lines):
                os.ftruncate(self._file, self._file_size)
                raise OSError("the disk is full")
            self._file_size += len(lines)
        except OSError as error:
            # They are in memory and go out when there is a line; only our own end would lose them.
            self._unsaved = True
            self._log.warning("audit events could not be kept in a file", reason=error, count=len(numbers))

    def _open(self) -> None:
        folder = self._folder
        assert folder is not None
        try:
            os.mkdir(KEPT, 0o700, dir_fd=folder)
        except FileExistsError:
            pass
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(f"{KEPT}/{self._name}{SUFFIX}", flags, 0o600, dir_fd=folder)
        # Held for as long as we live: a file that can be locked is a dead keeper's.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._file, self._file_size = descriptor, 0

    def _drop_file(self) -> None:
        if self._file < 0:
            return
        try:
            os.ftruncate(self._file, 0)
            os.unlink(f"{KEPT}/{self._name}{SUFFIX}", dir_fd=self._folder)
        except OSError as error:
            # Whoever finds it tells them once more, and their uids say that they are the same.
            self._log.warning("a file of kept events could not be removed", reason=error)
        os.close(self._file)
        self._file = -1
