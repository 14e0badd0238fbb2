"""Rows about devices that were registered in advance: who they will be once they join."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

from tinyport.auth.store_rows import Rows, pack, unpack

#: by what a device is recognised: its SSH host key (which it proves), or the serial number of its board (which it says)
KINDS = ("key", "serial")
#: instead of the node of a device that is not it any more; no node has it
GIVEN_UP = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class RegistrationRow:
    """``value``: an SSH key's fingerprint, or a serial number in lower case. ``node``: the UUID it became, None until
    it joined. ``name``: "" for what the token or the device says. Times: Unix seconds.
    """

    id: str
    kind: str
    value: str
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    created: float = 0.0
    node: str | None = None


class RegistrationRows:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def all(self) -> list[RegistrationRow]:
        """Those that still wait for their device, then the others; by value."""
        rows = await self._rows.all("SELECT * FROM registrations ORDER BY node IS NOT NULL, kind, value")
        return [_registration(row) for row in rows]

    async def find(self, kind: str, value: str) -> RegistrationRow | None:
        row = await self._rows.one("SELECT * FROM registrations WHERE kind = ? AND value = ?", kind, value)
        return None if row is None else _registration(row)

    async def named(self, name: str) -> RegistrationRow | None:
        """The one that waits for its device with that name."""
        row = await self._rows.one("SELECT * FROM registrations WHERE name = ? AND node IS NULL", name)
        return None if row is None else _registration(row)

    async def put(self, row: RegistrationRow) -> bool:
        """Add it; one for the same device that nobody has used is replaced. False when a device has come for it before:
        whoever was removed must not be let in again by an old list.
        """
        await self._rows.run(
            "DELETE FROM registrations WHERE kind = ? AND value = ? AND node IS NULL", row.kind, row.value
        )
        if await self.find(row.kind, row.value) is not None:
            return False
        await self._rows.run(
            "INSERT INTO registrations (id, kind, value, name, labels, created, node) VALUES (?, ?, ?, ?, ?, ?, NULL)",
            row.id,
            row.kind,
            row.value,
            row.name,
            pack(row.labels),
            row.created,
        )
        return True

    async def put_joined(self, row: RegistrationRow) -> None:
        """Add one whose device has just come (``row.node``), with a token."""
        await self._rows.run(
            "INSERT INTO registrations (id, kind, value, name, labels, created, node) VALUES (?, ?, ?, ?, ?, ?, ?)",
            row.id,
            row.kind,
            row.value,
            row.name,
            pack(row.labels),
            row.created,
            row.node,
        )

    async def use(self, id: str, node: str) -> bool:
        """The device has come and is this node. False when one has come before."""
        return await self._rows.run("UPDATE registrations SET node = ? WHERE id = ? AND node IS NULL", node, id) > 0

    async def give_up_keys(self, node: str, but: str) -> None:
        """Another device is this node now, or it has another key: none by which it was known is good for anything, but
        for the one with this fingerprint.
        """
        await self._rows.run(
            "UPDATE registrations SET node = ? WHERE kind = 'key' AND node = ? AND value <> ?", GIVEN_UP, node, but
        )

    async def delete(self, id: str) -> bool:
        return await self._rows.run("DELETE FROM registrations WHERE id = ?", id) > 0


def _registration(row: sqlite3.Row) -> RegistrationRow:
    labels = unpack(str(row["labels"]))
    return RegistrationRow(
        id=str(row["id"]),
        kind=str(row["kind"]),
        value=str(row["value"]),
        name=str(row["name"]),
        labels={str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {},
        created=float(str(row["created"])),
        node=None if row["node"] is None else str(row["node"]),
    )
