"""Rows about what nodes cost on the wire: by day for two months, then by month; and where each proxy's count stood.

Days come first in the key: ten thousand nodes that are written together are pages that lie together, half a megabyte
and not twenty. Days are counted from 1970-01-01, months from January of the year 0, UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from tinyport.auth.store_rows import Rows

_EPOCH = date(1970, 1, 1).toordinal()


def month_of(day: int) -> int:
    found = date.fromordinal(_EPOCH + day)
    return found.year * 12 + found.month - 1


def name_of(day: int) -> str:
    """2026-01-31"""
    return date.fromordinal(_EPOCH + day).isoformat()


def first_day(month: int) -> int:
    return date(month // 12, month % 12 + 1, 1).toordinal() - _EPOCH


@dataclass(frozen=True)
class DayRow:
    node: str
    day: int
    bytes: int


@dataclass(frozen=True)
class MeterRow:
    """A proxy has counted ``bytes`` of the node since ``since`` (Unix seconds)."""

    node: str
    proxy: str
    bytes: int
    since: float


@dataclass(frozen=True)
class SumRow:
    """``told``: the last day of which the audit log says that it was over budget, 0 for none."""

    node: str
    today: int
    yesterday: int
    month: int
    last_month: int
    told: int


class TrafficRows:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def add(self, days: Iterable[DayRow]) -> None:
        await self._rows.many(
            "INSERT INTO traffic_days (day, node, bytes) VALUES (?, ?, ?) "
            "ON CONFLICT (day, node) DO UPDATE SET bytes = bytes + excluded.bytes",
            [(row.day, row.node, row.bytes) for row in days],
        )

    async def set_meters(self, meters: Iterable[MeterRow]) -> None:
        await self._rows.many(
            "INSERT OR REPLACE INTO traffic_meters (node, proxy, bytes, since) VALUES (?, ?, ?, ?)",
            [(row.node, row.proxy, row.bytes, row.since) for row in meters],
        )

    async def tell(self, days: Iterable[tuple[str, int]]) -> None:
        """The audit log says of these (node, day) that they are over budget."""
        await self._rows.many("UPDATE traffic_days SET told = 1 WHERE node = ? AND day = ?", list(days))

    async def meters(self) -> list[MeterRow]:
        rows = await self._rows.all("SELECT node, proxy, bytes, since FROM traffic_meters")
        return [MeterRow(row["node"], row["proxy"], int(row["bytes"]), float(row["since"])) for row in rows]

    async def sums(self, day: int) -> list[SumRow]:
        """Of all nodes, as of ``day``."""
        month = first_day(month_of(day))
        before = first_day(month_of(day) - 1)
        rows = await self._rows.all(
            "SELECT node, sum(bytes * (day = ?)) AS today, sum(bytes * (day = ?)) AS yesterday, "
            "sum(bytes * (day >= ?)) AS month, sum(bytes * (day < ?)) AS last_month, max(day * told) AS told "
            "FROM traffic_days WHERE day >= ? AND day <= ? GROUP BY node",
            day,
            day - 1,
            month,
            month,
            before,
            day,
        )
        return [SumRow(**dict(row)) for row in rows]

    async def days_of(self, node: str) -> list[DayRow]:
        """The days that are kept, oldest first."""
        rows = await self._rows.all("SELECT node, day, bytes FROM traffic_days WHERE node = ? ORDER BY day", node)
        return [DayRow(**dict(row)) for row in rows]

    async def months_of(self, node: str) -> dict[int, int]:
        """Month → bytes, of days that are not kept any more."""
        rows = await self._rows.all("SELECT month, bytes FROM traffic_months WHERE node = ? ORDER BY month", node)
        return {int(row["month"]): int(row["bytes"]) for row in rows}

    async def prune(self, day: int, month: int) -> None:
        """Days before ``day`` become part of their months; months before ``month`` and what was left of removed nodes
        go."""
        old = await self._rows.all("SELECT DISTINCT day FROM traffic_days WHERE day < ?", day)
        for row in old:
            await self._rows.run(
                "INSERT INTO traffic_months (month, node, bytes) SELECT ?, node, bytes FROM traffic_days WHERE day = ? "
                "ON CONFLICT (month, node) DO UPDATE SET bytes = bytes + excluded.bytes",
                month_of(int(row["day"])),
                row["day"],
            )
        if old:
            await self._rows.run("DELETE FROM traffic_days WHERE day < ?", day)
            await self._rows.run("DELETE FROM traffic_months WHERE month < ?", month)
            await self._rows.run("DELETE FROM traffic_meters WHERE node NOT IN (SELECT uuid FROM nodes)")
