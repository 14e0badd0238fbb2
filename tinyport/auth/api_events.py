"""Routes for what nodes and proxies say: that something happened on them."""

from __future__ import annotations

from collections.abc import Mapping

from tinyport.auth import live_sessions
from tinyport.auth.callers import NODE, PROXY
from tinyport.auth.fields import one_line
from tinyport.auth.store_rows import pack
from tinyport.auth.web import Answer, Call
from tinyport.core.events import CODES, LIVING

MAX_BATCH = 500
MAX_EVENT = 16 * 1024
# So many times as much does a byte of a pending node count: it has no sessions to tell of.
PENDING_COSTS = 8
# A node whose clock is off by more than this is shown with the time of arrival, too.
LATEST = 2.0**40

_OF_SESSIONS = ("session.", "exec", "port", "agent.", "x11.", "sftp")
#: what each kind of sender may speak of; everything else is auth's own to say
MAY_SAY: dict[str, frozenset[str]] = {
    NODE: frozenset(
        name
        for name in CODES
        if (name.startswith(_OF_SESSIONS) and name != "session.kill")
        or name in ("auth.failed", "access.denied", "break_glass.use", "events.lost")
    )
    | {LIVING},
    PROXY: frozenset(
        (
            *("auth.failed", "access.denied", "port", "port.failed", "events.lost"),
            *("trusted_cluster.online", "trusted_cluster.offline", "trusted_cluster.use"),
        )
    ),
}
#: stamped by us, whatever the sender wrote
_STAMPED = (
    "id",
    "code",
    "cluster",
    "received",
    "node",
    "node_uuid",
    "proxy",
    "proxy_uuid",
    "sender",
    "ended_by",
    "ended_at",
    "parties",
)


async def policy(call: Call) -> Answer:
    """The signed policy."""
    return call.service.issuer.signed


def _stamp(call: Call, item: object, now: float) -> Mapping[str, object] | None:
    """An event as it goes into the log, or None when the sender may not say this.

    A node speaks of itself alone; a proxy may name the node that it refused to reach, as ``target``.
    """
    caller = call.caller
    if not isinstance(item, dict) or len(item) > 64:
        return None
    name = item.get("event")
    if not isinstance(name, str) or name not in MAY_SAY[caller.kind] or len(pack(item)) > MAX_EVENT:
        return None
    stated = item.get("time")
    known = isinstance(stated, (int, float)) and not isinstance(stated, bool) and 0 <= stated < LATEST
    body = {key: value for key, value in item.items() if key not in _STAMPED}
    stamps: dict[str, object] = {
        "code": CODES.get(name),
        "cluster": call.service.cluster,
        "time": stated if known else now,
        "received": round(now, 3),
        caller.kind: caller.name,
        f"{caller.kind}_uuid": caller.uuid,
    }
    # A user of a trusted cluster has its name behind: 64 + 1 + 100.
    for key, limit in (("user", 192), ("login", 64)):
        if key in body:
            body[key] = one_line(body[key], limit)
    return {**body, **stamps}


async def take_events(call: Call) -> Answer:
    """A batch, whole or not at all; the same batch again is thanked for and not stored twice."""
    service, caller = call.service, call.caller
    batch = call.fields.text("batch", 128)
    items = call.fields.items("events", MAX_BATCH)
    now = service.now()
    if caller.kind == NODE:
        node = await service.store.read.nodes.get(caller.uuid)
        # Nobody has looked at one that is pending, and there may be many.
        waits = node is None or node.state == "pending"
        service.pace.take(caller.uuid, len(call.data) * (PENDING_COSTS if waits else 1), service.settings.monotonic())
    said = [event for event in (_stamp(call, item, now) for item in items) if event is not None]
    # What is no event changes what is known of live sessions, at its place among the events.
    stamped = [event for event in said if event["event"] != LIVING]
    async with service.store.write() as tables:
        before = await tables.audit.batch(caller.uuid, batch)
        if before is not None:
            return {"accepted": before}
        await service.audit.append(tables, stamped)
        refused = len(items) - len(said)
        if refused:
            # Not an error: a node that gets one would send the same batch for ever.
            await service.audit.record(
                tables, "events.lost", sender=caller.actor, count=refused, reason="not for this sender to say"
            )
        if caller.kind == NODE:
            await live_sessions.follow(service, tables, caller.uuid, said)
        await tables.audit.add_batch(caller.uuid, batch, now, len(stamped))
    return {"accepted": len(stamped)}
