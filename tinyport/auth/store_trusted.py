"""Rows about trusted clusters."""

from __future__ import annotations

from dataclasses import dataclass

from tinyport.auth.store_rows import Rows, pack, unpack
from tinyport.core.trust import TrustedCluster, parse_trusted_cluster


@dataclass(frozen=True)
class TrustedRow:
    """``from_file``: the configuration file names it, so nobody else changes it."""

    cluster: TrustedCluster
    from_file: bool


class TrustedRows:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def all(self) -> list[TrustedRow]:
        rows = await self._rows.all("SELECT document, from_file FROM trusted_clusters ORDER BY name")
        return [TrustedRow(parse_trusted_cluster(unpack(row["document"])), bool(row["from_file"])) for row in rows]

    async def put(self, row: TrustedRow) -> None:
        await self._rows.run(
            "INSERT OR REPLACE INTO trusted_clusters VALUES (?, ?, ?)",
            row.cluster.name,
            pack(row.cluster.document),
            int(row.from_file),
        )

    async def delete(self, name: str) -> bool:
        return await self._rows.run("DELETE FROM trusted_clusters WHERE name = ?", name) > 0
