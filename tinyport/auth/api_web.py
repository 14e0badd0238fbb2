"""Web sessions: people who are logged in with a browser, through a proxy that has no word in who they are.

The password goes through the proxy to auth, which judges it as it judges any other, and makes a session: an id, and a
secret that lives in the browser's cookie. Whoever shows both gets certificates of minutes. A proxy keeps no secret, so
once the page is closed it cannot renew.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping

from tinyport.auth import api_signup
from tinyport.auth.api_login import asked_keys, issue_for, login_answer, prove, roles_of
from tinyport.auth.callers import LOCAL, USER
from tinyport.auth.fields import one_line
from tinyport.auth.refusals import not_found, refuse_locked
from tinyport.auth.store import WriteTables
from tinyport.auth.store_users import UserRow
from tinyport.auth.store_web import WebSessionRow
from tinyport.auth.tls_certificates import Request
from tinyport.auth.web import Answer, Call
from tinyport.core import tokens
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.rights import max_session_ttl, may
from tinyport.core.roles import RESOURCES, VERBS

#: seconds: of each certificate, of a session that nobody renews, of any session
CERTIFICATE_LIFE = 600
SILENCE = 900
SESSION_LIFE = 12 * 3600
#: of one person; the oldest make room
MOST_SESSIONS = 20


def _for_browser(call: Call) -> Call:
    """The call, as if it came from the browser's address, which the proxy tells."""
    source = one_line(call.fields.text("source", 64), 64)
    return dataclasses.replace(call, source=source)


async def login(call: Call) -> Answer:
    """User, password, code and keys → a session with its first certificates."""
    browser = _for_browser(call)
    keys, _ = asked_keys(call)
    return await prove(browser, lambda tables, user: _begin(browser, tables, user, keys))


async def _begin(call: Call, tables: WriteTables, user: UserRow, keys: tuple[bytes, Request]) -> Mapping[str, object]:
    service, now = call.service, call.service.now()
    token = tokens.new(secrets.token_bytes(tokens.ID_BYTES), secrets.token_bytes(tokens.SECRET_BYTES))
    id, secret = tokens.split(token)
    life = min(SESSION_LIFE, max_session_ttl(roles_of(call, user)) or SESSION_LIFE)
    agent = one_line(call.fields.optional_text("agent", 1024) or "", 200)
    session = WebSessionRow(
        id, tokens.digest(secret), user.name, call.caller.uuid, call.source, agent, now, now, now + life
    )
    for old in (await tables.web.all(user.name))[MOST_SESSIONS - 1 :]:
        await _end(call, tables, old, "replaced")
    await tables.web.add(session)
    answer = await _certify(call, tables, user, session, keys)
    await service.audit.record(
        tables,
        "user.login",
        user=user.name,
        source=call.source or None,
        roles=list(user.roles),
        logins=answer["logins"],
        expires=int(session.ends),
        web=session.id,
        proxy=call.caller.name,
    )
    return {**answer, "secret": secret}


async def _certify(
    call: Call, tables: WriteTables, user: UserRow, session: WebSessionRow, keys: tuple[bytes, Request]
) -> dict[str, object]:
    roles = roles_of(call, user)
    ttl = max(1, min(CERTIFICATE_LIFE, int(session.ends - call.service.now())))
    ssh_key, request = keys
    # Without ``proven``: these certificates cannot be extended into those of a login at a desk.
    pair, logins = await issue_for(call, tables, user, roles, ssh_key, request=request, ttl=ttl)
    return {
        **login_answer(call, user, logins, pair),
        "session": session.id,
        "ends": session.ends,
        "may": {name: sorted(verb for verb in VERBS if may(roles, name, verb)) for name in sorted(RESOURCES)},
    }


async def renew(call: Call) -> Answer:
    """A session's id and secret → fresh certificates. AccessDenied ``expired`` when it has ended."""
    service, now = call.service, call.service.now()
    browser = _for_browser(call)
    service.check_source(browser.source)
    keys, _ = asked_keys(call)
    secret = call.fields.text("secret", 128)
    async with service.store.write() as tables:
        session = await tables.web.get(call.fields.text("session", 64))
        right = tokens.matches(secret, session.digest if session is not None else tokens.digest(""))
        user = None if session is None else await tables.users.get(session.user)
        if session is None or user is None or not right or session.proxy != call.caller.uuid:
            service.count_failure(browser.source)
            raise _ended()
        withdrawn = session.created < await tables.users.refused_before(user.name)
        if withdrawn or now >= session.ends or now - session.seen > SILENCE:
            raise _ended()
        refuse_locked(service.issuer.policy, now, {"user": {user.name}, "role": set(user.roles)})
        await tables.web.see(session.id, now)
        return await _certify(browser, tables, user, session, keys)


def _ended() -> AccessDenied:
    return AccessDenied("this web session has ended", hint="log in again", code="expired")


async def logout(call: Call) -> Answer:
    """The proxy says that a session of its own ended: ``reason`` logout or idle."""
    reason = call.fields.text("reason", 16)
    if reason not in ("logout", "idle"):
        raise PeerError("reason: logout or idle")
    async with call.service.store.write() as tables:
        session = await tables.web.get(call.fields.text("session", 64))
        if session is not None and session.proxy == call.caller.uuid:
            await _end(call, tables, session, reason)
    return {}


async def _end(call: Call, tables: WriteTables, session: WebSessionRow, reason: str) -> None:
    await tables.web.remove(session.id)
    await call.service.audit.record(
        tables,
        "user.logout",
        user=session.user,
        web=session.id,
        source=session.source or None,
        reason=reason,
        by=call.caller.actor if call.caller.kind in (USER, LOCAL) else None,
    )
    # Its proxy ends the session's terminals at once, and need not wait for a certificate to run out.
    tables.after_commit(lambda: call.service.watchers.tell(f"web:{session.id}", {"web_ended": session.id}))


async def list_sessions(call: Call) -> Answer:
    """One's own, and everybody's for whom may read users."""
    caller, now = call.caller, call.service.now()
    everybody = caller.may("users", "read")
    rows = await call.service.store.read.web.all(None if everybody else caller.name)
    return {
        "sessions": [
            {
                "id": row.id,
                "user": row.user,
                "source": row.source,
                "agent": row.agent,
                "created": row.created,
                "seen": row.seen,
                "ends": row.ends,
            }
            for row in rows
            if now < row.ends and now - row.seen <= SILENCE
        ]
    }


async def delete_session(call: Call) -> Answer:
    """End a session: one's own, or with the rule to update users anybody's."""
    id = call.path("id")
    async with call.service.store.write() as tables:
        session = await tables.web.get(id)
        own = session is not None and call.caller.kind == USER and session.user == call.caller.name
        if session is None or not (own or call.caller.may("users", "update")):
            # Whose it is, or that there is one, is nobody else's business.
            raise not_found("web session", id)
        await _end(call, tables, session, "revoked")
    return {}


async def invitation(call: Call) -> Answer:
    """As ``/v1/invitation``, for a browser."""
    return await api_signup.invitation(_for_browser(call))


async def signup(call: Call) -> Answer:
    """As ``/v1/signup``, for a browser."""
    return await api_signup.signup(_for_browser(call))
