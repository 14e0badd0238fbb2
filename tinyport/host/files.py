"""Files that must be whole and private: written aside, synced, renamed."""

from __future__ import annotations

import os

from tinyport.core.errors import OperatorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    Name = str | Path


def _write(path: Name, data: bytes, mode: int) -> None:
    target = os.fspath(path)
    aside = f"{target}.{os.getpid()}.new"
    try:
        # O_EXCL: whoever could plant a link there must not choose what we overwrite.
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    except FileExistsError:
        # Left by a process of the same number that died in the middle.
        os.unlink(aside)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(descriptor, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        os.unlink(aside)
        raise
    os.close(descriptor)
    os.replace(aside, target)
    sync_folder(os.path.dirname(target) or ".")


def sync_folder(path: Name) -> None:
    """Make renames in a folder last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_private(path: Name, data: bytes) -> None:
    """Replace ``path`` by ``data`` at once and for good, readable by its owner alone (0600). OSError when it
    cannot be.
    """
    _write(path, data, 0o600)


def write_public(path: Name, data: bytes) -> None:
    """Replace ``path`` by ``data`` at once and for good, readable by all (0644). OSError when it cannot be."""
    _write(path, data, 0o644)


def erase(path: Name) -> bool:
    """Overwrite a file with zeros where it lies, and remove it. False when it was not there; OSError when it cannot be
    done. A card's own controller may keep the old blocks: what was in it should be short-lived besides.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.unlink(path)
    sync_folder(os.path.dirname(os.fspath(path)) or ".")
    return True


def private_folder(path: Name) -> None:
    """Make ``path`` a folder of 0700 that is ours; OperatorError when it belongs to somebody else or others can
    write.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    state = os.stat(path)
    if state.st_uid != os.geteuid():
        raise OperatorError(
            f"{os.fspath(path)} belongs to another user", hint="run as its owner, or choose another data_dir"
        )
    if state.st_mode & 0o077:
        os.chmod(path, 0o700)


def read_limited(path: Name, limit: int) -> bytes:
    """The whole of a file of at most ``limit`` bytes. OperatorError when it is larger, OSError when it cannot be
    read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        left = limit + 1
        while left > 0:
            piece = os.read(descriptor, min(left, 65536))
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(descriptor)
    if left <= 0:
        raise OperatorError(f"{os.fspath(path)} is larger than {limit} bytes")
    return b"".join(pieces)
