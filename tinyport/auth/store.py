"""The store: one SQLite file, one writer, one reader.

SQL is spoken here, in ``store_*.py`` and in ``migrations.py``, and nowhere else. Everything that changes state does so
in ``async with store.write() as tables``: one transaction, on disk before anybody is told (``synchronous=FULL``). Reads
that need not see their own writes go through ``store.read`` and never wait for a writer (WAL).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiosqlite

from tinyport.auth.migrations import migrate
from tinyport.auth.store_audit import AuditRows
from tinyport.auth.store_authorities import AuthorityRows
from tinyport.auth.store_cluster import ClusterRows
from tinyport.auth.store_copies import CopyRows
from tinyport.auth.store_factors import FactorRows
from tinyport.auth.store_nodes import NodeRows
from tinyport.auth.store_recordings import RecordingRows
from tinyport.auth.store_registrations import RegistrationRows
from tinyport.auth.store_tokens import TokenRows
from tinyport.auth.store_traffic import TrafficRows
from tinyport.auth.store_trusted import TrustedRows
from tinyport.auth.store_users import UserRows
from tinyport.auth.store_web import WebSessionRows
from tinyport.core.errors import OperatorError, Unavailable
from tinyport.host.files import private_folder

T = TypeVar("T")
# Another program (a backup, a curious sqlite3 shell) may hold the file for a moment.
_BUSY_MS = 5000


async def _whole(work: Awaitable[T]) -> T:
    """Wait for ``work`` to its end even when the waiter is cancelled, then let the cancellation go on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


class Database:
    """One connection. Rows are read by column name. Unavailable when SQLite cannot (disk full, file gone, locked)."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def all(self, sql: str, *values: object) -> Sequence[sqlite3.Row]:
        try:
            return list(await self._connection.execute_fetchall(sql, values))
        except (sqlite3.OperationalError, sqlite3.InternalError) as error:
            raise _unavailable(error) from error

    async def one(self, sql: str, *values: object) -> sqlite3.Row | None:
        rows = await self.all(sql, *values)
        return rows[0] if rows else None

    async def run(self, sql: str, *values: object) -> int:
        """Execute one statement; how many rows it changed."""
        try:
            async with self._connection.execute(sql, values) as cursor:
                return cursor.rowcount
        except (sqlite3.OperationalError, sqlite3.InternalError) as error:
            raise _unavailable(error) from error

    async def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        try:
            async with self._connection.executemany(sql, rows):
                return
        except (sqlite3.OperationalError, sqlite3.InternalError) as error:
            raise _unavailable(error) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """All or nothing. A cancelled waiter does not leave a transaction open: it is rolled back, or, when the
        commit had begun, it is committed."""
        try:
            await _whole(self.run("BEGIN IMMEDIATE"))
            yield
            await _whole(self.run("COMMIT"))
        except BaseException:
            # Statements run in the connection's thread in order, so this comes after whatever was under way.
            if self._connection.in_transaction:
                await _whole(self.run("ROLLBACK"))
            raise

    async def close(self) -> None:
        await self._connection.close()


#: how SQLite says that the disk takes nothing more: full, broken, read-only (Python 3.10 has no codes for it)
_NO_ROOM = ("database or disk is full", "disk I/O error", "attempt to write a readonly database")
#: the code of an Unavailable that means so
NO_ROOM = "no_room"


def _unavailable(error: sqlite3.Error) -> Unavailable:
    what, detail = "the cluster's database cannot be used now", f"sqlite: {error}"
    if any(text in str(error) for text in _NO_ROOM):
        return Unavailable(what, detail=detail, hint="the disk of the auth server takes nothing more", code=NO_ROOM)
    return Unavailable(what, detail=detail)


class Tables:
    """The rows of every subject, through one connection."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.cluster = ClusterRows(database)
        self.trusted = TrustedRows(database)
        self.copies = CopyRows(database)
        self.authorities = AuthorityRows(database)
        self.users = UserRows(database)
        self.factors = FactorRows(database)
        self.web = WebSessionRows(database)
        self.tokens = TokenRows(database)
        self.nodes = NodeRows(database)
        self.registrations = RegistrationRows(database)
        self.audit = AuditRows(database)
        self.recordings = RecordingRows(database)
        self.traffic = TrafficRows(database)


class WriteTables(Tables):
    """Tables within a transaction."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._after: list[Callable[[], None]] = []
        self._lost: list[Callable[[], None]] = []

    def when_lost(self, call: Callable[[], None]) -> None:
        """``call`` when the disk took nothing of it, and whoever asked goes on all the same (``or_go_on``)."""
        self._lost.append(call)

    def lost(self) -> None:
        for call in self._lost:
            call()

    def after_commit(self, call: Callable[[], None]) -> None:
        """``call`` once the transaction is on disk, in the order of commits; never when it is rolled back."""
        self._after.append(call)

    def committed(self) -> None:
        for call in self._after:
            call()


class Store:
    """Made by ``open_store``; ``close`` it."""

    def __init__(self, path: Path, writer: Database, reader: Database, lock_file: int) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._lock_file = lock_file
        self._writing = asyncio.Lock()
        self.read = Tables(reader)

    @asynccontextmanager
    async def write(self, *, or_go_on: bool = False) -> AsyncIterator[WriteTables]:
        """A transaction. It is on disk when the block was left without an error.

        ``or_go_on``: for what must go on when the disk takes nothing. Then all of it is taken back, those who asked by
        ``when_lost`` are told, and the block is left without an error.
        """
        async with self._writing:
            tables = WriteTables(self._writer)
            done = False
            try:
                async with self._writer.transaction():
                    yield tables
                    done = True
            except Unavailable as error:
                # In WAL mode statements stay in memory until the commit: that is what fails, and the block has ended.
                if not (or_go_on and done and error.code == NO_ROOM):
                    raise
                tables.lost()
            else:
                tables.committed()

    async def snapshot(self, path: Path) -> None:
        """The whole database as it is at one moment, in a new file (0600). Writers go on meanwhile."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        copier = await _connect(self._path, ())
        try:
            await copier.run("VACUUM INTO ?", str(path))
        finally:
            await copier.close()

    async def close(self) -> None:
        async with self._writing:
            await self._reader.close()
            await self._writer.close()
            os.close(self._lock_file)


async def _connect(path: Path, pragmas: Sequence[str]) -> Database:
    connection = await aiosqlite.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    database = Database(connection)
    try:
        for pragma in (f"busy_timeout = {_BUSY_MS}", *pragmas):
            await database.all(f"PRAGMA {pragma}")
    except BaseException:
        await database.close()
        raise
    return database


async def open_store(data_dir: Path, now: float) -> Store:
    """Open (or make) ``<data_dir>/auth/auth.db``, 0600 in a folder of 0700, check it, and bring it up to date.

    OperatorError when it is damaged, of a newer version, or in use by another auth server.
    """
    folder = data_dir / "auth"
    private_folder(folder)
    lock_file = lock_store(folder)
    path = folder / "auth.db"
    try:
        # SQLite would make it 0644; -wal and -shm get the mode of the main file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        os.chmod(path, 0o600)
        writer = await _open_writer(path)
        try:
            await migrate(writer, now)
            # Only now: a database without its first table has no WAL to read.
            reader = await _connect(path, ("query_only = ON",))
        except BaseException:
            await writer.close()
            raise
    except BaseException:
        os.close(lock_file)
        raise
    return Store(path, writer, reader, lock_file)


async def _open_writer(path: Path) -> Database:
    damaged = OperatorError(
        f"{path} is damaged", hint="restore a backup with tctl restore; keep the damaged file for a look"
    )
    try:
        # FULL: in WAL mode, NORMAL would lose the last acknowledged transactions in a power cut.
        # secure_delete: retired keys are not to stay in the free parts of pages. FAST writes no page for that alone.
        writer = await _connect(
            path, ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = FAST")
        )
    except sqlite3.DatabaseError as error:
        raise damaged from error
    try:
        found = [str(row[0]) for row in await writer.all("PRAGMA quick_check(5)")]
    except sqlite3.DatabaseError as error:
        await writer.close()
        raise damaged from error
    if found != ["ok"]:
        await writer.close()
        damaged.detail = "; ".join(found)
        raise damaged
    return writer


def lock_store(folder: Path) -> int:
    """Two servers on one store would each believe in their own policy. Returns the descriptor that holds the lock; the
    kernel frees it with the process. OperatorError when somebody has it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise OperatorError(
            f"another auth server is using {folder}", hint="stop it first, or choose another data_dir"
        ) from None
    return descriptor
