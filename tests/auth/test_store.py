"""The store: migrations, durability, one owner, transactions that are whole."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tinyport.auth.migrations import MIGRATIONS, migrate, statements
from tinyport.auth.store import Store, open_store
from tinyport.core.errors import OperatorError, Unavailable

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def _with_store(folder: Path) -> Store:
    return await open_store(folder, 1.0)


def test_files_are_private(tmp_path: Path) -> None:
    async def work() -> None:
        store = await _with_store(tmp_path / "data")
        async with store.write() as tables:
            await tables.cluster.set_meta("a", "b")
        for path in (tmp_path / "data" / "auth").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert stat.S_IMODE((tmp_path / "data" / "auth").stat().st_mode) == 0o700
        await store.close()

    old = os.umask(0)
    try:
        run(work())
    finally:
        os.umask(old)


def test_synchronous_is_full_and_the_journal_a_wal(tmp_path: Path) -> None:
    async def work() -> None:
        store = await _with_store(tmp_path)
        async with store.write() as tables:
            assert (await tables.database.one("PRAGMA synchronous"))["synchronous"] == 2  # type: ignore[index]
            assert (await tables.database.one("PRAGMA journal_mode"))["journal_mode"] == "wal"  # type: ignore[index]
            assert (await tables.database.one("PRAGMA foreign_keys"))["foreign_keys"] == 1  # type: ignore[index]
        await store.close()

    run(work())


def test_a_second_server_on_the_same_store_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        store = await _with_store(tmp_path)
        with pytest.raises(OperatorError, match="another auth server"):
            await _with_store(tmp_path)
        await store.close()
        await (await _with_store(tmp_path)).close()

    run(work())


def test_an_error_rolls_back_and_tells_nobody(tmp_path: Path) -> None:
    told: list[str] = []

    async def work() -> None:
        store = await _with_store(tmp_path)

        async def fail() -> None:
            async with store.write() as tables:
                await tables.cluster.set_meta("name", "value")
                tables.after_commit(lambda: told.append("committed"))
                raise ValueError("stop")

        with pytest.raises(ValueError, match="stop"):
            await fail()
        assert await store.read.cluster.meta("name") is None
        async with store.write() as tables:
            tables.after_commit(lambda: told.append("second"))
        await store.close()

    run(work())
    assert told == ["second"]


def test_a_cancelled_request_leaves_no_transaction_open(tmp_path: Path) -> None:
    async def work() -> None:
        store = await _with_store(tmp_path)

        async def request() -> None:
            async with store.write() as tables:
                await tables.cluster.set_meta("name", "value")
                inside.set()
                await asyncio.Event().wait()

        for _ in range(3):
            inside = asyncio.Event()
            task = asyncio.ensure_future(request())
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        # Cancelled at whatever await it is in, too.
        for steps in range(12):
            task = asyncio.ensure_future(request())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await store.read.cluster.meta("name") is None
        async with store.write() as tables:
            await tables.cluster.set_meta("after", "works")
        assert await store.read.cluster.meta("after") == "works"
        await store.close()

    run(work())


def test_the_reader_cannot_write(tmp_path: Path) -> None:
    async def work() -> None:
        store = await _with_store(tmp_path)
        with pytest.raises(Unavailable):
            await store.read.cluster.set_meta("name", "value")
        await store.close()

    run(work())


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    run(_fill(tmp_path))
    path = tmp_path / "auth" / "auth.db"
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 4] = os.urandom(8192)
    path.write_bytes(data)
    with pytest.raises(OperatorError, match="damaged") as caught:
        run(_fill(tmp_path))
    assert "restore" in caught.value.hint


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "auth").mkdir(mode=0o700)
    (tmp_path / "auth" / "auth.db").write_bytes(b"this is a text file" * 100)
    with pytest.raises(OperatorError, match="damaged"):
        run(_fill(tmp_path))


async def _fill(folder: Path) -> None:
    store = await _with_store(folder)
    async with store.write() as tables:
        for number in range(200):
            await tables.cluster.set_meta(f"name{number}", "x" * 100)
    await store.close()


# -------------------------------------------------------------------- migrations


def test_each_migration_is_applied_once(tmp_path: Path) -> None:
    async def work() -> None:
        store = await _with_store(tmp_path)
        async with store.write() as tables:
            rows = await tables.database.all("SELECT name FROM migrations")
            assert [row["name"] for row in rows] == [name for name, _ in MIGRATIONS]
        await store.close()
        await (await _with_store(tmp_path)).close()

    run(work())


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    broken = (*MIGRATIONS, ("0002-broken", "CREATE TABLE half (a);\nCREATE TABLE half (a);"))
    good = (*MIGRATIONS, ("0002-good", "CREATE TABLE half (a);"))

    async def work() -> None:
        store = await _with_store(tmp_path)
        database = store._writer
        with pytest.raises(Unavailable):
            await migrate(database, 1.0, broken)
        assert await database.one("SELECT name FROM sqlite_master WHERE name = 'half'") is None
        assert await migrate(database, 1.0, good) == ["0002-good"]
        assert await migrate(database, 1.0, good) == []
        with pytest.raises(OperatorError, match="newer tinyport"):
            await migrate(database, 1.0)
        await store.close()

    run(work())


def test_statements_are_split_whole() -> None:
    script = "-- why\nCREATE TABLE a (\n    b, c);\nCREATE TRIGGER t BEFORE DELETE ON a BEGIN SELECT 1; END;\nSELECT 1"
    assert [text.split()[1] for text in statements(script)] == ["TABLE", "TRIGGER", "1"]
    assert all("--" not in text for _, step in MIGRATIONS for text in statements(step))
