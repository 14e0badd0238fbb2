"""Audit events on their way to auth: a folder of small files, bounded, disposable. Light: link loads it.

Each file is one batch: a line for each event. The newest takes further events until it is sealed, which happens when
it is full or about to be sent. A batch's id is its file's name and stays the same however often it is sent, so that
auth stores it once. When the folder is full the oldest batch goes. When the disk is full or read-only, a little is kept
in memory. What is lost is counted (in a file of its own), and the count is an event, sent before all others.
"""

from __future__ import annotations

import json
import os

from tinyport.core.events import event as make_event
from tinyport.core.names import is_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BYTES = 1024 * 1024
MAX_BATCH_BYTES = 64 * 1024
# docs/protocol/api.md, POST /v1/events: at most 500 of them.
MAX_BATCH_EVENTS = 400
MAX_EVENT = 16 * 1024
MAX_IN_MEMORY = 64
# A keeper has at most 64 on their way (keeper_outbox), and there are few keepers.
MAX_RECENT = 256
_SUFFIX = ".events"
_LOSSES = "losses.json"


class Spool:
    """``folder``: a descriptor of the folder, which may lie where its owner could not go by name. ``clock`` gives Unix
    seconds for the events that tell of losses; ``new_id`` a fresh UUID.
    """

    def __init__(self, folder: int, clock: Callable[[], float], new_id: Callable[[], str]) -> None:
        self._folder = folder
        self._clock = clock
        self._new_id = new_id
        #: file name → (bytes, events), oldest first
        self._batches: dict[str, list[int]] = {}
        self._open: str | None = None
        self._memory: list[bytes] = []
        self._memory_id = ""
        #: [events, bytes] lost and not yet told
        self._lost = [0, 0]
        #: the batch that tells of losses: (id, events, bytes), while it is on its way
        self._telling: tuple[str, int, int] | None = None
        #: uids of events that our predecessor left: it may have ended before the keeper knew that they are here
        self._known: set[str] = set()
        #: of the newest ones, oldest first: a keeper that ended before it knew has left them in its file, too
        self._recent: dict[str, None] = {}
        self._load()

    def _load(self) -> None:
        for name in sorted(os.listdir(self._folder)):
            if name == _LOSSES:
                self._lost = _counts(self._read_or_nothing(name))
                continue
            try:
                size = os.stat(name, dir_fd=self._folder, follow_symlinks=False).st_size
                if _is_batch(name) and 0 < size <= 2 * MAX_BATCH_BYTES:
                    data = self._read(name)
                    self._batches[name] = [size, data.count(b"\n")]
                    self._known.update(str(event["uid"]) for event in _events(data) if "uid" in event)
                else:
                    os.unlink(name, dir_fd=self._folder)
            except OSError:
                continue
        self._make_room(0)

    def add(self, event: dict[str, object]) -> None:
        """Keep an event. Never raises for the disk's sake."""
        uid = event.get("uid")
        if isinstance(uid, str):
            if uid in self._known or uid in self._recent:
                return
            self._recent[uid] = None
            if len(self._recent) > MAX_RECENT:
                del self._recent[next(iter(self._recent))]
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_EVENT:
            self._lose(1, len(line))
            return
        if self._open is not None:
            size, count = self._batches[self._open]
            if size + len(line) > MAX_BATCH_BYTES or count >= MAX_BATCH_EVENTS:
                self._open = None
        self._make_room(len(line))
        try:
            self._append(line)
        except OSError:
            # Full or read-only. People must still get in; what they do is kept in memory as far as that goes.
            self._open = None
            if len(self._memory) < MAX_IN_MEMORY:
                self._memory.append(line)
            else:
                self._lose(1, len(line))

    def _append(self, line: bytes) -> None:
        name = self._open
        if name is None:
            # Sorts by age as long as the clock goes forward; where it does not, order is auth's by the events' times.
            name = f"{int(self._clock()):012d}-{self._new_id()}{_SUFFIX}"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(name, flags, 0o600, dir_fd=self._folder)
        try:
            done = os.write(descriptor, line)
            if done != len(line):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - done)
                raise OSError("the disk is full")
        finally:
            os.close(descriptor)
        entry = self._batches.setdefault(name, [0, 0])
        entry[0] += len(line)
        entry[1] += 1
        self._open = name

    def _make_room(self, wanted: int) -> None:
        while self._batches and sum(size for size, _ in self._batches.values()) + wanted > MAX_BYTES:
            oldest = next(iter(self._batches))
            size, count = self._batches[oldest]
            self._lose(count, size)
            self.forget(oldest)

    def _lose(self, events: int, size: int) -> None:
        self._lost = [self._lost[0] + events, self._lost[1] + size]
        self._save_losses()

    def _save_losses(self) -> None:
        try:
            if self._lost == [0, 0]:
                os.unlink(_LOSSES, dir_fd=self._folder)
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(_LOSSES, flags, 0o600, dir_fd=self._folder)
            try:
                os.write(descriptor, json.dumps(self._lost).encode())
            finally:
                os.close(descriptor)
        except OSError:
            # Then it is known here alone, and told if we live.
            return

    # ------------------------------------------------------------------ sending

    def next_batch(self) -> tuple[str, list[dict[str, object]]] | None:
        """(id, events) of the oldest batch, which is sealed by that; None when there is nothing to send."""
        if self._lost[0]:
            return self._losses()
        while self._batches:
            name = next(iter(self._batches))
            if name == self._open:
                self._open = None
            events = _events(self._read_or_nothing(name))
            if events:
                return name, events
            # Nothing in it can be read, a crash in the middle of a write or a bad card.
            self.forget(name)
        if not self._memory:
            return None
        # The same id for as long as these are the same events; new ones only join after they were sent.
        if not self._memory_id:
            self._memory_id = f"{len(self._memory)}-{self._new_id()}"
        count = int(self._memory_id.partition("-")[0])
        return self._memory_id, _events(b"".join(self._memory[:count]))

    def _losses(self) -> tuple[str, list[dict[str, object]]]:
        if self._telling is None:
            self._telling = f"lost-{self._new_id()}", self._lost[0], self._lost[1]
        batch, events, size = self._telling
        return batch, [
            make_event("events.lost", time=self._clock(), count=events, bytes=size, reason="the spool was full")
        ]

    def forget(self, batch: str) -> None:
        """A batch was accepted (or cannot be)."""
        if self._telling is not None and batch == self._telling[0]:
            # More may have been lost meanwhile.
            self._lost = [self._lost[0] - self._telling[1], self._lost[1] - self._telling[2]]
            self._telling = None
            self._save_losses()
            return
        if batch == self._memory_id:
            del self._memory[: int(batch.partition("-")[0])]
            self._memory_id = ""
            return
        self._batches.pop(batch, None)
        if batch == self._open:
            self._open = None
        try:
            os.unlink(batch, dir_fd=self._folder)
        except OSError:
            # Read-only by now: it will be sent again after a restart, and auth knows its id.
            return

    def _read_or_nothing(self, name: str) -> bytes:
        try:
            return self._read(name)
        except OSError:
            return b""

    def _read(self, name: str) -> bytes:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._folder)
        try:
            data = b""
            while len(data) <= 2 * MAX_BATCH_BYTES:
                piece = os.read(descriptor, 65536)
                if not piece:
                    break
                data += piece
            return data
        finally:
            os.close(descriptor)

    def __bool__(self) -> bool:
        return bool(self._batches or self._memory or self._lost[0])


def _is_batch(name: str) -> bool:
    stamp, dash, rest = name.partition("-")
    return bool(dash) and stamp.isdigit() and rest.endswith(_SUFFIX) and is_uuid(rest[: -len(_SUFFIX)])


def _counts(data: bytes) -> list[int]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return [0, 0]
    good = isinstance(found, list) and len(found) == 2 and all(type(count) is int and count >= 0 for count in found)
    return found if good else [0, 0]


def _events(data: bytes) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for line in data.split(b"\n"):
        try:
            event = json.loads(line) if line else None
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            found.append(event)
    return found
