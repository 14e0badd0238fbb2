"""Certificates that are good for one use, and were used: serials in a file that only grows.

Whoever takes the file away gives each of them one more use on this node; that needs root here, who needs none.
"""

from __future__ import annotations

import fcntl
import os

from tinyport.core.errors import AccessDenied

# 60,000 uses. Only what the cluster's CA signed for this node gets in.
MAX_FILE = 1024 * 1024


class UsedOnce:
    """``path``: the file; it need not be there yet. Several keepers may have one each, on the same file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def use(self, serial: int) -> None:
        """Note the use of a certificate, on the disk before this returns.

        AccessDenied: ``used`` when it was used before, ``unnoted`` when it cannot be noted, for then it could be used
        again.
        """
        try:
            before = os.path.exists(self._path)
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                # Freed with the descriptor. Another keeper holds it for milliseconds.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._note(descriptor, serial)
            finally:
                os.close(descriptor)
            if not before:
                _sync_folder(os.path.dirname(self._path))
        except OSError as error:
            raise AccessDenied(
                "this node cannot note that the certificate is used",
                detail=str(error),
                code="unnoted",
                hint="its disk is full, read-only or broken: it can be entered at its console only",
            ) from None

    def _note(self, descriptor: int, serial: int) -> None:
        held = os.pread(descriptor, MAX_FILE + 1, 0)
        if str(serial).encode() in held.split(b"\n"):
            raise AccessDenied("this break-glass certificate was used already", code="used")
        if len(held) > MAX_FILE:
            raise OSError("too many uses are noted")
        # A power cut may have left half a line.
        line = f"{serial}\n".encode() if not held or held.endswith(b"\n") else f"\n{serial}\n".encode()
        if os.write(descriptor, line) != len(line):
            raise OSError("the disk is full")
        os.fsync(descriptor)


def _sync_folder(path: str) -> None:
    descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
