"""The sessions that are alive, as their nodes say: begun, ended, and those that nobody will ever say have ended.

Ending one is a word in its node's signed document (``ended``), so a proxy can neither forge nor forget it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinyport.auth.service import Service
from tinyport.auth.store import WriteTables
from tinyport.auth.store_audit import LiveSession
from tinyport.core.events import LIVING, MAX_LIVING, UID_SEPARATOR
from tinyport.core.session_joining import MODES

# A machine that was away for longer has hardly kept a session.
FORGOTTEN_AFTER = 24 * 3600.0
MOST_PARTIES = 64
# A node that is here ends a session within seconds. One that does not say so has none by that id.
ENDED_BY_NOW = 60.0


def is_lost(service: Service, session: LiveSession) -> bool:
    """Is its node away, so that nobody knows whether the session lives?"""
    settled = service.presence.settled(service.settings.monotonic())
    return settled and not service.presence.online(session.node_uuid)


async def follow(service: Service, tables: WriteTables, node_uuid: str, events: Sequence[Mapping[str, object]]) -> None:
    """Keep the table of live sessions by what their node says."""
    shrunk = False
    for event in events:
        shrunk |= await _restarted(service, tables, node_uuid, event)
        if event["event"] == LIVING:
            shrunk |= await _counted(service, tables, node_uuid, event)
        sid = event.get("sid")
        if not isinstance(sid, str) or not 1 <= len(sid) <= 64:
            continue
        if event["event"] == "session.start":
            await tables.audit.session_started(node_uuid, sid, float(str(event["time"])), event)
        elif event["event"] in ("session.join", "session.leave"):
            await _party(tables, node_uuid, sid, event)
            if event["event"] == "session.join":
                party = {"user": event.get("user"), "mode": event.get("mode") if event.get("mode") in MODES else None}
                await tables.recordings.add_party(node_uuid, sid, party)
        elif event["event"] == "session.end":
            shrunk |= await tables.audit.session_ended(node_uuid, sid)
    if shrunk:
        await service.issuer.refresh_node(tables, node_uuid)


async def _party(tables: WriteTables, node_uuid: str, sid: str, event: Mapping[str, object]) -> None:
    """Who looks on in a session is part of what is known of it."""
    found = [one for one in await tables.audit.live_sessions(node_uuid) if one.sid == sid]
    if not found:
        return
    there = found[0].body.get("parties")
    number = event.get("party")
    parties = [one for one in there if one.get("party") != number] if isinstance(there, list) else []
    if event["event"] == "session.join" and len(parties) < MOST_PARTIES:
        mode = event.get("mode") if event.get("mode") in MODES else None
        parties.append({"user": event.get("user"), "mode": mode, "party": number if isinstance(number, int) else 0})
    await tables.audit.set_parties(found[0], parties)


async def _restarted(service: Service, tables: WriteTables, node_uuid: str, event: Mapping[str, object]) -> bool:
    """A machine that has booted since has none of its earlier sessions. Was one closed?"""
    boot = event.get("boot")
    if not isinstance(boot, str) or not 1 <= len(boot) <= 64 or service.boots.get(node_uuid) == boot:
        return False
    tables.after_commit(lambda: service.boots.update({node_uuid: boot}))
    stated = float(str(event["time"]))
    gone = [
        session
        for session in await tables.audit.live_sessions(node_uuid)
        # What a spool kept from before the restart comes later, and is older.
        if session.body.get("boot") not in (None, boot) and session.started <= stated
    ]
    await _close(service, tables, gone, "the node was restarted")
    return bool(gone)


async def _counted(service: Service, tables: WriteTables, node_uuid: str, event: Mapping[str, object]) -> bool:
    """A node names the processes that keep sessions. One that was killed has told of no end. Was one closed?"""
    living = event.get("keepers")
    stated = float(str(event["time"]))
    if not isinstance(living, list) or len(living) > MAX_LIVING:
        return False
    gone = []
    for session in await tables.audit.live_sessions(node_uuid):
        keeper = str(session.body.get("uid") or "").rpartition(UID_SEPARATOR)[0]
        # A node's batches of one second may come in any order.
        if keeper and keeper not in living and session.started <= stated:
            gone.append(session)
    await _close(service, tables, gone, "lost")
    return bool(gone)


async def sweep(service: Service) -> None:
    """Close what nobody will end: on nodes that are away for a day, and what should have been ended long ago."""
    now = service.now()
    gone, lost = [], []
    rows = service.store.read
    for session in await rows.audit.live_sessions():
        ended_at = session.body.get("ended_at")
        if is_lost(service, session):
            node = await rows.nodes.get(session.node_uuid)
            if node is None or now - node.last_seen >= FORGOTTEN_AFTER:
                lost.append(session)
        elif isinstance(ended_at, (int, float)) and now - ended_at >= ENDED_BY_NOW:
            gone.append(session)
    if not gone and not lost:
        return
    async with service.store.write() as tables:
        await _close(service, tables, lost, "the node has been away for a day")
        await _close(service, tables, gone, "the node has no such session")
        for uuid in sorted({session.node_uuid for session in (*gone, *lost)}):
            await service.issuer.refresh_node(tables, uuid)


async def _close(service: Service, tables: WriteTables, sessions: Sequence[LiveSession], reason: str) -> None:
    events = []
    for session in sessions:
        await tables.audit.session_ended(session.node_uuid, session.sid)
        told = {key: session.body.get(key) for key in ("user", "login", "node", "kind")}
        event = service.audit.event("session.end", **told, node_uuid=session.node_uuid, sid=session.sid, reason=reason)
        events.append(event)
    await service.audit.append(tables, events)
