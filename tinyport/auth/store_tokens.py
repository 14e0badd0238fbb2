"""Rows about join tokens. The secret itself is never here, only its digest."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

from tinyport.auth.store_rows import Rows, pack, unpack


@dataclass(frozen=True)
class TokenRow:
    """A join token. ``type``: node or proxy; ``expires``: Unix seconds; ``cidr``: networks it may be used from."""

    id: str
    digest: str = field(repr=False)
    type: str
    created: float
    expires: float
    uses: int
    used: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    name_template: str = ""
    cidr: tuple[str, ...] = ()
    pending: bool = False
    #: UUID of the node whose place the device takes; "" for a node of its own
    replaces: str = ""
    #: boards (lower case) whose old places it gives back; others wait for an administrator
    serials: tuple[str, ...] = ()
    #: id of the copy that becomes a node of its own by it
    copy: str = ""


class TokenRows:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def get(self, id: str) -> TokenRow | None:
        row = await self._rows.one("SELECT * FROM tokens WHERE id = ?", id)
        return None if row is None else _token(row)

    async def all(self) -> list[TokenRow]:
        return [_token(row) for row in await self._rows.all("SELECT * FROM tokens ORDER BY created, id")]

    async def add(self, token: TokenRow) -> None:
        await self._rows.run(
            "INSERT INTO tokens (id, digest, type, created, expires, uses, used, labels, name_template, cidr, pending, "
            "replaces, copy, serials) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            token.id,
            token.digest,
            token.type,
            token.created,
            token.expires,
            token.uses,
            token.used,
            pack(dict(token.labels)),
            token.name_template,
            pack(list(token.cidr)),
            int(token.pending),
            token.replaces,
            token.copy,
            pack(list(token.serials)),
        )

    async def use(self, id: str, now: float) -> bool:
        """Take one use, if there is one left: a single statement, so two that race cannot both have the last."""
        changed = await self._rows.run(
            "UPDATE tokens SET used = used + 1 WHERE id = ? AND used < uses AND expires > ?", id, now
        )
        return changed == 1

    async def delete(self, id: str) -> bool:
        return await self._rows.run("DELETE FROM tokens WHERE id = ?", id) > 0

    async def delete_of_copy(self, copy: str) -> int:
        return await self._rows.run("DELETE FROM tokens WHERE copy = ?", copy)

    async def delete_expired_before(self, time: float) -> int:
        return await self._rows.run("DELETE FROM tokens WHERE expires < ?", time)


def _token(row: sqlite3.Row) -> TokenRow:
    return TokenRow(
        id=row["id"],
        digest=row["digest"],
        type=row["type"],
        created=row["created"],
        expires=row["expires"],
        uses=row["uses"],
        used=row["used"],
        labels=unpack(row["labels"]),
        name_template=row["name_template"],
        cidr=tuple(unpack(row["cidr"])),
        pending=bool(row["pending"]),
        replaces=row["replaces"],
        copy=row["copy"],
        serials=tuple(unpack(row["serials"])),
    )
