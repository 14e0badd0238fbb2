"""OpenSSH's extensions to SFTP (its PROTOCOL file, section 4), each a function like the methods of Operations."""

from __future__ import annotations

import errno
import os

from tinyport.node.sftp import attributes, paths
from tinyport.node.sftp import wire as w
from tinyport.node.sftp.handles import MAX_HANDLES, Handle
from tinyport.node.sftp.operations import Operations
from tinyport.node.sftp.owners import GROUP, USER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyport.node.sftp.operations import Method

# copy-data moves this much at a time: through the kernel alone, or through memory where it cannot do that.
_COPY_KERNEL = 8 * 1024 * 1024
_COPY_MEMORY = 128 * 1024
_COPY_NOT_HERE = frozenset((errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.ETXTBSY))
#: Numbers in one users-groups-by-id. OpenSSH's client asks for those of one folder, each once.
MAX_NUMBERS = 4096


def posix_rename(operations: Operations, identifier: int, packet: w.Packet) -> bytes:
    del operations
    os.rename(packet.path(), packet.path())
    return w.status(identifier, w.OK)


def statvfs(operations: Operations, identifier: int, packet: w.Packet) -> bytes:
    del operations
    return _statvfs(identifier, os.statvfs(packet.path()))


def fstatvfs(operations: Operations, identifier: int, packet: w.Packet) -> bytes:
    return _statvfs(identifier, os.fstatvfs(operations.handles.file(packet).descriptor))


def _statvfs(identifier: int, state: os.statvfs_result) -> bytes:
    # PROTOCOL 4.4: flag bit 0 read-only, bit 1 nosuid.
    flags = (1 if state.f_flag & os.ST_RDONLY else 0) | (2 if state.f_flag & os.ST_NOSUID else 0)
    numbers = (
        state.f_bsize,
        state.f_frsize,
        state.f_blocks,
        state.f_bfree,
        state.f_bavail,
        state.f_files,
        state.f_ffree,
        state.f_favail,
        state.f_fsid & (2**64 - 1),
        flags,
        state.f_namemax,
    )
    return w.packet(w.EXTENDED_REPLY, identifier, b"".join(number.to_bytes(8, "big") for number in numbers))


def hardlink(operations: Operations, identifier: int, packet: w.Packet) -> bytes:
    del operations
    os.link(packet.path(), packet.path(), follow_symlinks=False)
    return w.status(identifier, w.OK)


def fsync(operations: Operations, identifier: int, packet: w.Packet) -> bytes:
    os.fsync(operations.handles.file(packet).descriptor)
    return w.status(identifier, w.OK)


def lsetstat(operations: Operations, identifier: int, packet: w.Packet) -> bytes:
    del operations
    attributes.apply_to_link(packet.path(), packet.attributes())
    return w.status(identifier, w.OK)


def limits(operations: Operations, identifier: int, packet: w.Packet) -> bytes:
    del operations, packet
    numbers = (w.MAX_PACKET, w.MAX_DATA, w.MAX_DATA, MAX_HANDLES)
    return w.packet(w.EXTENDED_REPLY, identifier, b"".join(number.to_bytes(8, "big") for number in numbers))


def expand_path(operations: Operations, identifier: int, packet: w.Packet) -> bytes:
    return w.path_answer(identifier, paths.expand(packet.text(), operations.start, operations.owners))


def copy_data(operations: Operations, identifier: int, packet: w.Packet) -> bytes:
    source, source_at, length = operations.handles.file(packet), packet.uint64(), packet.uint64()
    target, target_at = operations.handles.file(packet), packet.uint64()
    if os.path.samestat(os.fstat(source.descriptor), os.fstat(target.descriptor)):
        # PROTOCOL 4.10 forbids one handle twice. Two handles on one file could grow it for ever.
        raise w.Refused(w.FAILURE, "source and target are the same file")
    left = length or None  # zero: to the end of the file
    while left is None or left > 0:
        count = _copy(source, source_at, target, target_at, _COPY_KERNEL if left is None else min(_COPY_KERNEL, left))
        if count == 0:
            if left is None:
                break
            # A length was asked for and is not there.
            raise w.Refused(w.EOF)
        source_at, target_at = source_at + count, target_at + count
        left = None if left is None else left - count
    return w.status(identifier, w.OK)


def _copy(source: Handle, source_at: int, target: Handle, target_at: int, length: int) -> int:
    """Move at most ``length`` bytes; how many. Zero only at the end of the source."""
    if not target.append:
        try:
            # The kernel says zero for files that make their content up (/proc): reading them decides.
            if count := os.copy_file_range(source.descriptor, target.descriptor, length, source_at, target_at):
                return count
        except OSError as error:
            if error.errno not in _COPY_NOT_HERE:
                raise
    view = memoryview(os.pread(source.descriptor, min(length, _COPY_MEMORY), source_at))
    count = len(view)
    while view:
        written = os.write(target.descriptor, view) if target.append else os.pwrite(target.descriptor, view, target_at)
        view, target_at = view[written:], target_at + written
    return count


def home_directory(operations: Operations, identifier: int, packet: w.Packet) -> bytes:
    name = packet.text()
    home = operations.owners.home(name) if name else operations.start
    if home is None:
        raise w.Refused(w.FAILURE, "no such user")
    return w.path_answer(identifier, home)


def users_groups_by_id(operations: Operations, identifier: int, packet: w.Packet) -> bytes:
    users, groups = packet.view(), packet.view()
    if len(users) % 4 or len(groups) % 4 or len(users) + len(groups) > 4 * MAX_NUMBERS:
        raise w.Refused(w.BAD_MESSAGE, f"at most {MAX_NUMBERS} numbers at once")
    answer = b""
    room = w.MAX_DATA // 2
    for kind, numbers in ((USER, users), (GROUP, groups)):
        listed = []
        for at in range(0, len(numbers), 4):
            name = operations.owners.name(kind, int.from_bytes(numbers[at : at + 4], "big"))
            room -= len(name)
            # What has no name, or no room left in the answer, is an empty string.
            listed.append(w.string(name if room >= 0 else b""))
        answer += w.string(b"".join(listed))
    return w.packet(w.EXTENDED_REPLY, identifier, answer)


#: extension → (its name in sftp-server(8)'s -p and -P, announced version, function, does it change anything)
EXTENSIONS: dict[bytes, tuple[str, bytes, Method, bool]] = {
    b"posix-rename@openssh.com": ("posix-rename", b"1", posix_rename, True),
    b"statvfs@openssh.com": ("statvfs", b"2", statvfs, False),
    b"fstatvfs@openssh.com": ("fstatvfs", b"2", fstatvfs, False),
    b"hardlink@openssh.com": ("hardlink", b"1", hardlink, True),
    b"fsync@openssh.com": ("fsync", b"1", fsync, True),
    b"lsetstat@openssh.com": ("lsetstat", b"1", lsetstat, True),
    b"limits@openssh.com": ("limits", b"1", limits, False),
    b"expand-path@openssh.com": ("expand-path", b"1", expand_path, False),
    b"copy-data": ("copy-data", b"1", copy_data, True),
    b"home-directory": ("home-directory", b"1", home_directory, False),
    b"users-groups-by-id@openssh.com": ("users-groups-by-id", b"1", users_groups_by_id, False),
}
