"""Routes about users. Each change that takes something away also ends the certificates issued before it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from tinyport.auth.refusals import exists, not_found
from tinyport.auth.store import WriteTables
from tinyport.auth.store_users import InvitationRow, UserRow
from tinyport.auth.web import Answer, Call
from tinyport.core import tokens
from tinyport.core.break_glass import USER as BREAK_GLASS
from tinyport.core.errors import PeerError
from tinyport.core.names import check_login, check_role, check_user, printable
from tinyport.core.roles import Conditions, parse_role

INVITATION_LIFE = 3600
LONGEST_INVITATION = 7 * 86400
_MAX_TRAITS = 64


def user_document(user: UserRow, now: float) -> dict[str, object]:
    """A user as listings and resources show it."""
    return {
        "kind": "user",
        "name": user.name,
        "roles": list(user.roles),
        "logins": list(user.logins),
        "traits": {name: list(values) for name, values in user.traits.items()},
        "created": user.created,
        "invited": user.password is None,
        "locked_until": user.locked_until if user.locked_until > now else None,
    }


async def list_users(call: Call) -> Answer:
    now = call.service.now()
    return {"users": [user_document(user, now) for user in await call.service.store.read.users.all()]}


def read_traits(call: Call, held: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The traits that a request asks for: ``traits`` replaces all, ``logins`` the logins among them."""
    fields = call.fields
    traits = {name: tuple(values) for name, values in held.items()}
    if fields.has("traits"):
        table = fields.table("traits")
        if len(table) > _MAX_TRAITS:
            raise PeerError(f"traits: at most {_MAX_TRAITS}")
        traits = {}
        for name, values in table.items():
            if not isinstance(values, list) or len(values) > 256:
                raise PeerError(f"traits.{printable(name, 40)}: a list of texts is needed")
            traits[_trait_text(name)] = tuple(_trait_text(value) for value in values)
    if fields.has("logins"):
        traits["logins"] = fields.texts("logins", check_login)
    for login in traits.get("logins", ()):
        check_login(login)
    return traits


def _trait_text(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 256 or printable(value, 1024) != value:
        raise PeerError("traits: printable texts of at most 256 characters are needed")
    return value


async def read_roles(call: Call, tables: WriteTables, held: Sequence[str]) -> tuple[str, ...]:
    """The roles that a request asks for; PeerError when one does not exist."""
    if not call.fields.has("roles"):
        return tuple(held)
    roles = call.fields.texts("roles", check_role)
    known = await tables.cluster.roles()
    for name in roles:
        if name not in known:
            raise not_found("role", name)
    return roles


async def withdraw(call: Call, tables: WriteTables, user: str) -> None:
    """Certificates that the user has by now count no more. The next ones are dated after this.

    Dates are whole seconds: withdrawn twice within one, the second time must be later than what was issued between.
    """
    held = await tables.users.refused_before(user)
    await tables.users.set_refuse_before(user, max(int(call.service.now()), held) + 1)


async def invite(call: Call, tables: WriteTables, user: str, ttl: int) -> tuple[str, float]:
    """A new invitation, (``id.secret``, when it ends). Those before it are gone."""
    token = tokens.new(secrets.token_bytes(tokens.ID_BYTES), secrets.token_bytes(tokens.SECRET_BYTES))
    id, secret = tokens.split(token)
    expires = call.service.now() + ttl
    await tables.users.invite(InvitationRow(id, tokens.digest(secret), user, expires))
    return token, expires


def _invitation_answer(call: Call, user: str, token: str, expires: float) -> dict[str, object]:
    urls = [f"https://{address}/invite#{token}" for address in call.service.issuer.policy.proxies]
    return {"user": user, "invitation": token, "expires": expires, "urls": urls}


def new_user_name(value: object) -> str:
    """May a new user be called so? PeerError when not."""
    if check_user(value) == BREAK_GLASS:
        raise PeerError(f"{BREAK_GLASS} is reserved: locks and events of break-glass certificates have that name")
    return str(value)


async def add_user(call: Call) -> Answer:
    """A new user without a password, and the invitation to set one."""
    service, fields = call.service, call.fields
    name = fields.checked("name", new_user_name)
    ttl = fields.seconds("ttl", 60, LONGEST_INVITATION, INVITATION_LIFE)
    traits = read_traits(call, {})
    async with service.store.write() as tables:
        if await tables.users.get(name) is not None:
            raise exists("user", name, f"tctl users update {name}")
        roles = await read_roles(call, tables, ())
        if not roles:
            raise PeerError("roles: at least one role is needed")
        await tables.users.add(UserRow(name, roles, traits, service.now()))
        token, expires = await invite(call, tables, name, ttl)
        await service.audit.record(
            tables,
            "user.create",
            user=name,
            by=call.caller.actor,
            roles=list(roles),
            logins=list(traits.get("logins", ())),
        )
    return _invitation_answer(call, name, token, expires)


async def change_user(call: Call, tables: WriteTables, user: UserRow) -> UserRow:
    """Give a user the roles and traits of the request. What was taken away ends their certificates."""
    roles = await read_roles(call, tables, user.roles)
    if not roles:
        raise PeerError("roles: at least one role is needed")
    traits = read_traits(call, user.traits)
    await tables.users.set_access(user.name, roles, traits)
    fewer = (
        not set(user.roles) <= set(roles)
        or any(not set(values) <= set(traits.get(name, ())) for name, values in user.traits.items())
        or await _denies_more(tables, user, roles, traits)
    )
    if fewer:
        await withdraw(call, tables, user.name)
    await call.service.issuer.refresh(tables)
    await call.service.audit.record(
        tables,
        "user.update",
        user=user.name,
        by=call.caller.actor,
        roles=list(roles),
        logins=list(traits.get("logins", ())),
        withdrawn=fewer,
    )
    return UserRow(user.name, roles, traits, user.created, user.password, user.failures, user.locked_until)


async def _denies_more(
    tables: WriteTables, user: UserRow, roles: Sequence[str], traits: Mapping[str, Sequence[str]]
) -> bool:
    """Is something among what is added that forbids? A certificate names its roles and traits: one from before would go
    on without it."""
    known = await tables.cluster.roles()
    for role in (parse_role(known[name]) for name in roles if name in known):
        forbids = role.deny != Conditions() or False in role.options.values()
        if forbids and (role.name not in user.roles or dict(traits) != dict(user.traits)):
            return True
    return False


async def _existing(tables: WriteTables, name: str) -> UserRow:
    user = await tables.users.get(name)
    if user is None:
        raise not_found("user", name)
    return user


async def update_user(call: Call) -> Answer:
    async with call.service.store.write() as tables:
        user = await change_user(call, tables, await _existing(tables, call.path("name")))
    return {"user": user_document(user, call.service.now())}


async def remove_user(call: Call, tables: WriteTables, name: str) -> None:
    """A user and all their certificates."""
    await _existing(tables, name)
    await tables.users.delete(name)
    await withdraw(call, tables, name)
    await call.service.issuer.refresh(tables)
    await call.service.audit.record(tables, "user.delete", user=name, by=call.caller.actor)


async def delete_user(call: Call) -> Answer:
    name = call.path("name")
    async with call.service.store.write() as tables:
        await remove_user(call, tables, name)
    return {"user": name}


async def reset_user(call: Call) -> Answer:
    """No password, no second factor, no certificates, and an invitation to begin anew."""
    service = call.service
    name = call.path("name")
    ttl = call.fields.seconds("ttl", 60, LONGEST_INVITATION, INVITATION_LIFE)
    async with service.store.write() as tables:
        await _existing(tables, name)
        await tables.users.set_password(name, None)
        await tables.factors.remove_of(name)
        await withdraw(call, tables, name)
        token, expires = await invite(call, tables, name, ttl)
        await service.issuer.refresh(tables)
        await service.audit.record(tables, "user.reset", user=name, by=call.caller.actor)
    return _invitation_answer(call, name, token, expires)


async def unlock_user(call: Call) -> Answer:
    """End a lock-out after failed logins."""
    name = call.path("name")
    async with call.service.store.write() as tables:
        user = await _existing(tables, name)
        await tables.users.set_failures(name, 0, 0)
        await call.service.audit.record(tables, "user.unlock", user=user.name, by=call.caller.actor)
    return {"user": name}
