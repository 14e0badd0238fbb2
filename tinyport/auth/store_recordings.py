"""Rows about recordings: what each is of, and how it ended. What was shown is in files (``recording_files``)."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tinyport.auth.store_rows import Rows, pack, unpack

LIVE, COMPLETE, INCOMPLETE = "live", "complete", "incomplete"
#: "incomplete" of a recording that nobody sent the end of; it goes on when its node does
GIVEN_UP = "given_up"
MOST_PARTIES = 64
# However little is in one: a million of those are no small thing either.
BLOCK = 4096


@dataclass(frozen=True)
class RecordingRow:
    """``ended``, ``seconds`` and the figures are those of the end; of a live one, what ``Recordings`` knows is newer.

    ``shown``: bytes of output that are stored; ``lost``: that are not; ``size``: of the file. Times in Unix seconds.
    """

    id: str
    node_uuid: str
    node: str
    user: str
    login: str
    kind: str
    started: float
    body: Mapping[str, object]
    ended: float | None = None
    seconds: float = 0.0
    shown: int = 0
    lost: int = 0
    size: int = 0
    state: str = LIVE

    @property
    def parties(self) -> list[dict[str, object]]:
        found = self.body.get("parties")
        return [dict(one) for one in found if isinstance(one, dict)] if isinstance(found, list) else []


@dataclass(frozen=True)
class RecordingQuery:
    """Which recordings, the newest first. ``until`` not included; ``after``: the last id of the page before."""

    user: str | None = None
    node: str | None = None
    login: str | None = None
    since: float | None = None
    until: float | None = None
    after: str | None = None
    limit: int = 100


class RecordingRows:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def get(self, id: str) -> RecordingRow | None:
        row = await self._rows.one("SELECT * FROM recordings WHERE id = ?", id)
        return None if row is None else _recording(row)

    async def beginning_with(self, prefix: str, limit: int) -> list[RecordingRow]:
        """``prefix``: hexadecimal digits."""
        rows = await self._rows.all(
            "SELECT * FROM recordings WHERE id >= ? AND id < ? ORDER BY id LIMIT ?", prefix, prefix + "g", limit
        )
        return [_recording(row) for row in rows]

    async def find(self, query: RecordingQuery) -> list[RecordingRow]:
        wanted = (
            ("user = ?", query.user),
            ("node = ?", query.node),
            ("login = ?", query.login),
            ("started >= ?", query.since),
            ("started < ?", query.until),
            ("(started, id) < (SELECT started, id FROM recordings WHERE id = ?)", query.after),
        )
        conditions = [(text, value) for text, value in wanted if value is not None]
        where = " AND ".join(text for text, _ in conditions) or "1"
        # Only the fixed texts above come into the statement.
        rows = await self._rows.all(
            f"SELECT * FROM recordings WHERE {where} ORDER BY started DESC, id DESC LIMIT ?",  # noqa: S608
            *(value for _, value in conditions),
            query.limit,
        )
        return [_recording(row) for row in rows]

    async def live(self, node_uuid: str | None = None) -> list[RecordingRow]:
        rows = await self._rows.all(
            "SELECT * FROM recordings WHERE state = ? AND (node_uuid = ? OR ? IS NULL)", LIVE, node_uuid, node_uuid
        )
        return [_recording(row) for row in rows]

    async def put(self, recording: RecordingRow) -> None:
        await self._rows.run(
            "INSERT OR REPLACE INTO recordings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            recording.id,
            recording.node_uuid,
            recording.node,
            recording.user,
            recording.login,
            recording.kind,
            recording.started,
            recording.ended,
            recording.seconds,
            recording.shown,
            recording.lost,
            recording.size,
            recording.state,
            pack(dict(recording.body)),
        )

    async def add_party(self, node_uuid: str, id: str, party: Mapping[str, object]) -> None:
        """Somebody has joined: whoever was there once is part of what is known of it."""
        found = await self.get(id)
        if found is None or found.node_uuid != node_uuid or party in found.parties:
            return
        parties = [*found.parties, dict(party)]
        if len(parties) <= MOST_PARTIES:
            await self.put(replace(found, body={**found.body, "parties": parties}))

    async def delete(self, id: str) -> bool:
        return await self._rows.run("DELETE FROM recordings WHERE id = ?", id) == 1

    # ---------------------------------------------------------------- how much there is

    async def size(self) -> int:
        """Bytes of all files whose sessions have ended, each at least a block of the disk."""
        row = await self._rows.one("SELECT COALESCE(SUM(MAX(size, ?)), 0) AS size FROM recordings", BLOCK)
        return 0 if row is None else int(row["size"])

    async def size_by_node(self, most: int) -> Sequence[tuple[str, int]]:
        """(node, bytes) of those that have most, counted so."""
        rows = await self._rows.all(
            "SELECT node_uuid, SUM(MAX(size, ?)) AS total FROM recordings"
            " GROUP BY node_uuid ORDER BY total DESC LIMIT ?",
            BLOCK,
            most,
        )
        return [(str(row["node_uuid"]), int(row["total"])) for row in rows]

    async def oldest(self, node_uuid: str | None, limit: int, before: float | None = None) -> list[RecordingRow]:
        """Those that began first, of a node or of all, that began before ``before``; none that is live."""
        rows = await self._rows.all(
            "SELECT * FROM recordings WHERE state <> ? AND (node_uuid = ? OR ? IS NULL) AND (started < ? OR ? IS NULL)"
            " ORDER BY started, id LIMIT ?",
            LIVE,
            node_uuid,
            node_uuid,
            before,
            before,
            limit,
        )
        return [_recording(row) for row in rows]


def _recording(row: sqlite3.Row) -> RecordingRow:
    ended = row["ended"]
    return RecordingRow(
        row["id"],
        row["node_uuid"],
        row["node"],
        row["user"],
        row["login"],
        row["kind"],
        float(row["started"]),
        unpack(row["body"]),
        None if ended is None else float(ended),
        float(row["seconds"]),
        int(row["shown"]),
        int(row["lost"]),
        int(row["size"]),
        row["state"],
    )
