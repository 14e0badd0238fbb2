"""Looking into a store that nobody serves, and marking it as restored. Plain sqlite3: nothing waits for it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tinyport.auth.migrations import MIGRATIONS
from tinyport.core.errors import OperatorError


@dataclass(frozen=True)
class Contents:
    cluster: str
    epoch: int
    users: int
    nodes: int


def inspect(path: Path, name: Path) -> Contents:
    """What is in the store at ``path``. OperatorError (speaking of ``name``) when it is damaged, no store of ours, or
    of a newer version."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            found = [str(row[0]) for row in database.execute("PRAGMA integrity_check(5)")]
            if found != ["ok"]:
                raise OperatorError(f"{name} is damaged", detail="; ".join(found), hint="take an older backup")
            steps = {str(row[0]) for row in database.execute("SELECT name FROM migrations")}
            unknown = sorted(steps - {step for step, _ in MIGRATIONS})
            if unknown:
                raise OperatorError(
                    f"{name} was made by a newer tinyport: it has {', '.join(unknown)}", hint="install that version"
                )
            cluster = database.execute("SELECT value FROM meta WHERE name = 'cluster'").fetchone()
            epoch = database.execute("SELECT epoch FROM policy").fetchone()
            users = database.execute("SELECT count(*) FROM users").fetchone()
            nodes = database.execute("SELECT count(*) FROM nodes").fetchone()
    except sqlite3.DatabaseError as error:
        raise OperatorError(f"{name} is not a backup of a cluster", detail=str(error)) from None
    if cluster is None:
        raise OperatorError(f"{name} is not a backup of a cluster: it has no name")
    return Contents(str(cluster[0]), 0 if epoch is None else int(epoch[0]), int(users[0]), int(nodes[0]))


def mark(path: Path, epoch: int, now: float) -> None:
    """Auth begins this epoch at its next start. Sessions that were alive at the backup's moment are not any more."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode = DELETE")
        for name, value in (("epoch", str(epoch)), ("restored", str(int(now)))):
            database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
        database.execute("DELETE FROM sessions")
