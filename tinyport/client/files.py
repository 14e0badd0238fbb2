"""Files of one machine, this one or a node, as copying sees them.

The node is not trusted with names: what it lists becomes a file name here only when it is one plain component, so that
it cannot write outside the folder that was asked for (as scp once allowed: CVE-2019-6111). Nothing here makes links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tinyport.core.errors import PeerError
from tinyport.core.names import printable

if TYPE_CHECKING:
    import asyncssh


@dataclass(frozen=True)
class Status:
    """What copying needs to know of a file. ``times``: access and modification, Unix seconds. A file that is neither
    ``folder`` nor ``regular`` is a pipe, a device and their kind.
    """

    folder: bool
    regular: bool
    size: int
    mode: int
    times: tuple[int, int]


class OpenFile(Protocol):
    """A file that is open for one of the two."""

    async def read(self, size: int, offset: int) -> bytes: ...

    async def write(self, data: bytes, offset: int) -> object: ...


class Side(Protocol):
    """Files of one machine. Paths are texts; every method raises OSError or asyncssh.SFTPError."""

    async def status(self, path: str) -> Status: ...

    async def names(self, path: str) -> list[str]: ...

    async def expand(self, pattern: str) -> list[str]: ...

    async def make_folder(self, path: str) -> None: ...

    async def imprint(self, path: str, status: Status) -> None:
        """Give a file the mode and times of another."""

    def reading(self, path: str) -> AbstractAsyncContextManager[OpenFile]: ...

    def writing(self, path: str, mode: int) -> AbstractAsyncContextManager[OpenFile]:
        """Empty the file, or make it with ``mode`` as far as the umask there allows."""


class _LocalFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def read(self, size: int, offset: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    async def write(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._descriptor, view, offset)
            view, offset = view[done:], offset + done


class Here:
    """This machine."""

    async def status(self, path: str) -> Status:
        found = os.stat(path)
        times = (int(found.st_atime), int(found.st_mtime))
        return _status(found.st_mode, found.st_size, times)

    async def names(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    async def expand(self, pattern: str) -> list[str]:
        # The shell has done it.
        return [pattern]

    async def make_folder(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    async def imprint(self, path: str, status: Status) -> None:
        os.chmod(path, status.mode)
        os.utime(path, (float(status.times[0]), float(status.times[1])))

    @asynccontextmanager
    async def reading(self, path: str) -> AsyncIterator[OpenFile]:
        async with self._opened(path, os.O_RDONLY, 0) as file:
            yield file

    @asynccontextmanager
    async def writing(self, path: str, mode: int) -> AsyncIterator[OpenFile]:
        async with self._opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode) as file:
            yield file

    @asynccontextmanager
    async def _opened(self, path: str, flags: int, mode: int) -> AsyncIterator[OpenFile]:
        # A pipe that took a file's place since it was looked at must not hold us up.
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, mode)
        try:
            yield _LocalFile(descriptor)
        finally:
            os.close(descriptor)


class _NodeFile:
    def __init__(self, file: asyncssh.SFTPClientFile) -> None:
        self._file = file

    async def read(self, size: int, offset: int) -> bytes:
        return await self._file.read(size, offset)

    async def write(self, data: bytes, offset: int) -> object:
        return await self._file.write(data, offset)


class There:
    """A node."""

    def __init__(self, sftp: asyncssh.SFTPClient) -> None:
        self._sftp = sftp

    async def status(self, path: str) -> Status:
        found = await self._sftp.stat(path)
        return _status(found.permissions or 0, found.size or 0, (found.atime or 0, found.mtime or 0))

    async def names(self, path: str) -> list[str]:
        listed = [str(name) for name in await self._sftp.listdir(path)]
        return sorted(plain_name(name) for name in listed if name not in (".", ".."))

    async def expand(self, pattern: str) -> list[str]:
        if not any(char in pattern for char in "*?["):
            return [pattern]
        return sorted(str(path) for path in await self._sftp.glob(pattern))

    async def make_folder(self, path: str) -> None:
        if not await self._sftp.isdir(path):
            await self._sftp.mkdir(path)

    async def imprint(self, path: str, status: Status) -> None:
        await self._sftp.chmod(path, status.mode)
        await self._sftp.utime(path, (float(status.times[0]), float(status.times[1])))

    @asynccontextmanager
    async def reading(self, path: str) -> AsyncIterator[OpenFile]:
        file: Any = await self._sftp.open(path, "rb")
        async with file:
            yield _NodeFile(file)

    @asynccontextmanager
    async def writing(self, path: str, mode: int) -> AsyncIterator[OpenFile]:
        import asyncssh

        file: Any = await self._sftp.open(path, "wb", asyncssh.SFTPAttrs(permissions=mode))
        async with file:
            yield _NodeFile(file)


def _status(mode: int, size: int, times: tuple[int, int]) -> Status:
    # A server that tells no type (version 3 may leave permissions out) is taken to mean a regular file.
    regular = stat.S_ISREG(mode) or stat.S_IFMT(mode) == 0
    return Status(stat.S_ISDIR(mode), regular, size, stat.S_IMODE(mode), times)


def plain_name(name: str) -> str:
    """A name from a node as one component of a path here. PeerError when it is more than that."""
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise PeerError(f"the node listed a file named {printable(name, 80)!r}, which is no file name")
    return name


#: Read at once while as much is being written: enough for 100 MB/s over a way of 40 ms.
_CHUNK = 4 * 1024 * 1024
#: One request of SFTP, to see whether a file has more than it was said to have (those of /proc say 0).
_BLOCK = 32 * 1024


async def copy_bytes(source: OpenFile, target: OpenFile, size: int, told: Callable[[int], None]) -> None:
    """Everything in ``source``, expected to be ``size`` bytes, to ``target``; ``told`` hears how much is done."""
    import asyncio

    done = 0
    writing: asyncio.Task[object] | None = None
    try:
        while True:
            # Beyond the end, each request of a large read would come back empty.
            data = await source.read(min(_CHUNK, size - done) if done < size else _BLOCK, done)
            if writing is not None:
                await writing
                writing = None
            told(done)
            if not data:
                return
            writing = asyncio.ensure_future(_write(target, data, done))
            done += len(data)
    finally:
        if writing is not None:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)


async def _write(target: OpenFile, data: bytes, offset: int) -> object:
    return await target.write(data, offset)
