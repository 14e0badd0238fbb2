"""Encrypting and decrypting the CAs' keys of a store that nobody serves. Plain sqlite3: nothing waits for it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tinyport.auth.sealing import META, check_passphrase, new_seal, open_seal
from tinyport.auth.store import lock_store
from tinyport.auth.store_authorities import AuthorityRow
from tinyport.core.errors import OperatorError

Rewrite = Callable[[AuthorityRow], AuthorityRow]
#: the encrypted data key that the store has (None: its keys are in clear) → the one that it gets, and what becomes of
#: each row
Change = Callable[[str | None], tuple[str | None, Rewrite]]


def encrypt_keys(data_dir: Path, passphrase: str, current: str | None) -> int:
    """Encrypt the keys of the store under ``data_dir`` with ``passphrase``; with ``current``, the passphrase that they
    have now, give them another one. How many keys there are.

    OperatorError when auth is running, or a passphrase is not right. Killed at any moment, it was done or it was not.
    """
    check_passphrase(passphrase)

    def change(held: str | None) -> tuple[str | None, Rewrite]:
        if held is not None and current is None:
            raise OperatorError("the keys are encrypted already", hint="give the passphrase that they have, too")
        # With another passphrase another data key, too: who had the first one, and a copy, knows nothing of today's.
        before = None if held is None else open_seal(held, current)
        after = new_seal()
        return after.wrapped(passphrase), lambda row: after.close((before or after).open(row))

    return _rewrite(data_dir, change)


def decrypt_keys(data_dir: Path, current: str) -> int:
    """Have the keys of the store in clear again. As ``encrypt_keys``."""

    def change(held: str | None) -> tuple[str | None, Rewrite]:
        if held is None:
            raise OperatorError("the keys are not encrypted")
        return None, open_seal(held, current).open

    return _rewrite(data_dir, change)


def _rewrite(data_dir: Path, change: Change) -> int:
    folder = data_dir / "auth"
    store = folder / "auth.db"
    if not store.exists():
        raise OperatorError(f"there is no store in {folder}", hint="give auth's configuration: tctl -c FILE auth ...")
    lock = lock_store(folder)
    try:
        with closing(sqlite3.connect(store, isolation_level=None)) as database:
            count = _in_one_step(database, change)
            # What was there in clear must not stay in a free page or in the log of last writes.
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count
    except sqlite3.DatabaseError as error:
        raise OperatorError(f"{store} cannot be changed: {error}") from None
    finally:
        os.close(lock)


def _in_one_step(database: sqlite3.Connection, change: Change) -> int:
    database.execute("PRAGMA secure_delete = ON")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("BEGIN IMMEDIATE")
    try:
        found = database.execute("SELECT value FROM meta WHERE name = ?", (META,)).fetchone()
        wrapped, rewritten = change(None if found is None else str(found[0]))
        rows = database.execute("SELECT id, type, private, public FROM authorities").fetchall()
        for id, type, private, public in rows:
            row = rewritten(AuthorityRow(type, private, public))
            database.execute("UPDATE authorities SET private = ? WHERE id = ?", (row.private, id))
        database.execute("DELETE FROM meta WHERE name = ?", (META,))
        if wrapped is not None:
            database.execute("INSERT INTO meta VALUES (?, ?)", (META, wrapped))
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise
    return len(rows)
