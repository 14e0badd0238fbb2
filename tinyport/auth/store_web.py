"""Rows about web sessions: who is logged in with a browser, through which proxy."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from tinyport.auth.store_rows import Rows


@dataclass(frozen=True)
class WebSessionRow:
    """``digest``: of the secret that only the browser's cookie holds. ``proxy``: the UUID of the one that it goes
    through. ``seen``: when it was last renewed; ``ends``: when it ends whatever happens. Times: Unix seconds."""

    id: str
    digest: str = field(repr=False)
    user: str
    proxy: str
    source: str
    agent: str
    created: float
    seen: float
    ends: float


class WebSessionRows:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def get(self, id: str) -> WebSessionRow | None:
        row = await self._rows.one("SELECT * FROM web_sessions WHERE id = ?", id)
        return None if row is None else _session(row)

    async def all(self, user: str | None = None) -> list[WebSessionRow]:
        """The newest first; of one user, or everybody's."""
        if user is None:
            rows = await self._rows.all("SELECT * FROM web_sessions ORDER BY created DESC, id")
        else:
            rows = await self._rows.all("SELECT * FROM web_sessions WHERE user = ? ORDER BY created DESC, id", user)
        return [_session(row) for row in rows]

    async def add(self, session: WebSessionRow) -> None:
        await self._rows.run(
            "INSERT INTO web_sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            session.id,
            session.digest,
            session.user,
            session.proxy,
            session.source,
            session.agent,
            session.created,
            session.seen,
            session.ends,
        )

    async def see(self, id: str, now: float) -> None:
        await self._rows.run("UPDATE web_sessions SET seen = ? WHERE id = ?", now, id)

    async def remove(self, id: str) -> bool:
        return await self._rows.run("DELETE FROM web_sessions WHERE id = ?", id) == 1

    async def delete_ended(self, now: float, unseen_since: float) -> None:
        await self._rows.run("DELETE FROM web_sessions WHERE ends <= ? OR seen < ?", now, unseen_since)


def _session(row: sqlite3.Row) -> WebSessionRow:
    return WebSessionRow(
        row["id"],
        row["digest"],
        row["user"],
        row["proxy"],
        row["source"],
        row["agent"],
        row["created"],
        row["seen"],
        row["ends"],
    )
