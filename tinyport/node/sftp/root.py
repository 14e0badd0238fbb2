"""A root of its own for an sftp session, as sshd's ChrootDirectory: checked on the way down, entered for good."""

from __future__ import annotations

import errno
import os
import stat


class UnsafeRoot(Exception):
    """The folder cannot confine anybody; the text says why, for the log."""


def enter(path: str) -> None:
    """chroot(2) to an absolute path and stand in it. UnsafeRoot when it is not safe. Needs root."""
    here = open_safely(path)
    try:
        os.fchdir(here)
        os.chroot(".")
        # The folder itself is the root now; where we stand is said anew from it.
        os.chdir("/")
    finally:
        os.close(here)


def open_safely(path: str) -> int:
    """A descriptor of the folder. UnsafeRoot unless every folder on the way belongs to root and only root can write it
    (sshd_config(5), ChrootDirectory).

    Each part is opened from the one before and none may be a link, so what was checked is what is opened. A link in
    somebody's folder could lead anywhere.
    """
    here = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check(here, "/")
        shown = ""
        for part in _parts(path):
            shown += f"/{part}"
            below = _below(here, part, shown)
            os.close(here)
            here = below
            _check(here, shown)
    except BaseException:
        os.close(here)
        raise
    return here


def _below(here: int, part: str, shown: str) -> int:
    try:
        return os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    except OSError as error:
        # NOFOLLOW on a link: ENOTDIR together with DIRECTORY, ELOOP without.
        link = error.errno in (errno.ENOTDIR, errno.ELOOP)
        raise UnsafeRoot(f"{shown}: {'is a link, or no folder' if link else os.strerror(error.errno or 0)}") from None


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    if parts[0] or "\0" in path:
        raise UnsafeRoot(f"{path!r} is not an absolute path")
    named = [part for part in parts if part]
    if not named or "." in named or ".." in named:
        raise UnsafeRoot(f"{path!r} must name a folder below /, without . and ..")
    return named


def _check(descriptor: int, shown: str) -> None:
    state = os.fstat(descriptor)
    if state.st_uid != 0:
        raise UnsafeRoot(f"{shown} must belong to root, it belongs to uid {state.st_uid}")
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafeRoot(f"{shown} must be writable by root alone, its mode is {stat.S_IMODE(state.st_mode):04o}")
