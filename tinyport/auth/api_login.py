"""Routes of people who log in: by password and one-time code, or by a login that they have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from tinyport.auth import second_factor
from tinyport.auth.authority import IssuedPair
from tinyport.auth.callers import USER
from tinyport.auth.failures import bad_credentials, login_failed
from tinyport.auth.passwords import LONGEST
from tinyport.auth.refusals import login_required, refuse_locked
from tinyport.auth.store import WriteTables
from tinyport.auth.store_users import UserRow
from tinyport.auth.tls_certificates import Request
from tinyport.auth.web import Answer, Call
from tinyport.core.errors import AccessDenied
from tinyport.core.names import NO_LOGIN, printable
from tinyport.core.rights import allowed_logins, login_extension, max_session_ttl, permits
from tinyport.core.roles import Role

LOGIN_LIFE = 12 * 3600
SHORTEST_LIFE = 60
LONGEST_SIGNED = 366 * 86400
MAX_KEY = 16 * 1024


def roles_of(call: Call, user: UserRow) -> list[Role]:
    """A user's roles as the policy has them. AccessDenied when one is missing: it may have held a deny."""
    known = call.service.issuer.policy.roles
    for name in user.roles:
        if name not in known:
            raise AccessDenied(f"role {printable(name, 60)} of {user.name} does not exist")
    return [known[name] for name in user.roles]


async def login(call: Call) -> Answer:
    """User and password → an SSH and a TLS certificate for the same person."""
    keys, asked = asked_keys(call)

    async def then(tables: WriteTables, user: UserRow) -> Mapping[str, object]:
        return await _log_in(call, tables, user, keys, asked, proven=call.service.now())

    return await prove(call, then, or_go_on=True)


async def prove(
    call: Call, then: Callable[[WriteTables, UserRow], Awaitable[Mapping[str, object]]], *, or_go_on: bool = False
) -> Answer:
    """User, password and, where one is asked for, a code: ``then`` for that user, within the same transaction.
    ``or_go_on``: even when the disk takes nothing of it."""
    service, fields = call.service, call.fields
    service.check_source(call.source)
    name = fields.text("user", 64)
    password = fields.text("password", LONGEST)
    user = await service.store.read.users.get(name)
    right = await service.passwords.verify(user.password if user is not None else None, password)
    waits = user is not None and (
        service.now() < user.locked_until or service.unwritten.locked_out(name, service.now())
    )
    if user is None or not right or waits:
        await login_failed(call, name, counts=not right)
    code = second_factor.code_of(call)
    async with service.store.write(or_go_on=or_go_on) as tables:
        # Read again: while the password was hashed it may have been changed, or the user removed or locked out.
        current = await tables.users.get(name)
        if current is None or user is None or current.password != user.password or service.now() < current.locked_until:
            raise bad_credentials(call)
        refuse_locked(service.issuer.policy, service.now(), {"user": {name}, "role": set(current.roles)})
        if await _code_is_right(call, tables, name, code):
            if current.failures:
                await tables.users.set_failures(name, 0, 0)
            service.unwritten.succeeded(name)
            return await then(tables, current)
    # Not within the transaction: an error would take the count back.
    await login_failed(call, name, counts=True)


async def _code_is_right(call: Call, tables: WriteTables, name: str, code: str | None) -> bool:
    """True, too, when none is asked for. AccessDenied ``otp_required`` when one is, and there is none."""
    if not await second_factor.is_asked(call.service, tables, name):
        return True
    if code is None:
        raise AccessDenied("a one-time code is needed", hint="your authenticator shows it", code="otp_required")
    return await second_factor.spend_code(call.service, tables, name, code, call.service.now())


async def extend(call: Call) -> Answer:
    """A login → a newer one, without a password, where every role of the user allows it, and only so long after the
    password was given."""
    service = call.service
    keys, asked = asked_keys(call)
    leaf = call.caller.leaf
    async with service.store.write(or_go_on=True) as tables:
        user = await tables.users.get(call.caller.name)
        if user is None or leaf is None:
            raise login_required("the certificate's user was removed")
        proven = await tables.cluster.proven_of(leaf.serial, user.name)
        limit = login_extension(roles_of(call, user))
        if limit is None:
            raise AccessDenied("your roles do not let a login be extended", hint='run "tsh login"', code="not_extended")
        if proven is None or service.now() >= proven + limit:
            raise login_required("it was too long ago that you gave your password")
        left = int(proven + limit - service.now())
        device = await tables.cluster.device_of(leaf.serial, user.name) or ""
        return await _log_in(call, tables, user, keys, min(asked, left), proven=proven, device=device)


def asked_keys(call: Call) -> tuple[tuple[bytes, Request], int]:
    """The keys to certify, and for how long (seconds)."""
    fields, authority = call.fields, call.service.authority
    ssh_key = authority.user_key(fields.text("ssh_public_key", MAX_KEY))
    request = authority.request(fields.text("tls_csr", MAX_KEY))
    return (ssh_key, request), fields.seconds("ttl", SHORTEST_LIFE, LONGEST_SIGNED, LOGIN_LIFE)


async def _log_in(
    call: Call,
    tables: WriteTables,
    user: UserRow,
    keys: tuple[bytes, Request],
    asked: int,
    *,
    proven: float,
    device: str = "",
) -> Mapping[str, object]:
    """``proven``: when the person last showed password and code (Unix seconds); ``device``: for which key, when it was
    another one."""
    service = call.service
    ssh_key, request = keys
    roles = roles_of(call, user)
    ttl = max(1, min(asked, LOGIN_LIFE, max_session_ttl(roles) or LOGIN_LIFE))
    pair, logins = await issue_for(
        call, tables, user, roles, ssh_key, request=request, ttl=ttl, proven=proven, device=device
    )
    await service.audit.record(
        tables,
        "user.login",
        user=user.name,
        source=call.source or None,
        roles=list(user.roles),
        logins=logins,
        serial=pair.serial,
        fingerprint=pair.fingerprint,
        device=device or None,
        expires=pair.valid_before,
        extended=call.caller.kind == USER or None,
    )
    return login_answer(call, user, logins, pair)


async def issue_for(
    call: Call,
    tables: WriteTables,
    user: UserRow,
    roles: Sequence[Role],
    ssh_key: bytes,
    *,
    request: Request | None,
    ttl: int,
    proven: float | None = None,
    second_factor: Mapping[str, object] | None = None,
    device: str = "",
) -> tuple[IssuedPair, list[str]]:
    """Certificates with what the roles allow at this moment. AccessDenied when that is no login, unless the roles are
    about the API alone (auditors).

    ``proven``: when the person last showed their password; ``second_factor``: nodes for which they showed a code;
    ``device``: the key for which they logged in, when it was another one.
    """
    logins = allowed_logins(roles, user.name, user.traits)
    by_rules_alone = any(role.allow.rules for role in roles) and not any(role.allow.logins for role in roles)
    if not logins and not by_rules_alone:
        raise AccessDenied(
            f"user {user.name} has no login on any machine",
            hint=f"an administrator gives some: tctl users update {user.name} --logins pi",
        )
    pair = await call.service.authority.issue_user(
        tables,
        user=user.name,
        ssh_key=ssh_key,
        request=request,
        logins=logins or [NO_LOGIN],
        roles=user.roles,
        traits=user.traits,
        permits=sorted(permits(roles)),
        ttl=ttl,
        not_before=await tables.users.refused_before(user.name),
        proven=proven,
        second_factor=second_factor,
        device=device,
    )
    return pair, logins


def login_answer(call: Call, user: UserRow, logins: Sequence[str], pair: IssuedPair) -> Mapping[str, object]:
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
