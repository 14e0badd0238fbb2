"""Routes of people: login, invitations, and certificates that an administrator signs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import NoReturn

from tinyport.auth.authority import IssuedPair
from tinyport.auth.joining import check_free
from tinyport.auth.passwords import LONGEST, check_password
from tinyport.auth.refusals import exists, not_found, refuse_locked
from tinyport.auth.store import WriteTables
from tinyport.auth.store_users import InvitationRow, UserRow
from tinyport.auth.tls_certificates import Request
from tinyport.auth.web import Answer, Call
from tinyport.core import tokens
from tinyport.core.errors import AccessDenied
from tinyport.core.names import check_user, printable
from tinyport.core.roles import Role, allowed_logins, max_session_ttl, permits

LOGIN_LIFE = 12 * 3600
SHORTEST_LIFE = 60
LONGEST_SIGNED = 366 * 86400
MAX_FAILURES = 5
LOCK_OUT = 15 * 60
_MAX_KEY = 16 * 1024


def roles_of(call: Call, user: UserRow) -> list[Role]:
    """A user's roles as the policy has them. AccessDenied when one is missing: it may have held a deny."""
    known = call.service.issuer.policy.roles
    for name in user.roles:
        if name not in known:
            raise AccessDenied(f"role {printable(name, 60)} of {user.name} does not exist")
    return [known[name] for name in user.roles]


async def login(call: Call) -> Answer:
    """User and password → an SSH and a TLS certificate for the same person."""
    service, fields = call.service, call.fields
    service.check_source(call.source)
    name = fields.text("user", 64)
    password = fields.text("password", LONGEST)
    ssh_key = service.authority.user_key(fields.text("ssh_public_key", _MAX_KEY))
    request = service.authority.request(fields.text("tls_csr", _MAX_KEY))
    asked = fields.integer("ttl", SHORTEST_LIFE, LONGEST_SIGNED, LOGIN_LIFE)

    user = await service.store.read.users.get(name)
    right = await service.passwords.verify(user.password if user is not None else None, password)
    if user is None or not right or service.now() < user.locked_until:
        await _login_failed(call, name, counts=not right)
    async with service.store.write() as tables:
        # Read again: while the password was hashed it may have been changed, or the user removed.
        current = await tables.users.get(name)
        if current is None or user is None or current.password != user.password:
            raise _bad_credentials()
        refuse_locked(service.issuer.policy, service.now(), {"user": {name}, "role": set(current.roles)})
        if current.failures:
            await tables.users.set_failures(name, 0, 0)
        roles = roles_of(call, current)
        ttl = min(asked, LOGIN_LIFE, max_session_ttl(roles) or LOGIN_LIFE)
        pair, logins = await issue_for(call, tables, current, roles, ssh_key, request=request, ttl=ttl)
        await service.audit.record(
            tables,
            "user.login",
            user=name,
            source=call.source or None,
            roles=list(current.roles),
            logins=logins,
            serial=pair.serial,
            fingerprint=pair.fingerprint,
            expires=pair.valid_before,
        )
    return _login_answer(call, current, logins, pair)


def _bad_credentials() -> AccessDenied:
    return AccessDenied("user or password is wrong", code="bad_credentials")


async def _login_failed(call: Call, name: str, *, counts: bool) -> NoReturn:
    """Write the failure down, lock the user out when there were too many, and refuse: in the same words for an unknown
    user, a wrong password and a user who is locked out."""
    service = call.service
    told = service.count_failure(call.source)
    now = service.now()
    async with service.store.write() as tables:
        user = await tables.users.get(name)
        if told:
            await service.audit.record(
                tables, "user.login.failed", user=printable(name, 64), source=call.source or None
            )
        if user is not None and counts and now >= user.locked_until:
            failures = user.failures + 1
            out = failures >= MAX_FAILURES
            await tables.users.set_failures(name, 0 if out else failures, now + LOCK_OUT if out else 0)
            if out:
                await service.audit.record(
                    tables, "user.locked_out", user=name, until=now + LOCK_OUT, source=call.source or None
                )
    raise _bad_credentials()


async def issue_for(
    call: Call,
    tables: WriteTables,
    user: UserRow,
    roles: Sequence[Role],
    ssh_key: bytes,
    *,
    request: Request | None,
    ttl: int,
) -> tuple[IssuedPair, list[str]]:
    """Certificates with what the roles allow at this moment. AccessDenied when that is no login at all."""
    logins = allowed_logins(roles, user.name, user.traits)
    if not logins:
        # A certificate without principals would be good for nothing here, and for everything elsewhere.
        raise AccessDenied(
            f"user {user.name} has no login on any machine",
            hint=f"an administrator gives some: tctl users update {user.name} --logins pi",
        )
    pair = await call.service.authority.issue_user(
        tables,
        user=user.name,
        ssh_key=ssh_key,
        request=request,
        logins=logins,
        roles=user.roles,
        traits=user.traits,
        permits=sorted(permits(roles)),
        ttl=ttl,
        not_before=await tables.users.refused_before(user.name),
    )
    return pair, logins


def _login_answer(call: Call, user: UserRow, logins: Sequence[str], pair: IssuedPair) -> Mapping[str, object]:
    service = call.service
    return {
        "user": user.name,
        "cluster": service.cluster,
        "roles": list(user.roles),
        "logins": list(logins),
        "ssh_certificate": pair.ssh_certificate,
        "tls_certificate": pair.tls_certificate,
        "tls_cas": service.authority.tls_cas,
        "host_cas": list(service.authority.host_cas),
        "proxies": list(service.issuer.policy.proxies),
        "valid_after": pair.valid_after,
        "valid_before": pair.valid_before,
    }


# -------------------------------------------------------------------- invitations


def _bad_invitation() -> AccessDenied:
    return AccessDenied(
        "the invitation is not valid (any more)",
        hint="ask for a new one: tctl users reset NAME",
        code="bad_token",
    )


async def _invitation(call: Call) -> InvitationRow:
    service = call.service
    service.check_source(call.source)
    id, secret = tokens.split(call.fields.text("invitation", 300))
    found = await service.store.read.users.invitation(id)
    right = tokens.matches(secret, found.digest if found is not None else tokens.digest(""))
    if found is None or not right or service.now() >= found.expires:
        service.count_failure(call.source)
        raise _bad_invitation()
    return found


async def invitation(call: Call) -> Answer:
    """For whom an invitation is, without accepting it."""
    found = await _invitation(call)
    return {"user": found.user, "expires": found.expires, "cluster": call.service.cluster}


async def signup(call: Call) -> Answer:
    """Accept an invitation: the user has a password from now on."""
    service = call.service
    found = await _invitation(call)
    password = check_password(call.fields.text("password", 4096))
    hashed = await service.passwords.hash(password)
    async with service.store.write() as tables:
        if not await tables.users.use_invitation(found.id):
            raise _bad_invitation()
        await tables.users.set_password(found.user, hashed)
        await service.audit.record(tables, "user.signup", user=found.user, source=call.source or None)
    return {"user": found.user}


# -------------------------------------------------------------------- signing


async def sign(call: Call) -> Answer:
    """``tctl auth sign``: a certificate without a login, for a user or for an sshd that stays."""
    if call.fields.has("host"):
        return await _sign_host(call)
    service, fields = call.service, call.fields
    name = fields.checked("user", check_user)
    ssh_key = service.authority.user_key(fields.text("ssh_public_key", _MAX_KEY))
    csr = fields.optional_text("tls_csr", _MAX_KEY)
    request = service.authority.request(csr) if csr is not None else None
    ttl = fields.integer("ttl", SHORTEST_LIFE, LONGEST_SIGNED, LOGIN_LIFE)
    async with service.store.write() as tables:
        user = await tables.users.get(name)
        if user is None:
            raise not_found("user", name)
        roles = roles_of(call, user)
        pair, logins = await issue_for(call, tables, user, roles, ssh_key, request=request, ttl=ttl)
        await service.audit.record(
            tables,
            "certificate.issue",
            user=name,
            by=call.caller.actor,
            serial=pair.serial,
            fingerprint=pair.fingerprint,
            expires=pair.valid_before,
        )
    return _login_answer(call, user, logins, pair)


async def _sign_host(call: Call) -> Answer:
    service, fields = call.service, call.fields
    name = fields.text("host", 63)
    ssh_key = service.authority.host_key(fields.text("ssh_public_key", _MAX_KEY))
    ttl = fields.integer("ttl", SHORTEST_LIFE, LONGEST_SIGNED, 90 * 86400)
    async with service.store.write() as tables:
        if await tables.nodes.by_key(ssh_key) is not None:
            raise exists("machine with", "this key")
        await check_free(service, tables, name)
        pair = await service.authority.issue_foreign_host(
            tables, name=name, uuid=str(uuid.uuid4()), ssh_key=ssh_key, ttl=ttl
        )
        await service.audit.record(
            tables,
            "certificate.issue",
            host=name,
            by=call.caller.actor,
            serial=pair.serial,
            fingerprint=pair.fingerprint,
            expires=pair.valid_before,
        )
    return {"ssh_certificate": pair.ssh_certificate}
