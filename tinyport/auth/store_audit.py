"""Rows about what happened: the audit log, which only grows at its end, and the sessions that are alive.

Each event's hash covers the event and the hash before it, so nothing can be changed, left out or put in without
every later hash telling; the newest hash is signed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinyport.auth.store_rows import Rows, pack, unpack
from tinyport.core.audit_chain import FIRST_HASH, canonical, chain


@dataclass(frozen=True)
class AuditQuery:
    """Which events. Times in Unix seconds, ``until`` not included; ``after`` an id, None: the newest ``limit``."""

    user: str | None = None
    node: str | None = None
    event: str | None = None
    since: float | None = None
    until: float | None = None
    after: int | None = None
    limit: int = 100


@dataclass(frozen=True)
class Checkpoint:
    """Everything up to event ``id`` was removed; ``hash`` was its. ``time``: when (Unix seconds)."""

    id: int
    hash: str
    time: float
    signed: Mapping[str, str]


@dataclass(frozen=True)
class LiveSession:
    """``body``: the node's session.start, and ``ended_by`` and ``ended_at`` once somebody has ended it."""

    node_uuid: str
    sid: str
    started: float
    body: Mapping[str, object]

    @property
    def ended_by(self) -> str | None:
        by = self.body.get("ended_by")
        return None if by is None else str(by)


class AuditRows:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def head(self) -> tuple[int, str]:
        """(id, hash) of the newest event; (0, FIRST_HASH) before the first."""
        row = await self._rows.one("SELECT id, hash FROM audit_head")
        return (0, FIRST_HASH) if row is None else (int(row["id"]), str(row["hash"]))

    async def signed_head(self) -> dict[str, str] | None:
        row = await self._rows.one("SELECT signed FROM audit_head")
        return None if row is None else dict(unpack(row["signed"]))

    async def append(self, events: Sequence[Mapping[str, object]]) -> tuple[int, str]:
        """Add events at the end; the new head, which the caller must sign and ``set_head``."""
        id, hash = await self.head()
        rows = []
        for event in events:
            body = canonical(event)
            id, hash = id + 1, chain(hash, body)
            rows.append((id, event["time"], event["event"], event.get("user"), event.get("node"), hash, body))
        await self._rows.many("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        return id, hash

    async def set_head(self, id: int, hash: str, signed: Mapping[str, str]) -> None:
        await self._rows.run("INSERT OR REPLACE INTO audit_head VALUES (1, ?, ?, ?)", id, hash, pack(dict(signed)))

    async def find(self, query: AuditQuery) -> list[dict[str, object]]:
        """Events with their ids, oldest first."""
        wanted = (
            ("user = ?", query.user),
            ("node = ?", query.node),
            ("event = ?", query.event),
            ("time >= ?", query.since),
            ("time < ?", query.until),
            ("id > ?", query.after),
        )
        conditions = [(text, value) for text, value in wanted if value is not None]
        where = " AND ".join(text for text, _ in conditions) or "1"
        order = "ASC" if query.after is not None else "DESC"
        # Only the fixed texts above come into the statement.
        rows = await self._rows.all(
            f"SELECT id, body FROM audit WHERE {where} ORDER BY id {order} LIMIT ?",  # noqa: S608
            *(value for _, value in conditions),
            query.limit,
        )
        events = [{"id": row["id"], **unpack(row["body"])} for row in rows]
        return events if query.after is not None else events[::-1]

    async def chained(self, after: int, until: int, limit: int) -> list[tuple[int, str, dict[str, object]]]:
        """(id, hash, event) of events after ``after`` up to ``until``, at most ``limit``, oldest first."""
        rows = await self._rows.all(
            "SELECT id, hash, body FROM audit WHERE id > ? AND id <= ? ORDER BY id LIMIT ?", after, until, limit
        )
        return [(int(row["id"]), str(row["hash"]), unpack(row["body"])) for row in rows]

    async def hash_of(self, id: int) -> str | None:
        """The hash of one event; FIRST_HASH for 0, None when there is no such event, or no more."""
        if id == 0:
            return FIRST_HASH
        row = await self._rows.one(
            "SELECT hash FROM audit WHERE id = ? UNION SELECT hash FROM audit_checkpoints WHERE id = ?", id, id
        )
        return None if row is None else str(row["hash"])

    async def broken_at(self, page: int = 1000) -> int | None:
        """Walk the whole chain, from the last checkpoint if there is one; the id of the first event that does not
        follow from the one before, None when all do and the last one is the head."""
        begin = await self.checkpoint()
        id, hash = (0, FIRST_HASH) if begin is None else (begin.id, begin.hash)
        while rows := await self._rows.all(
            "SELECT id, hash, body FROM audit WHERE id > ? ORDER BY id LIMIT ?", id, page
        ):
            for row in rows:
                if row["id"] != id + 1 or chain(hash, row["body"]) != row["hash"]:
                    return id + 1
                id, hash = row["id"], row["hash"]
        return None if (id, hash) == await self.head() else id + 1

    # ---------------------------------------------------------------- its beginning

    async def checkpoint(self, until: int | None = None) -> Checkpoint | None:
        """The newest; that up to event ``until``."""
        row = await self._rows.one(
            "SELECT id, hash, time, signed FROM audit_checkpoints WHERE id <= ? ORDER BY id DESC LIMIT 1",
            2**62 if until is None else until,
        )
        return None if row is None else Checkpoint(row["id"], row["hash"], row["time"], unpack(row["signed"]))

    async def oldest(self, limit: int) -> list[tuple[int, str, float]]:
        """(id, hash, when auth got it) of the oldest events; the times in them are words of their senders."""
        rows = await self._rows.all("SELECT id, hash, body FROM audit ORDER BY id LIMIT ?", limit)
        found = []
        for row in rows:
            event = unpack(row["body"])
            found.append((int(row["id"]), str(row["hash"]), float(event.get("received", event["time"]))))
        return found

    async def prune(self, checkpoint: Checkpoint) -> int:
        """Remove what the checkpoint speaks of; how many events that were."""
        await self._rows.run(
            "INSERT INTO audit_checkpoints VALUES (?, ?, ?, ?)",
            checkpoint.id,
            checkpoint.hash,
            checkpoint.time,
            pack(dict(checkpoint.signed)),
        )
        return await self._rows.run("DELETE FROM audit WHERE id <= ?", checkpoint.id)

    # ---------------------------------------------------------------- batches of events from nodes

    async def batch(self, sender: str, batch: str) -> int | None:
        """How many events of this batch were taken; None when it was never seen."""
        row = await self._rows.one("SELECT accepted FROM event_batches WHERE sender = ? AND batch = ?", sender, batch)
        return None if row is None else int(row["accepted"])

    async def add_batch(self, sender: str, batch: str, now: float, accepted: int) -> None:
        await self._rows.run("INSERT INTO event_batches VALUES (?, ?, ?, ?)", sender, batch, now, accepted)

    async def delete_batches_before(self, time: float) -> int:
        return await self._rows.run("DELETE FROM event_batches WHERE received < ?", time)

    # ---------------------------------------------------------------- live sessions

    async def session_started(self, node_uuid: str, sid: str, time: float, body: Mapping[str, object]) -> None:
        await self._rows.run(
            "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)", node_uuid, sid, time, pack(dict(body))
        )

    async def session_ended(self, node_uuid: str, sid: str) -> bool:
        """Was it there, and ended by somebody, so that its node's document names it?"""
        row = await self._rows.one("SELECT body FROM sessions WHERE node_uuid = ? AND sid = ?", node_uuid, sid)
        await self._rows.run("DELETE FROM sessions WHERE node_uuid = ? AND sid = ?", node_uuid, sid)
        return row is not None and "ended_by" in unpack(row["body"])

    async def end_session(self, session: LiveSession, by: str, now: float) -> None:
        """Note that somebody ended it; it lives until its node says that it ended."""
        await self._change(session, {"ended_by": by, "ended_at": now})

    async def set_parties(self, session: LiveSession, parties: Sequence[Mapping[str, object]]) -> None:
        await self._change(session, {"parties": [dict(party) for party in parties]})

    async def _change(self, session: LiveSession, news: Mapping[str, object]) -> None:
        await self._rows.run(
            "UPDATE sessions SET body = ? WHERE node_uuid = ? AND sid = ?",
            pack({**session.body, **news}),
            session.node_uuid,
            session.sid,
        )

    async def forget_sessions(self, node_uuid: str) -> None:
        await self._rows.run("DELETE FROM sessions WHERE node_uuid = ?", node_uuid)

    async def live_sessions(self, node_uuid: str | None = None) -> list[LiveSession]:
        """Of one node, or all; the oldest first."""
        rows = await self._rows.all(
            "SELECT node_uuid, sid, started, body FROM sessions WHERE node_uuid = ? OR ? IS NULL ORDER BY started, sid",
            node_uuid,
            node_uuid,
        )
        return [LiveSession(row["node_uuid"], row["sid"], float(row["started"]), unpack(row["body"])) for row in rows]
