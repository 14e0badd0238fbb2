"""Listing folders: a few names at a time, however many there are."""

from __future__ import annotations

import os
import stat
import time

from tinyport.node.sftp import wire as w
from tinyport.node.sftp.handles import Handle
from tinyport.node.sftp.owners import GROUP, USER, Owners

#: How many names one READDIR answer holds (OpenSSH's number), and at how many bytes it is full.
NAMES_AT_ONCE = 100
_NAMES_BYTES = 64 * 1024
# ls(1): a time within the last half year is shown with its hour, any other with its year.
_RECENT = 365 * 86400 // 2


def open_folder(path: bytes) -> Handle:
    """A handle that reads the folder as it is asked for it. OSError when it cannot be read."""
    return Handle(path, entries=os.scandir(path))


def next_names(handle: Handle, owners: Owners) -> list[tuple[bytes, bytes, bytes]]:
    """The next entries as (name, line of ``ls -l``, attributes); none at the end.

    What went away between being listed and being looked at is left out, as OpenSSH does.
    """
    found: list[tuple[bytes, bytes, bytes]] = []
    size = 0
    now = time.time()
    if not handle.begun:
        handle.begun = True
        # scandir leaves these two out; clients know by them that a folder is one.
        for name in (b".", b".."):
            _add(found, handle.path, name, owners, now)
    for entry in handle.entries:
        size += _add(found, handle.path, entry.name, owners, now)
        if len(found) >= NAMES_AT_ONCE or size > _NAMES_BYTES:
            break
    return found


def _add(found: list[tuple[bytes, bytes, bytes]], folder: bytes, name: bytes, owners: Owners, now: float) -> int:
    try:
        state = os.lstat(os.path.join(folder, name))
    except OSError:
        return 0
    line = long_name(name, state, owners, now)
    found.append((name, line, w.attributes_of(state)))
    return len(name) + len(line)


def long_name(name: bytes, state: os.stat_result, owners: Owners, now: float) -> bytes:
    """The line of ``ls -l``; clients show it and must not parse it (draft section 7). Some do."""
    recent = now - _RECENT < state.st_mtime <= now
    try:
        when = time.strftime("%b %e %H:%M" if recent else "%b %e  %Y", time.localtime(state.st_mtime))
    except (OverflowError, ValueError, OSError):
        # A file system may hold years that a calendar does not.
        when = ""
    return b"%s %3d %s %s %8d %s %s" % (
        stat.filemode(state.st_mode).encode(),
        state.st_nlink,
        owners.shown(USER, state.st_uid).ljust(8),
        owners.shown(GROUP, state.st_gid).ljust(8),
        state.st_size,
        when.encode(),
        name,
    )
