"""What SFTP version 3's requests do to files: one method per request, with the rights of the process, which is the
user.

There is no check of our own of who may read or write what: the kernel judges each operation for the user that this
process has become.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from tinyport.node.sftp import attributes as sftp_attributes
from tinyport.node.sftp import listing
from tinyport.node.sftp import paths as sftp_paths
from tinyport.node.sftp import wire as w
from tinyport.node.sftp.handles import Handle, Handles
from tinyport.node.sftp.owners import Owners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: a READ's answer before its data: length, type, identifier, length of the data
_DATA_HEAD = struct.Struct(">IBII")
# What link(2) says where there are no hard links (FAT, some FUSE), or where the kernel keeps people from linking
# to files of others (fs.protected_hardlinks) that they may well rename.
_NO_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK))
# With APPEND or EXCLUSIVE alone nothing changes, but nobody who only reads asks for them.
_CHANGING_FLAGS = ~w.FLAG_READ


class Operations:
    """The requests of one connection. Each method takes the request's identifier and packet and returns the answer.

    OSError, BadPacket and Refused are turned into status answers by ``answer``; nothing else leaves a method.
    """

    def __init__(self, *, read_only: bool = False, start: bytes = b"/", owners: Owners | None = None) -> None:
        """``start``: the folder that relative paths begin at, absolute."""
        self.read_only = read_only
        self.start = start
        self.owners = owners or Owners()
        self.handles = Handles()
        self._read_buffer = bytearray()
        self._processes = _device_of_processes()

    def open(self, identifier: int, packet: w.Packet) -> bytes:
        path, flags, wanted = packet.path(), packet.uint32(), packet.attributes()
        if self.read_only and flags & _CHANGING_FLAGS:
            raise w.Refused(w.PERMISSION_DENIED)
        writes = bool(flags & w.FLAG_WRITE)
        mode = {(True, True): os.O_RDWR, (False, True): os.O_WRONLY}.get(
            (bool(flags & w.FLAG_READ), writes), os.O_RDONLY
        )
        for flag, meaning in (
            (w.FLAG_CREATE, os.O_CREAT),
            (w.FLAG_TRUNCATE, os.O_TRUNC),
            (w.FLAG_EXCLUSIVE, os.O_EXCL),
            (w.FLAG_APPEND, os.O_APPEND),
        ):
            if flags & flag:
                mode |= meaning
        self.handles.check_room()
        # NONBLOCK: opening a FIFO without a writer must not hang the connection. It changes nothing for files.
        permissions = 0o666 if wanted.permissions is None else wanted.permissions
        descriptor = os.open(path, mode | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, permissions)
        if writes and self._processes is not None and os.fstat(descriptor).st_dev == self._processes:
            # /proc/self/mem: who may only move files must not write programs into this process. (Where it became the
            # user from root, the kernel forbids that already.)
            os.close(descriptor)
            raise w.Refused(w.PERMISSION_DENIED)
        handle = Handle(path, descriptor, append=bool(flags & w.FLAG_APPEND))
        return w.packet(w.HANDLE, identifier, w.string(self.handles.keep(handle)))

    def close(self, identifier: int, packet: w.Packet) -> bytes:
        self.handles.close(packet)
        return w.status(identifier, w.OK)

    def read(self, identifier: int, packet: w.Packet) -> memoryview:
        """The answer lies in a buffer that the next READ uses again."""
        handle, offset, length = self.handles.file(packet), packet.uint64(), min(packet.uint32(), w.MAX_DATA)
        head = _DATA_HEAD.size
        if len(self._read_buffer) < head + length:
            self._read_buffer = bytearray(head + length)
        view = memoryview(self._read_buffer)
        count = os.preadv(handle.descriptor, [view[head : head + length]], offset)
        if not count and length:
            raise w.Refused(w.EOF)
        _DATA_HEAD.pack_into(view, 0, head - 4 + count, w.DATA, identifier, count)
        return view[: head + count]

    def write(self, identifier: int, packet: w.Packet) -> bytes:
        handle, offset, view = self.handles.file(packet), packet.uint64(), packet.view()
        while view:
            # A file opened for appending takes data at its end, whatever the offset (as OpenSSH does).
            count = os.write(handle.descriptor, view) if handle.append else os.pwrite(handle.descriptor, view, offset)
            view, offset = view[count:], offset + count
        return w.status(identifier, w.OK)

    # ------------------------------------------------------------------ attributes

    def stat(self, identifier: int, packet: w.Packet) -> bytes:
        return w.packet(w.ATTRS, identifier, w.attributes_of(os.stat(packet.path())))

    def lstat(self, identifier: int, packet: w.Packet) -> bytes:
        return w.packet(w.ATTRS, identifier, w.attributes_of(os.lstat(packet.path())))

    def fstat(self, identifier: int, packet: w.Packet) -> bytes:
        handle = self.handles.any(packet)
        state = os.fstat(handle.descriptor) if handle.descriptor >= 0 else os.stat(handle.path)
        return w.packet(w.ATTRS, identifier, w.attributes_of(state))

    def setstat(self, identifier: int, packet: w.Packet) -> bytes:
        sftp_attributes.apply(packet.path(), packet.attributes())
        return w.status(identifier, w.OK)

    def fsetstat(self, identifier: int, packet: w.Packet) -> bytes:
        handle, wanted = self.handles.any(packet), packet.attributes()
        sftp_attributes.apply(handle.descriptor if handle.descriptor >= 0 else handle.path, wanted)
        return w.status(identifier, w.OK)

    # ------------------------------------------------------------------ folders and names

    def opendir(self, identifier: int, packet: w.Packet) -> bytes:
        path = packet.path()
        self.handles.check_room()
        return w.packet(w.HANDLE, identifier, w.string(self.handles.keep(listing.open_folder(path))))

    def readdir(self, identifier: int, packet: w.Packet) -> bytes:
        handle = self.handles.any(packet)
        if handle.entries is None:
            raise w.Refused(w.BAD_MESSAGE, "the handle is a file's")
        found = listing.next_names(handle, self.owners)
        if not found:
            raise w.Refused(w.EOF)
        return w.names(identifier, found)

    def remove(self, identifier: int, packet: w.Packet) -> bytes:
        os.unlink(packet.path())
        return w.status(identifier, w.OK)

    def mkdir(self, identifier: int, packet: w.Packet) -> bytes:
        path, wanted = packet.path(), packet.attributes()
        os.mkdir(path, 0o777 if wanted.permissions is None else wanted.permissions)
        return w.status(identifier, w.OK)

    def rmdir(self, identifier: int, packet: w.Packet) -> bytes:
        os.rmdir(packet.path())
        return w.status(identifier, w.OK)

    def realpath(self, identifier: int, packet: w.Packet) -> bytes:
        return w.path_answer(identifier, sftp_paths.resolve(packet.path()))

    def rename(self, identifier: int, packet: w.Packet) -> bytes:
        """Version 3's rename replaces nothing (draft section 6.5)."""
        rename_to_new(packet.path(), packet.path())
        return w.status(identifier, w.OK)

    def readlink(self, identifier: int, packet: w.Packet) -> bytes:
        return w.path_answer(identifier, os.readlink(packet.path()))

    def symlink(self, identifier: int, packet: w.Packet) -> bytes:
        # PROTOCOL 4.1: OpenSSH sends the target first, against the draft, and everybody follows it.
        target, link = packet.text(), packet.path()
        os.symlink(target, link)
        return w.status(identifier, w.OK)


def rename_to_new(old: bytes, new: bytes) -> None:
    """Rename, or FileExistsError when the new name is taken; no name is left behind when it fails half way."""
    if not stat.S_ISDIR(os.lstat(old).st_mode):
        try:
            # A hard link and an unlink: the kernel refuses a taken name, without a moment between look and deed.
            os.link(old, new, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        else:
            try:
                os.unlink(old)
            except OSError:
                os.unlink(new)
                raise
            return
    # There is no such call for folders, or here: look first, as OpenSSH does. The worst that somebody quick can lose
    # by a folder's rename is an empty folder of that name.
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.rename(old, new)


def _device_of_processes() -> int | None:
    """The device number of /proc; None for root, who may do everything anyway, and where there is no /proc."""
    if os.geteuid() == 0:
        return None
    try:
        return os.stat("/proc/self").st_dev
    except OSError:
        return None


if TYPE_CHECKING:
    Method = Callable[[Operations, int, w.Packet], "bytes | memoryview"]

#: request → (its name in sftp-server(8)'s -p and -P, method, does it change anything)
REQUESTS: dict[int, tuple[str, Method, bool]] = {
    w.OPEN: ("open", Operations.open, False),
    w.CLOSE: ("close", Operations.close, False),
    w.READ: ("read", Operations.read, False),
    w.WRITE: ("write", Operations.write, True),
    w.LSTAT: ("lstat", Operations.lstat, False),
    w.FSTAT: ("fstat", Operations.fstat, False),
    w.SETSTAT: ("setstat", Operations.setstat, True),
    w.FSETSTAT: ("fsetstat", Operations.fsetstat, True),
    w.OPENDIR: ("opendir", Operations.opendir, False),
    w.READDIR: ("readdir", Operations.readdir, False),
    w.REMOVE: ("remove", Operations.remove, True),
    w.MKDIR: ("mkdir", Operations.mkdir, True),
    w.RMDIR: ("rmdir", Operations.rmdir, True),
    w.REALPATH: ("realpath", Operations.realpath, False),
    w.STAT: ("stat", Operations.stat, False),
    w.RENAME: ("rename", Operations.rename, True),
    w.READLINK: ("readlink", Operations.readlink, False),
    w.SYMLINK: ("symlink", Operations.symlink, True),
}
