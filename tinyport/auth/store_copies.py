"""Rows about copies: second devices that have a node's identity."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from tinyport.auth.store_rows import Rows, pack, unpack


@dataclass(frozen=True)
class CopyRow:
    """``node``: UUID of the node whose identity it has; ``instance``: its process; ``peer``: from where its tunnel last
    came. ``split``: what it becomes at its next contact (``name_template``, ``labels``, ``pending``), None before an
    administrator has said; ``became``: the UUID that it got. Times: Unix seconds.
    """

    id: str
    node: str
    instance: str
    found: float
    seen: float
    peer: str = ""
    split: Mapping[str, object] | None = None
    became: str = ""

    @property
    def place(self) -> str:
        """UUID of the node whose place a pending one takes; "" for what is a copy indeed."""
        return str((self.split or {}).get("place") or "")


class CopyRows:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def of(self, node: str) -> list[CopyRow]:
        """The copies of a node, the first found first; those that became nodes of their own, too."""
        return [
            _copy(row) for row in await self._rows.all("SELECT * FROM copies WHERE node = ? ORDER BY found, id", node)
        ]

    async def open(self) -> dict[str, list[CopyRow]]:
        """Node → its copies that are none of their own yet."""
        found: dict[str, list[CopyRow]] = {}
        for row in await self._rows.all("SELECT * FROM copies WHERE became = '' ORDER BY found, id"):
            found.setdefault(row["node"], []).append(_copy(row))
        return found

    async def add(self, copy: CopyRow) -> None:
        await self._rows.run(
            "INSERT INTO copies (id, node, instance, found, seen, peer) VALUES (?, ?, ?, ?, ?, ?)",
            copy.id,
            copy.node,
            copy.instance,
            copy.found,
            copy.seen,
            copy.peer,
        )

    async def started_again(self, id: str, instance: str, seen: float) -> None:
        """The same device with another process."""
        await self._rows.run("UPDATE copies SET instance = ?, seen = ? WHERE id = ?", instance, seen, id)

    async def are_one(self, left: CopyRow, again: CopyRow) -> None:
        """Two rows are of one device, whose later process is that of ``again``: what an administrator has said of the
        former holds for it."""
        await self._rows.run("DELETE FROM copies WHERE id = ?", left.id)
        split = again.split if again.split is not None else left.split
        await self._rows.run(
            "UPDATE copies SET found = ?, split = ? WHERE id = ?",
            left.found,
            "" if split is None else pack(dict(split)),
            again.id,
        )

    async def saw(self, node: str, instance: str, seen: float, peer: str) -> None:
        await self._rows.run(
            "UPDATE copies SET seen = max(seen, ?), peer = CASE ? WHEN '' THEN peer ELSE ? END "
            "WHERE node = ? AND instance = ?",
            seen,
            peer,
            peer,
            node,
            instance,
        )

    async def split(self, id: str, terms: Mapping[str, object]) -> None:
        await self._rows.run("UPDATE copies SET split = ? WHERE id = ?", pack(dict(terms)), id)

    async def became(self, id: str, uuid: str) -> CopyRow | None:
        """It is a node of its own from now on; None when there is no such copy."""
        await self._rows.run("UPDATE copies SET became = ? WHERE id = ?", uuid, id)
        row = await self._rows.one("SELECT * FROM copies WHERE id = ?", id)
        return None if row is None else _copy(row)

    async def forget(self, node: str) -> int:
        """There are no copies of this node."""
        return await self._rows.run("DELETE FROM copies WHERE node = ?", node)

    async def delete_settled_before(self, time: float) -> int:
        """Those that became nodes of their own, and were not heard with the old identity since."""
        return await self._rows.run("DELETE FROM copies WHERE became <> '' AND seen < ?", time)


def _copy(row: sqlite3.Row) -> CopyRow:
    split = unpack(row["split"]) if row["split"] else None
    return CopyRow(
        id=row["id"],
        node=row["node"],
        instance=row["instance"],
        found=row["found"],
        seen=row["seen"],
        peer=row["peer"],
        split=split if isinstance(split, dict) else None,
        became=row["became"],
    )
