"""SFTP version 3 on the wire (draft-ietf-secsh-filexfer-02): packets, attributes, status codes. Light: no typing
at run time.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION = 3

# OpenSSH's sftp-server takes packets of 256 KiB (sftp-common.h); a write of 255 KiB and its header fit.
MAX_PACKET = 256 * 1024
MAX_DATA = MAX_PACKET - 1024

INIT, VERSION_ANSWER = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR = range(3, 13)
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = range(13, 21)
STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105
EXTENDED, EXTENDED_REPLY = 200, 201

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = range(6)
OP_UNSUPPORTED = 8

# limits.h: the kernel takes no path that is longer, with its NUL. Refused before it is split or resolved.
PATH_MAX = 4096

MESSAGES = {
    OK: b"Success",
    EOF: b"End of file",
    NO_SUCH_FILE: b"No such file",
    PERMISSION_DENIED: b"Permission denied",
    FAILURE: b"Failure",
    BAD_MESSAGE: b"Bad message",
    OP_UNSUPPORTED: b"Operation unsupported",
}

# pflags of SSH_FXP_OPEN
FLAG_READ, FLAG_WRITE, FLAG_APPEND, FLAG_CREATE, FLAG_TRUNCATE, FLAG_EXCLUSIVE = 1, 2, 4, 8, 16, 32

ATTR_SIZE, ATTR_OWNER, ATTR_PERMISSIONS, ATTR_TIMES, ATTR_EXTENDED = 1, 2, 4, 8, 0x80000000

_ERRNO_STATUS = {
    errno.ENOENT: NO_SUCH_FILE,
    errno.ENOTDIR: NO_SUCH_FILE,
    errno.EBADF: NO_SUCH_FILE,
    errno.ELOOP: NO_SUCH_FILE,
    errno.EPERM: PERMISSION_DENIED,
    errno.EACCES: PERMISSION_DENIED,
    errno.EFAULT: PERMISSION_DENIED,
    errno.ENAMETOOLONG: BAD_MESSAGE,
    errno.EINVAL: BAD_MESSAGE,
    errno.ENOSYS: OP_UNSUPPORTED,
    errno.EOPNOTSUPP: OP_UNSUPPORTED,
}


def status_of(error: OSError) -> int:
    """The status code that version 3 has for an error; FAILURE for most of them, so the text says which."""
    return _ERRNO_STATUS.get(error.errno or 0, FAILURE)


class Refused(Exception):
    """The request is answered with this status. ``text``: for people, the code's own where it is empty."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class BadPacket(Exception):
    """The client's packet is not what its type says."""


class Packet:
    """Takes values off the front of one packet's payload. BadPacket when there is none."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    def _take(self, count: int) -> memoryview:
        end = self._at + count
        if end > len(self._data):
            raise BadPacket
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def uint32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def uint64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def string(self) -> bytes:
        return bytes(self.view())

    def view(self) -> memoryview:
        """A string as it lies in the packet, good for as long as the packet is."""
        return self._take(self.uint32())

    def path(self) -> bytes:
        """A file name: bytes as they are, without NUL; empty means the folder that the session began in (draft
        section 6.2). OSError when it is longer than any path may be.
        """
        return self.text() or b"."

    def text(self) -> bytes:
        """As ``path``, and empty where it is."""
        name = self.view()
        if len(name) >= PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        text = bytes(name)
        if b"\0" in text:
            raise BadPacket
        return text

    def attributes(self) -> Attributes:
        flags = self.uint32()
        made = Attributes()
        if flags & ATTR_SIZE:
            made.size = self.uint64()
        if flags & ATTR_OWNER:
            made.owner = (self.uint32(), self.uint32())
        if flags & ATTR_PERMISSIONS:
            made.permissions = stat.S_IMODE(self.uint32())
        if flags & ATTR_TIMES:
            made.times = (self.uint32(), self.uint32())
        if flags & ATTR_EXTENDED:
            # Each takes eight bytes of the packet at least, so the packet bounds how often this goes round.
            for _ in range(self.uint32()):
                self.view()
                self.view()
        return made


class Attributes:
    """What a client wants set; None where it says nothing. Times are Unix seconds (access, modification)."""

    __slots__ = ("owner", "permissions", "size", "times")

    def __init__(self) -> None:
        self.size: int | None = None
        self.owner: tuple[int, int] | None = None
        self.permissions: int | None = None
        self.times: tuple[int, int] | None = None


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def attributes_of(state: os.stat_result) -> bytes:
    """ATTRS of a stat result. Times beyond 32 bits are cut to what the field holds."""
    return struct.pack(
        ">IQIIIII",
        ATTR_SIZE | ATTR_OWNER | ATTR_PERMISSIONS | ATTR_TIMES,
        state.st_size,
        state.st_uid & 0xFFFFFFFF,
        state.st_gid & 0xFFFFFFFF,
        state.st_mode,
        _seconds(state.st_atime),
        _seconds(state.st_mtime),
    )


def _seconds(value: float) -> int:
    return min(max(int(value), 0), 0xFFFFFFFF)


NO_ATTRIBUTES = b"\0\0\0\0"


def packet(kind: int, identifier: int, payload: bytes = b"") -> bytes:
    """A whole answer with its length."""
    return struct.pack(">IBI", 5 + len(payload), kind, identifier) + payload


def status(identifier: int, code: int, text: bytes = b"") -> bytes:
    """STATUS. ``text`` says more than the code does: clients show it, and FAILURE alone is no help to anybody."""
    return packet(STATUS, identifier, code.to_bytes(4, "big") + string(text or MESSAGES[code]) + string(b"en"))


def path_answer(identifier: int, path: bytes) -> bytes:
    """NAME with one path and no attributes, as realpath and readlink answer."""
    return names(identifier, [(path, path, NO_ATTRIBUTES)])


def names(identifier: int, entries: Iterable[tuple[bytes, bytes, bytes]]) -> bytes:
    """NAME: (file name, long name, attributes) each."""
    listed = list(entries)
    body = b"".join(string(name) + string(long) + attributes for name, long, attributes in listed)
    return packet(NAME, identifier, len(listed).to_bytes(4, "big") + body)
