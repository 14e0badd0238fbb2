"""``tsh scp``: files to, from and between nodes, over SFTP."""

from __future__ import annotations

import argparse
import asyncio
import posixpath
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyport.client.engine import Wish, connected
from tinyport.client.factors import dialled
from tinyport.client.files import Here, Side, Status, There, copy_bytes, plain_name
from tinyport.client.ssh_options import parse_options
from tinyport.client.target import checked_login, default_login, split_target
from tinyport.client.whoami import identity_of
from tinyport.core.errors import OperatorError
from tinyport.core.names import printable
from tinyport.host.console import DONE, FAILED, UsageError, print_error
from tinyport.host.console_progress import Progress

if TYPE_CHECKING:
    import asyncssh

#: Folders in folders. A node could show one within itself for ever.
MAX_DEPTH = 100


@dataclass(frozen=True)
class Place:
    """One argument: ``node`` is None for this machine."""

    login: str | None
    node: str | None
    path: str


def parse_place(text: str) -> Place:
    """``[LOGIN@]NODE:PATH``, or a path here. As scp: a colon names a node unless a slash stands before it."""
    head, colon, path = text.partition(":")
    if not colon or not head or "/" in head:
        return Place(None, None, text)
    login, node = split_target(head)
    # A path from the home is relative to where the server starts.
    return Place(login, node, path.removeprefix("~/") or ".")


@dataclass
class _File:
    """One file or folder to copy, found by walking."""

    source: str
    target: str
    status: Status


class Copy:
    """The copying of some sources to one destination. Counts what failed; scp, too, goes on after a failure."""

    def __init__(self, source: Side, target: Side, args: argparse.Namespace) -> None:
        self._source = source
        self._target = target
        self._recursive = bool(args.recursive)
        self._preserve = bool(args.preserve)
        self._quiet = bool(args.quiet)
        self.failed = 0

    async def run(self, pattern: str, destination: str, *, into_folder: bool) -> None:
        """Copy everything that ``pattern`` names."""
        import asyncssh

        try:
            paths = await self._source.expand(pattern)
        except (OSError, asyncssh.SFTPError) as error:
            self._complain(pattern, error)
            return
        if not paths:
            self._say(f"{printable(pattern)}: no match")
        if len(paths) > 1 and not into_folder:
            raise OperatorError(f"{printable(destination)}: not a folder, and there are several files for it")
        for path in paths:
            name = posixpath.basename(path.rstrip("/"))
            # ``tsh scp -r node:. here`` copies the contents' folder under its own name only when it has one.
            if into_folder and name not in ("", ".", ".."):
                target = posixpath.join(destination, plain_name(name))
            else:
                target = destination
            await self._tree(path, target)

    async def _tree(self, source: str, target: str) -> None:
        import asyncssh

        folders: list[_File] = []
        async for file in self._walk(source, target, 0):
            try:
                if file.status.folder:
                    await self._target.make_folder(file.target)
                    folders.append(file)
                else:
                    await self._file(file)
            except (OSError, asyncssh.SFTPError) as error:
                self._complain(file.source, error)
        if self._preserve:
            # The innermost first: filling a folder changes its time.
            for folder in reversed(folders):
                await self._imprint(folder)

    async def _imprint(self, file: _File) -> None:
        import asyncssh

        try:
            await self._target.imprint(file.target, file.status)
        except (OSError, asyncssh.SFTPError) as error:
            self._complain(file.target, error)

    async def _walk(self, source: str, target: str, depth: int) -> AsyncIterator[_File]:
        """What there is at and below ``source``, each folder before what is in it."""
        import asyncssh

        try:
            status = await self._source.status(source)
            if status.folder and not self._recursive:
                self._say(f"{printable(source)}: is a folder (-r copies folders)")
                return
            names = await self._source.names(source) if status.folder else []
        except (OSError, asyncssh.SFTPError) as error:
            self._complain(source, error)
            return
        if depth > MAX_DEPTH:
            self._say(f"{printable(source)}: folders deeper than {MAX_DEPTH}")
            return
        yield _File(source, target, status)
        for name in names:
            async for file in self._walk(posixpath.join(source, name), posixpath.join(target, name), depth + 1):
                yield file

    async def _file(self, file: _File) -> None:
        if not file.status.regular:
            self._say(f"{printable(file.source)}: not a regular file")
            return
        progress = Progress(posixpath.basename(file.source), file.status.size)
        # As scp: a new file gets the source's mode, without setuid and its kind, and what the umask there takes away.
        mode = file.status.mode & 0o777
        try:
            async with self._source.reading(file.source) as reading, self._target.writing(file.target, mode) as writing:
                await copy_bytes(reading, writing, file.status.size, lambda done: self._told(progress, done))
        finally:
            if not self._quiet:
                progress.finish()
        if self._preserve:
            await self._imprint(file)

    def _told(self, progress: Progress, done: int) -> None:
        if not self._quiet:
            progress.update(done)

    def _complain(self, path: str, error: Exception) -> None:
        text = getattr(error, "reason", "") or (error.strerror if isinstance(error, OSError) else "") or str(error)
        self._say(f"{printable(path)}: {printable(str(text)).lower()}")

    def _say(self, text: str) -> None:
        self.failed += 1
        print_error(f"tsh: error: {text}")


_Key = tuple[str | None, str | None]
#: by login and node, as they were typed
Ways = Mapping[_Key, AbstractAsyncContextManager["asyncssh.SSHClientConnection"]]


def run(args: argparse.Namespace) -> int:
    """0 when everything was copied, 1 when something was not; no way to a node ends as any other command does."""
    places = [parse_place(text) for text in args.paths]
    if len(places) < 2:
        raise UsageError("a source and a destination are needed", hint='run "tsh scp --help"')
    if all(place.node is None for place in places):
        raise UsageError("all paths are on this machine", hint="write NODE:PATH for one of them, or use cp")
    identity = identity_of(args)
    user = parse_options(args.option).user
    wishes: dict[_Key, Wish] = {
        (place.login, place.node): Wish(place.node, checked_login(place.login or user or default_login(identity)))
        for place in places
        if place.node is not None
    }
    if args.cluster and args.cluster != identity.cluster:
        from tinyport.client.elsewhere import connected_elsewhere

        ways: Ways = {key: connected_elsewhere(identity, wish, args.cluster) for key, wish in wishes.items()}
    else:
        # Before anything runs: a person may have to look for a code.
        identity, open_ways = dialled(identity, list(wishes.values()))
        pairs = zip(wishes.items(), open_ways, strict=True)
        ways = {key: connected(identity, wish, way) for (key, wish), way in pairs}
    return asyncio.run(_copy_all(args, places, ways))


async def _copy_all(args: argparse.Namespace, places: Sequence[Place], ways: Ways) -> int:
    import asyncssh

    *sources, destination = places
    async with AsyncExitStack() as stack:
        sides: dict[_Key, Side] = {}

        async def side(place: Place) -> Side:
            key = (place.login, place.node)
            if key not in sides:
                sides[key] = Here() if place.node is None else await _there(stack, ways[key])
            return sides[key]

        target = await side(destination)
        try:
            into_folder = (await target.status(destination.path)).folder
        except (OSError, asyncssh.SFTPError):
            # Not there yet: it becomes the copy's name.
            into_folder = False
        if not into_folder and (len(sources) > 1 or destination.path.endswith("/")):
            raise OperatorError(f"{printable(destination.path)}: not a folder")
        failed = 0
        for place in sources:
            source = await side(place)
            if isinstance(source, Here) and isinstance(target, Here):
                raise UsageError(f"{printable(place.path)} and the destination are both on this machine", hint="use cp")
            copy = Copy(source, target, args)
            await copy.run(place.path, destination.path, into_folder=into_folder)
            failed += copy.failed
    return FAILED if failed else DONE


async def _there(stack: AsyncExitStack, way: AbstractAsyncContextManager[asyncssh.SSHClientConnection]) -> Side:
    connection = await stack.enter_async_context(way)
    return There(await stack.enter_async_context(connection.start_sftp_client()))
