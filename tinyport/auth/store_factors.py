"""Rows about second factors: secrets that users share with their authenticator."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from tinyport.auth.store_rows import Rows


@dataclass(frozen=True)
class FactorRow:
    """A TOTP secret. ``confirmed``: a code of it was shown once. ``last_step``: the newest time step whose code was
    used; no code counts twice. Times: Unix seconds."""

    id: str
    user: str
    name: str
    secret: bytes = field(repr=False)
    created: float
    confirmed: bool = False
    last_step: int = 0


class FactorRows:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def of(self, user: str) -> list[FactorRow]:
        """Those that are confirmed, the oldest first."""
        rows = await self._rows.all("SELECT * FROM factors WHERE user = ? AND confirmed = 1 ORDER BY created, id", user)
        return [_factor(row) for row in rows]

    async def get(self, user: str, id: str) -> FactorRow | None:
        row = await self._rows.one("SELECT * FROM factors WHERE user = ? AND id = ?", user, id)
        return None if row is None else _factor(row)

    async def waiting(self, user: str) -> FactorRow | None:
        """The one that was begun and not confirmed yet."""
        row = await self._rows.one("SELECT * FROM factors WHERE user = ? AND confirmed = 0", user)
        return None if row is None else _factor(row)

    async def begin(self, factor: FactorRow) -> None:
        """A factor to be confirmed; one that was begun before is gone."""
        await self._rows.run("DELETE FROM factors WHERE user = ? AND confirmed = 0", factor.user)
        await self._rows.run(
            "INSERT INTO factors VALUES (?, ?, ?, ?, ?, ?, ?)",
            factor.id,
            factor.user,
            factor.name,
            factor.secret,
            factor.created,
            int(factor.confirmed),
            factor.last_step,
        )

    async def confirm(self, id: str) -> None:
        await self._rows.run("UPDATE factors SET confirmed = 1 WHERE id = ?", id)

    async def use_step(self, id: str, step: int) -> bool:
        """Take a time step; False when it, or a later one, was used before."""
        return (
            await self._rows.run("UPDATE factors SET last_step = ? WHERE id = ? AND last_step < ?", step, id, step) > 0
        )

    async def remove(self, id: str) -> None:
        await self._rows.run("DELETE FROM factors WHERE id = ?", id)

    async def remove_of(self, user: str) -> None:
        await self._rows.run("DELETE FROM factors WHERE user = ?", user)


def _factor(row: sqlite3.Row) -> FactorRow:
    return FactorRow(
        id=str(row["id"]),
        user=str(row["user"]),
        name=str(row["name"]),
        secret=bytes(row["secret"]),
        created=float(row["created"]),
        confirmed=bool(row["confirmed"]),
        last_step=int(row["last_step"]),
    )
