"""Routes about the audit log: finding, following, exporting, checking."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tinyport.auth.api_events import LATEST, MAX_BATCH
from tinyport.auth.refusals import not_found
from tinyport.auth.service import Service
from tinyport.auth.store_audit import AuditQuery, Checkpoint
from tinyport.auth.web import KEEPALIVE, Answer, Call, Lines, stream
from tinyport.core.audit_chain import CHECKPOINT, FIRST_HASH, export_end, export_event, export_start, open_head
from tinyport.core.errors import PeerError
from tinyport.core.events import CODES

MAX_FOUND = 1000


def _query(call: Call) -> AuditQuery:
    type_ = call.query("type", 64)
    if type_ is not None and type_ not in CODES:
        raise PeerError("type: there is no such event", hint=f"one of {', '.join(sorted(CODES))}")
    after = call.query_number("after", 0, 2**53)
    return AuditQuery(
        user=call.query("user", 64),
        node=call.query("node", 64),
        event=type_,
        since=call.query_number("since", 0, LATEST),
        until=call.query_number("until", 0, LATEST),
        after=None if after is None else int(after),
        limit=int(call.query_number("limit", 1, MAX_FOUND) or 100),
    )


async def audit(call: Call) -> Answer:
    """Events, oldest first: the newest ``limit``, or the first ``limit`` after an id."""
    query = _query(call)
    if call.query("follow") == "1":
        return await stream(Lines(call, ("audit", "read")), lambda lines: _follow(call, query, lines))
    rows = call.service.store.read.audit
    events = await rows.find(query)
    head, _ = await rows.head()
    last = events[-1]["id"] if events else (query.after if query.after is not None else head)
    return {"events": events, "last": last}


async def audit_head(call: Call) -> Answer:
    """The newest event's id and hash, signed: whoever keeps it can tell later whether the log was changed."""
    rows = call.service.store.read.audit
    begin = await rows.checkpoint()
    broken = await rows.broken_at()
    if begin is not None and not _stands(call.service, begin):
        broken = begin.id
    return {
        "head": await rows.signed_head(),
        "broken_at": broken,
        "checkpoint": None if begin is None else begin.signed,
    }


def _stands(service: Service, begin: Checkpoint) -> bool:
    """Is the checkpoint what we signed?"""
    try:
        signed = open_head(begin.signed, [service.authority.policy_key_blob], service.cluster, CHECKPOINT)
    except PeerError:
        return False
    return (signed.id, signed.hash) == (begin.id, begin.hash)


async def _follow(call: Call, query: AuditQuery, lines: Lines) -> None:
    service = call.service
    rows = service.store.read.audit
    at = query.after
    if at is None:
        # What is asked for with ``since`` is told from there on, else only what comes from now on.
        at = 0 if query.since is not None else (await rows.head())[0]
    said = service.settings.monotonic()
    while not service.closing.is_set():
        growth = service.audit.growth()
        found = await rows.find(
            AuditQuery(query.user, query.node, query.event, query.since, query.until, at, MAX_BATCH)
        )
        if found:
            await lines.send(*found)
            at = int(str(found[-1]["id"]))
        if service.settings.monotonic() - said >= KEEPALIVE:
            await lines.keepalive()
            said = service.settings.monotonic()
        if len(found) < MAX_BATCH:
            try:
                await asyncio.wait_for(growth.wait(), 1.0)
            except asyncio.TimeoutError:
                continue


async def audit_hash(call: Call) -> Answer:
    """The hash of one event: does the log still hold what an export from long ago holds? Of one that was removed: that
    of the last before it which is still known."""
    id = int(call.query_number("id", 0, 2**53) or 0)
    rows = call.service.store.read.audit
    hash = await rows.hash_of(id)
    if hash is None:
        known = await rows.checkpoint(until=id)
        newest = await rows.checkpoint()
        if newest is None or id > newest.id:
            raise not_found("event", str(id))
        return {"id": known.id, "hash": known.hash} if known is not None else {"id": 0, "hash": FIRST_HASH}
    return {"id": id, "hash": hash}


async def export(call: Call) -> Answer:
    """The whole log, or what came after an event, as it can be checked anywhere (docs/protocol/audit.md)."""
    after = int(call.query_number("after", 0, 2**53) or 0)
    rows = call.service.store.read.audit
    begin = await rows.checkpoint()
    if begin is not None and after < begin.id:
        if after:
            raise PeerError(
                f"after: what came before event {begin.id + 1} was removed",
                hint=f"--after {begin.id}, or all that there is without --after",
                code="not_found",
            )
        after = begin.id
    previous = await rows.hash_of(after)
    if previous is None:
        raise not_found("event", str(after))
    checkpoint = begin.signed if begin is not None and after == begin.id else None
    start = export_start(call.service.cluster, after, previous, checkpoint)
    return await stream(Lines(call, ("audit", "read")), lambda lines: _export(call, after, start, lines))


async def _export(call: Call, after: int, start: Mapping[str, object], lines: Lines) -> None:
    rows = call.service.store.read.audit
    # First the end, then what leads to it: the log may grow meanwhile.
    head, (last, _) = await rows.signed_head(), await rows.head()
    await lines.send(start)
    at = after
    while found := await rows.chained(at, last, MAX_BATCH):
        await lines.send(*(export_event(*row) for row in found))
        at = found[-1][0]
    if head is not None:
        await lines.send(export_end(head))
