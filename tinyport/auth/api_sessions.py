"""Routes about live sessions: which there are, and ending one."""

from __future__ import annotations

from tinyport.auth.callers import USER, Caller
from tinyport.auth.live_sessions import is_lost
from tinyport.auth.refusals import not_found
from tinyport.auth.service import Service
from tinyport.auth.store_audit import LiveSession
from tinyport.auth.web import Answer, Call
from tinyport.core.errors import PeerError
from tinyport.core.names import printable
from tinyport.core.session_joining import MODES

# An id is 32 hexadecimal digits; so many are typed, or copied, without a mistake.
LEAST_PREFIX = 4


def session_document(service: Service, session: LiveSession) -> dict[str, object]:
    """``state``: ``live``; ``lost`` while its node is away; ``ending`` until the node has ended it."""
    state = "lost" if is_lost(service, session) else "live"
    if session.ended_by is not None:
        state = "ending"
    since = session.started
    return {**session.body, "id": session.sid, "sid": session.sid, "started": since, "since": since, "state": state}


async def list_sessions(call: Call) -> Answer:
    """Sessions that began and did not end: all with the rule to read them; else one's own, and those to join."""
    found = await call.service.store.read.audit.live_sessions()
    if not call.caller.may("sessions", "read"):
        found = [session for session in found if _own(call.caller, session) or _modes(call.caller, session)]
    return {
        "sessions": [
            {**session_document(call.service, session), "join": _modes(call.caller, session)} for session in found
        ]
    }


def _own(caller: Caller, session: LiveSession) -> bool:
    return caller.kind == USER and session.body.get("user") == caller.name


def _modes(caller: Caller, session: LiveSession) -> list[str]:
    """As what the caller's roles let them join it. The session's node decides, and may know more that forbids it."""
    if caller.kind != USER:
        return []
    said = session.body.get("roles")
    roles = [role for role in said if isinstance(role, str)] if isinstance(said, list) else []
    own = _own(caller, session)
    return [mode for mode in MODES if caller.rights.joins.may_join(mode, owner_roles=roles, own=own)]


def one_of(found: list[LiveSession], text: str) -> LiveSession:
    """The session with this id, or the only one whose id begins so. PeerError ``not_found`` or ``ambiguous``."""
    if len(text) >= LEAST_PREFIX:
        fitting = [session for session in found if session.sid.startswith(text)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise PeerError(f"{len(fitting)} sessions begin with {printable(text, 40)}", code="ambiguous")
    raise not_found("live session", text)


async def end_session(call: Call) -> Answer:
    """Its node ends it, and tells the person who did."""
    service = call.service
    async with service.store.write() as tables:
        session = one_of(await tables.audit.live_sessions(), call.path("id"))
        if session.ended_by is None:
            by = call.caller.name if call.caller.kind == USER else "an administrator"
            await tables.audit.end_session(session, by, service.now())
            await service.issuer.refresh_node(tables, session.node_uuid)
            about = {key: session.body.get(key) for key in ("user", "login", "node")}
            await service.audit.record(tables, "session.kill", **about, sid=session.sid, by=call.caller.actor)
    return {"id": session.sid, "user": session.body.get("user"), "node": session.body.get("node")}
