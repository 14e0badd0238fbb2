"""What SFTP requests do to files: one method per request, each with the rights of the process, which is the user.

There is no check of our own anywhere: the kernel judges each operation for the user that this process has become.
"""

from __future__ import annotations

import os
import stat
import time

from tinyport.node import sftp_wire as w

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

#: Open files and folders at once. OpenSSH has no number and runs into the limit of descriptors.
MAX_HANDLES = 256
#: How many names one READDIR answer holds, and at most how many bytes of them.
NAMES_AT_ONCE = 100
_NAMES_BYTES = 64 * 1024
#: copy-data moves this much at a time.
_COPY = 1024 * 1024


class Handle:
    """An open file or folder."""

    __slots__ = ("append", "descriptor", "entries", "path")

    def __init__(self, path: bytes, descriptor: int = -1, append: bool = False) -> None:
        self.path = path
        self.descriptor = descriptor
        self.append = append
        self.entries: Iterator[bytes] | None = None


class Operations:
    """The requests of one connection. Each method takes the request's identifier and packet and returns the
    answer's bytes.

    OSError and BadPacket are turned into status answers by ``answer``; nothing else leaves a method.
    """

    def __init__(self, *, read_only: bool) -> None:
        self._read_only = read_only
        self._handles: dict[bytes, Handle] = {}
        self._next = 0
        self._owners: dict[tuple[str, int], bytes] = {}

    def answer(self, kind: int, identifier: int, packet: w.Packet) -> bytes:
        """Carry out one request."""
        try:
            if kind == w.EXTENDED:
                name = packet.string()
                method, writes = EXTENSIONS.get(name, (None, False))
            else:
                method, writes = REQUESTS.get(kind, (None, False))
            if method is None:
                return w.status(identifier, w.OP_UNSUPPORTED)
            if writes and self._read_only:
                return w.status(identifier, w.PERMISSION_DENIED)
            return method(self, identifier, packet)
        except w.BadPacket:
            return w.status(identifier, w.BAD_MESSAGE)
        except OSError as error:
            return w.status(identifier, w.status_of(error))
        except (OverflowError, ValueError):
            # Numbers that no system call takes, such as an offset beyond 2**63.
            return w.status(identifier, w.BAD_MESSAGE)

    def close_all(self) -> None:
        for handle in self._handles.values():
            if handle.descriptor >= 0:
                os.close(handle.descriptor)
        self._handles.clear()

    # ------------------------------------------------------------------ handles

    def _keep(self, identifier: int, handle: Handle) -> bytes:
        self._next = (self._next + 1) & 0xFFFFFFFF
        while (name := self._next.to_bytes(4, "big")) in self._handles:
            self._next = (self._next + 1) & 0xFFFFFFFF
        self._handles[name] = handle
        return w.packet(w.HANDLE, identifier, w.string(name))

    def _room(self) -> None:
        if len(self._handles) >= MAX_HANDLES:
            raise OSError(0, "too many handles")

    def _handle(self, packet: w.Packet) -> Handle:
        handle = self._handles.get(packet.string())
        if handle is None:
            raise w.BadPacket
        return handle

    def _file(self, packet: w.Packet) -> Handle:
        handle = self._handle(packet)
        if handle.descriptor < 0:
            raise w.BadPacket
        return handle

    def open(self, identifier: int, packet: w.Packet) -> bytes:
        path, flags, wanted = packet.path(), packet.uint32(), packet.attributes()
        writes = bool(flags & w.FLAG_WRITE)
        if self._read_only and flags & ~w.FLAG_READ:
            return w.status(identifier, w.PERMISSION_DENIED)
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
        self._room()
        # NONBLOCK: opening a FIFO without a writer must not hang the connection. It changes nothing for files.
        permissions = 0o666 if wanted.permissions is None else wanted.permissions
        descriptor = os.open(path, mode | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, permissions)
        return self._keep(identifier, Handle(path, descriptor, bool(flags & w.FLAG_APPEND)))

    def close(self, identifier: int, packet: w.Packet) -> bytes:
        name = packet.string()
        handle = self._handles.pop(name, None)
        if handle is None:
            raise w.BadPacket
        if handle.descriptor >= 0:
            os.close(handle.descriptor)
        return w.status(identifier, w.OK)

    def read(self, identifier: int, packet: w.Packet) -> bytes:
        handle, offset, length = self._file(packet), packet.uint64(), packet.uint32()
        data = os.pread(handle.descriptor, min(length, w.MAX_DATA), offset)
        if not data and length:
            return w.status(identifier, w.EOF)
        return w.packet(w.DATA, identifier, w.string(data))

    def write(self, identifier: int, packet: w.Packet) -> bytes:
        handle, offset, data = self._file(packet), packet.uint64(), packet.string()
        view = memoryview(data)
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
        handle = self._handle(packet)
        state = os.fstat(handle.descriptor) if handle.descriptor >= 0 else os.stat(handle.path)
        return w.packet(w.ATTRS, identifier, w.attributes_of(state))

    def setstat(self, identifier: int, packet: w.Packet) -> bytes:
        _apply(packet.path(), packet.attributes(), follow=True)
        return w.status(identifier, w.OK)

    def lsetstat(self, identifier: int, packet: w.Packet) -> bytes:
        # PROTOCOL 4.7 of OpenSSH: as setstat, on the link itself; a size makes no sense there.
        path, wanted = packet.path(), packet.attributes()
        wanted.size = None
        _apply(path, wanted, follow=False)
        return w.status(identifier, w.OK)

    def fsetstat(self, identifier: int, packet: w.Packet) -> bytes:
        handle, wanted = self._handle(packet), packet.attributes()
        _apply(handle.descriptor if handle.descriptor >= 0 else handle.path, wanted, follow=True)
        return w.status(identifier, w.OK)

    # ------------------------------------------------------------------ folders and names

    def opendir(self, identifier: int, packet: w.Packet) -> bytes:
        path = packet.path()
        self._room()
        handle = Handle(path)
        handle.entries = iter([b".", b"..", *sorted(os.listdir(path))])
        return self._keep(identifier, handle)

    def readdir(self, identifier: int, packet: w.Packet) -> bytes:
        handle = self._handle(packet)
        if handle.entries is None:
            raise w.BadPacket
        found: list[tuple[bytes, bytes, bytes]] = []
        size = 0
        for name in handle.entries:
            entry = self._entry(handle.path, name)
            found.append(entry)
            size += sum(len(part) for part in entry)
            if len(found) == NAMES_AT_ONCE or size > _NAMES_BYTES:
                break
        return w.names(identifier, found) if found else w.status(identifier, w.EOF)

    def _entry(self, folder: bytes, name: bytes) -> tuple[bytes, bytes, bytes]:
        try:
            state = os.lstat(os.path.join(folder, name))
        except OSError:
            # Gone since the listing, or not for us to see: the name is still the truth.
            return name, name, w.NO_ATTRIBUTES
        return name, self._long_name(name, state), w.attributes_of(state)

    def _long_name(self, name: bytes, state: os.stat_result) -> bytes:
        """The line of ``ls -l``; clients show it and must not parse it (draft section 7)."""
        recent = abs(time.time() - state.st_mtime) < 182 * 86400
        when = time.strftime("%b %e %H:%M" if recent else "%b %e  %Y", time.localtime(state.st_mtime))
        owner, group = self._owner("u", state.st_uid), self._owner("g", state.st_gid)
        head = f"{stat.filemode(state.st_mode)} {state.st_nlink:>4} ".encode()
        return head + owner.ljust(8) + b" " + group.ljust(8) + f" {state.st_size:>8} {when} ".encode() + name

    def _owner(self, kind: str, number: int) -> bytes:
        key = (kind, number)
        found = self._owners.get(key)
        if found is None:
            found = self._owners[key] = _name_of(kind, number)
        return found

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
        path = os.path.realpath(packet.path())
        return w.names(identifier, [(path, path, w.NO_ATTRIBUTES)])

    def expand_path(self, identifier: int, packet: w.Packet) -> bytes:
        # PROTOCOL 4.10: as realpath, with ~ and ~user understood.
        path = packet.path()
        if path.startswith(b"~"):
            path = os.path.expanduser(path)
            if path.startswith(b"~"):
                return w.status(identifier, w.NO_SUCH_FILE)
        resolved = os.path.realpath(path)
        return w.names(identifier, [(resolved, resolved, w.NO_ATTRIBUTES)])

    def rename(self, identifier: int, packet: w.Packet) -> bytes:
        """Version 3's rename must not replace anything: draft section 6.5."""
        old, new = packet.path(), packet.path()
        if not stat.S_ISDIR(os.lstat(old).st_mode):
            try:
                # A hard link and an unlink: atomic, and it fails when the new name is there.
                os.link(old, new, follow_symlinks=False)
                os.unlink(old)
                return w.status(identifier, w.OK)
            except FileExistsError:
                return w.status(identifier, w.FAILURE)
            except OSError as error:
                # File systems without hard links (FAT, some FUSE): look first, as OpenSSH does.
                if w.status_of(error) == w.NO_SUCH_FILE:
                    raise
        if os.path.lexists(new):
            return w.status(identifier, w.FAILURE)
        os.rename(old, new)
        return w.status(identifier, w.OK)

    def posix_rename(self, identifier: int, packet: w.Packet) -> bytes:
        os.replace(packet.path(), packet.path())
        return w.status(identifier, w.OK)

    def readlink(self, identifier: int, packet: w.Packet) -> bytes:
        target = os.readlink(packet.path())
        return w.names(identifier, [(target, target, w.NO_ATTRIBUTES)])

    def symlink(self, identifier: int, packet: w.Packet) -> bytes:
        # PROTOCOL 4.1: OpenSSH sends the target first, against the draft, and everybody follows it.
        target, link = packet.path(), packet.path()
        os.symlink(target, link)
        return w.status(identifier, w.OK)

    def hardlink(self, identifier: int, packet: w.Packet) -> bytes:
        os.link(packet.path(), packet.path(), follow_symlinks=False)
        return w.status(identifier, w.OK)

    # ------------------------------------------------------------------ OpenSSH's extensions (PROTOCOL section 4)

    def statvfs(self, identifier: int, packet: w.Packet) -> bytes:
        return _statvfs(identifier, os.statvfs(packet.path()))

    def fstatvfs(self, identifier: int, packet: w.Packet) -> bytes:
        return _statvfs(identifier, os.fstatvfs(self._file(packet).descriptor))

    def fsync(self, identifier: int, packet: w.Packet) -> bytes:
        os.fsync(self._file(packet).descriptor)
        return w.status(identifier, w.OK)

    def limits(self, identifier: int, packet: w.Packet) -> bytes:
        del packet
        numbers = (w.MAX_PACKET, w.MAX_DATA, w.MAX_DATA, MAX_HANDLES)
        return w.packet(w.EXTENDED_REPLY, identifier, b"".join(number.to_bytes(8, "big") for number in numbers))

    def copy_data(self, identifier: int, packet: w.Packet) -> bytes:
        source, source_at, length = self._file(packet), packet.uint64(), packet.uint64()
        target, target_at = self._file(packet), packet.uint64()
        if source.descriptor == target.descriptor:
            return w.status(identifier, w.FAILURE)
        left = length or None  # zero: to the end of the file
        while left is None or left > 0:
            data = os.pread(source.descriptor, _COPY if left is None else min(_COPY, left), source_at)
            if not data:
                # A length was asked for and is not there.
                return w.status(identifier, w.OK if left is None else w.FAILURE)
            view = memoryview(data)
            while view:
                count = os.pwrite(target.descriptor, view, target_at)
                view, target_at = view[count:], target_at + count
            source_at += len(data)
            left = None if left is None else left - len(data)
        return w.status(identifier, w.OK)

    def users_groups(self, identifier: int, packet: w.Packet) -> bytes:
        users, groups = packet.string(), packet.string()
        answer = b""
        for kind, numbers in (("u", users), ("g", groups)):
            found = [int.from_bytes(numbers[at : at + 4], "big") for at in range(0, min(len(numbers), 4096), 4)]
            listed = [self._owner(kind, number) for number in found]
            # PROTOCOL 4.11: a number without a name is an empty string.
            answer += w.string(b"".join(w.string(b"" if name.isdigit() else name) for name in listed))
        return w.packet(w.EXTENDED_REPLY, identifier, answer)


def _name_of(kind: str, number: int) -> bytes:
    # pwd and grp are asked when first needed: a transfer of one file never does.
    try:
        if kind == "u":
            import pwd

            return os.fsencode(pwd.getpwuid(number).pw_name)
        import grp

        return os.fsencode(grp.getgrgid(number).gr_name)
    except (KeyError, OverflowError):
        return str(number).encode()


def _apply(target: bytes | int, wanted: w.Attributes, *, follow: bool) -> None:
    if wanted.size is not None:
        os.truncate(target, wanted.size)
    if wanted.owner is not None:
        os.chown(target, *wanted.owner, **_following(follow))
    if wanted.permissions is not None:
        # Linux has no permissions of a link of its own: OpenSSH fails there, too.
        os.chmod(target, wanted.permissions, **_following(follow))
    if wanted.times is not None:
        os.utime(target, (float(wanted.times[0]), float(wanted.times[1])), **_following(follow))


def _following(follow: bool) -> dict[str, Any]:
    # With a descriptor the keyword itself is not allowed.
    return {} if follow else {"follow_symlinks": False}


def _statvfs(identifier: int, state: os.statvfs_result) -> bytes:
    # PROTOCOL 4.4: flag bit 0 read-only, bit 1 nosuid.
    flags = (state.f_flag & os.ST_RDONLY and 1) | (state.f_flag & os.ST_NOSUID and 2)
    numbers = (
        state.f_bsize,
        state.f_frsize,
        state.f_blocks,
        state.f_bfree,
        state.f_bavail,
        state.f_files,
        state.f_ffree,
        state.f_favail,
        getattr(state, "f_fsid", 0) & (2**64 - 1),
        flags,
        state.f_namemax,
    )
    return w.packet(w.EXTENDED_REPLY, identifier, b"".join(number.to_bytes(8, "big") for number in numbers))


if TYPE_CHECKING:
    Method = Callable[[Operations, int, w.Packet], bytes]

#: request → (method, does it change anything)
REQUESTS: dict[int, tuple[Method, bool]] = {
    w.OPEN: (Operations.open, False),
    w.CLOSE: (Operations.close, False),
    w.READ: (Operations.read, False),
    w.WRITE: (Operations.write, True),
    w.LSTAT: (Operations.lstat, False),
    w.FSTAT: (Operations.fstat, False),
    w.SETSTAT: (Operations.setstat, True),
    w.FSETSTAT: (Operations.fsetstat, True),
    w.OPENDIR: (Operations.opendir, False),
    w.READDIR: (Operations.readdir, False),
    w.REMOVE: (Operations.remove, True),
    w.MKDIR: (Operations.mkdir, True),
    w.RMDIR: (Operations.rmdir, True),
    w.REALPATH: (Operations.realpath, False),
    w.STAT: (Operations.stat, False),
    w.RENAME: (Operations.rename, True),
    w.READLINK: (Operations.readlink, False),
    w.SYMLINK: (Operations.symlink, True),
}

#: extension → (method, does it change anything)
EXTENSIONS: dict[bytes, tuple[Method, bool]] = {
    b"posix-rename@openssh.com": (Operations.posix_rename, True),
    b"statvfs@openssh.com": (Operations.statvfs, False),
    b"fstatvfs@openssh.com": (Operations.fstatvfs, False),
    b"hardlink@openssh.com": (Operations.hardlink, True),
    b"fsync@openssh.com": (Operations.fsync, True),
    b"lsetstat@openssh.com": (Operations.lsetstat, True),
    b"limits@openssh.com": (Operations.limits, False),
    b"expand-path@openssh.com": (Operations.expand_path, False),
    b"copy-data": (Operations.copy_data, True),
    b"users-groups-by-id@openssh.com": (Operations.users_groups, False),
}

#: the version each is announced with (statvfs and fstatvfs are at 2: PROTOCOL 4.4)
ANNOUNCED = {name: b"2" if b"statvfs" in name else b"1" for name in EXTENSIONS}
