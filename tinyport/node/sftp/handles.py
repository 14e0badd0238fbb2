"""The open files and folders of one sftp client."""

from __future__ import annotations

import os

from tinyport.node.sftp import wire as w

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Open files and folders at once. OpenSSH has no number and runs into the limit of descriptors.
MAX_HANDLES = 256


class Handle:
    """An open file (``descriptor`` is its) or folder (``entries`` is its scandir iterator, ``descriptor`` is -1)."""

    __slots__ = ("append", "begun", "descriptor", "entries", "path")

    def __init__(self, path: bytes, descriptor: int = -1, *, append: bool = False, entries: Any = None) -> None:
        self.path = path
        self.descriptor = descriptor
        self.append = append
        self.entries = entries
        #: "." and ".." were listed
        self.begun = False

    def close(self) -> None:
        """OSError when the kernel has kept a write's failure until now (NFS, quotas)."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        else:
            self.entries.close()


class Handles:
    """By the opaque names that the client knows them by, which are not used again soon."""

    def __init__(self) -> None:
        self._open: dict[bytes, Handle] = {}
        self._next = 0

    def check_room(self) -> None:
        if len(self._open) >= MAX_HANDLES:
            raise w.Refused(w.FAILURE, f"too many open files, {MAX_HANDLES} are allowed")

    def keep(self, handle: Handle) -> bytes:
        """The name of a new handle."""
        self._next = (self._next + 1) & 0xFFFFFFFF
        while (name := self._next.to_bytes(4, "big")) in self._open:
            self._next = (self._next + 1) & 0xFFFFFFFF
        self._open[name] = handle
        return name

    def any(self, packet: w.Packet) -> Handle:
        """The handle that the packet names next."""
        handle = self._open.get(packet.string())
        if handle is None:
            raise w.Refused(w.BAD_MESSAGE, "no such handle")
        return handle

    def file(self, packet: w.Packet) -> Handle:
        handle = self.any(packet)
        if handle.descriptor < 0:
            raise w.Refused(w.BAD_MESSAGE, "the handle is a folder's")
        return handle

    def close(self, packet: w.Packet) -> None:
        handle = self._open.pop(packet.string(), None)
        if handle is None:
            raise w.Refused(w.BAD_MESSAGE, "no such handle")
        handle.close()

    def close_all(self) -> None:
        for handle in self._open.values():
            try:
                handle.close()
            except OSError:
                # The client has left; there is nobody to tell.
                continue
        self._open.clear()
