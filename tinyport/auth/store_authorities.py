"""Rows of the CAs: their keys, where their rotations are, who was retired, which successions there are."""

from __future__ import annotations

from dataclasses import dataclass

from tinyport.auth.store_rows import Rows, pack, unpack
from tinyport.core.rotation import Rotation

ACTIVE, NEW = "active", "new"


@dataclass(frozen=True)
class AuthorityRow:
    """One CA or the policy key. ``private``: PEM; ``public``: SSH line, for the TLS CA its certificate as PEM.
    ``state``: active, or new during a rotation."""

    type: str
    private: str
    public: str
    state: str = ACTIVE


class AuthorityRows:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def all(self) -> list[AuthorityRow]:
        rows = await self._rows.all("SELECT type, private, public, state FROM authorities ORDER BY id")
        return [AuthorityRow(row["type"], row["private"], row["public"], row["state"]) for row in rows]

    async def add(self, row: AuthorityRow, now: float) -> None:
        await self._rows.run(
            "INSERT INTO authorities (type, private, public, created, state) VALUES (?, ?, ?, ?, ?)",
            row.type,
            row.private,
            row.public,
            now,
            row.state,
        )

    async def take_new(self, type: str) -> None:
        """The new key becomes the active one; the one before it is forgotten, its private half, too."""
        await self.drop(type, ACTIVE)
        await self._rows.run("UPDATE authorities SET state = ? WHERE type = ?", ACTIVE, type)

    async def drop(self, type: str, state: str) -> None:
        """Forget a key. Its private half is overwritten first: a deleted row stays in its page until that is reused."""
        await self._rows.run(
            "UPDATE authorities SET private = printf('%.*c', length(private), '0') WHERE type = ? AND state = ?",
            type,
            state,
        )
        await self._rows.run("DELETE FROM authorities WHERE type = ? AND state = ?", type, state)

    # ---------------------------------------------------------------- rotations

    async def rotations(self) -> dict[str, Rotation]:
        """By CA type; a type that was never rotated is not there."""
        rows = await self._rows.all("SELECT type, phase, started, changed, grace FROM rotations")
        return {row["type"]: Rotation(**dict(row)) for row in rows}

    async def put_rotation(self, rotation: Rotation) -> None:
        await self._rows.run(
            "INSERT OR REPLACE INTO rotations VALUES (?, ?, ?, ?, ?)",
            rotation.type,
            rotation.phase,
            rotation.started,
            rotation.changed,
            rotation.grace,
        )

    # ---------------------------------------------------------------- what came before

    async def retire(self, type: str, public: str, now: float) -> None:
        await self._rows.run(
            "INSERT INTO retired_authorities (type, public, retired) VALUES (?, ?, ?)", type, public, now
        )

    async def retired(self, type: str, most: int) -> list[str]:
        """Public keys of a type that planned rotations have retired, the last ``most``, oldest first."""
        rows = await self._rows.all(
            "SELECT public FROM retired_authorities WHERE type = ? ORDER BY id DESC LIMIT ?", type, most
        )
        return [row["public"] for row in reversed(rows)]

    async def forget_retired(self, type: str) -> None:
        await self._rows.run("DELETE FROM retired_authorities WHERE type = ?", type)

    async def add_succession(self, statement: dict[str, str], now: float) -> None:
        await self._rows.run("INSERT INTO successions (statement, made) VALUES (?, ?)", pack(statement), now)

    async def successions(self) -> list[dict[str, str]]:
        rows = await self._rows.all("SELECT statement FROM successions ORDER BY id")
        return [unpack(row["statement"]) for row in rows]

    async def drop_last_succession(self) -> None:
        await self._rows.run("DELETE FROM successions WHERE id = (SELECT MAX(id) FROM successions)")

    async def forget_successions(self) -> None:
        await self._rows.run("DELETE FROM successions")

    # ---------------------------------------------------------------- who has followed

    async def last_issued(self) -> dict[str, float]:
        """UUID → when the machine's newest certificate was issued, Unix seconds."""
        rows = await self._rows.all(
            "SELECT subject, MAX(issued) AS issued FROM certificates WHERE kind IN ('node', 'proxy') GROUP BY subject"
        )
        return {row["subject"]: float(row["issued"]) for row in rows}

    async def logins_from_before(self, since: float, now: float) -> dict[str, float]:
        """User → until when the last certificate is good that they got before ``since``; Unix seconds. Those alone who
        have one that is good ``now``."""
        rows = await self._rows.all(
            "SELECT subject, MAX(valid_before) AS until FROM certificates "
            "WHERE kind = 'user' AND issued < ? AND valid_before > ? GROUP BY subject ORDER BY subject",
            since,
            now,
        )
        return {row["subject"]: float(row["until"]) for row in rows}
