"""The files of recordings: ``recordings/<id>`` beside the database, 0600, frames as they came, only ever longer.

A file's length is how far its sender has come, so nothing else need be written down for each piece; what a crash left
half written is cut off when the file is next looked at. Everything here blocks: called in a thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from tinyport.core import recording_frames as f
from tinyport.core.errors import PeerError
from tinyport.host.files import private_folder, sync_folder

FOLDER = "recordings"
PIECE = 256 * 1024
# Recordings are what nodes send: they leave so much of the disk to the database and the audit log, or a twentieth of a
# small one.
RESERVE = 256 * 1024 * 1024


class RecordingFiles:
    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    def path(self, id: str) -> Path:
        # An id is 32 hexadecimal digits (``recordings.check_id``).
        return self._folder / id

    def append(self, id: str, size: int, data: bytes) -> None:
        """Put ``data`` behind the first ``size`` bytes, on the disk. OSError: nothing of it was stored."""
        if size == 0:
            private_folder(self._folder)
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT | os.O_TRUNC if size == 0 else 0)
        descriptor = os.open(self.path(id), flags, 0o600)
        try:
            try:
                _check_room(descriptor, len(data))
                _write(descriptor, size, data)
                os.fdatasync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if size == 0:
            sync_folder(self._folder)

    def progress(self, id: str) -> tuple[int, f.Progress]:
        """(length, what is in it), after cutting off what is half a frame. OSError when there is no such file."""
        progress, length = f.Progress(), 0
        try:
            for piece in self.pieces(id):
                for one in f.frames(piece):
                    progress.follow(one)
                    length += f.HEADER + len(one[3])
        except PeerError:
            # A bad block: what comes after it cannot be told apart.
            pass
        descriptor = os.open(self.path(id), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_size > length:
                os.ftruncate(descriptor, length)
        finally:
            os.close(descriptor)
        return length, progress

    def look(self, id: str) -> tuple[dict[str, object], int, f.Progress]:
        """(its head, length, what is in it). OSError when there is no such file, PeerError when it is no recording."""
        for piece in self.pieces(id):
            for one in f.frames(piece):
                if one[0] != f.HEAD:
                    break
                return f.parse_head(one[3]), *self.progress(id)
        raise PeerError("there is no head in it")

    def size(self, id: str) -> int:
        """0 when it is not there."""
        try:
            return self.path(id).stat().st_size
        except OSError:
            return 0

    def pieces(self, id: str, start: int = 0) -> Iterator[bytes]:
        """The whole frames from ``start`` on, some at a time. OSError when there is no such file, PeerError when what
        is in it are no frames."""
        descriptor = os.open(self.path(id), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            while data := os.pread(descriptor, PIECE, start):
                length = f.whole(data)
                if not length:
                    return
                yield data[:length]
                start += length
        finally:
            os.close(descriptor)

    def remove(self, id: str) -> None:
        self.path(id).unlink(missing_ok=True)

    def strays(self) -> list[str]:
        """Names of files in the folder."""
        try:
            return os.listdir(self._folder)
        except FileNotFoundError:
            return []


def _check_room(descriptor: int, size: int) -> None:
    """OSError (ENOSPC) when what is left of the disk is for others."""
    disk = os.fstatvfs(descriptor)
    left, whole = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    if left - size < min(RESERVE, whole // 20):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write(descriptor: int, at: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, at)
        view, at = view[done:], at + done
