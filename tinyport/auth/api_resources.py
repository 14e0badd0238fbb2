"""Routes about resources as documents: ``tctl get``, ``create`` and ``rm``.

A kind is one entry of ``KINDS``; what changes goes the same way as by the subject's own routes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from tinyport.auth import api_locks, api_nodes, api_tokens, api_trusted, api_users
from tinyport.auth.refusals import exists, not_found
from tinyport.auth.store import Tables, WriteTables
from tinyport.auth.store_users import UserRow
from tinyport.auth.web import Answer, Call, Handler
from tinyport.core.cluster_config import parse_cluster_config
from tinyport.core.errors import PeerError
from tinyport.core.names import check_role
from tinyport.core.roles import parse_role, role_document

Document = Mapping[str, object]


@dataclass(frozen=True)
class Kind:
    """How one kind of resource is read, put and removed. ``resource`` is its name in the rules of roles."""

    resource: str
    read: Callable[[Call, Tables], Awaitable[list[Document]]]
    #: (call, tables, name, what is there already) → the document as it is now
    put: Callable[[Call, WriteTables, str, Document | None], Awaitable[Document]]
    remove: Callable[[Call, WriteTables, str], Awaitable[None]]


# -------------------------------------------------------------------- users


async def _read_users(call: Call, tables: Tables) -> list[Document]:
    return [api_users.user_document(user, call.service.now()) for user in await tables.users.all()]


async def _put_user(call: Call, tables: WriteTables, name: str, held: Document | None) -> Document:
    now = call.service.now()
    user = await tables.users.get(name)
    if user is not None:
        return api_users.user_document(await api_users.change_user(call, tables, user), now)
    roles = await api_users.read_roles(call, tables, ())
    if not roles:
        raise PeerError("roles: at least one role is needed")
    user = UserRow(api_users.new_user_name(name), roles, api_users.read_traits(call, {}), now)
    await tables.users.add(user)
    await call.service.audit.record(
        tables, "user.create", user=name, by=call.caller.actor, roles=list(roles), logins=list(user.logins)
    )
    return api_users.user_document(user, now)


# -------------------------------------------------------------------- roles


async def _read_roles(call: Call, tables: Tables) -> list[Document]:
    return [{"kind": "role", **document} for document in (await tables.cluster.roles()).values()]


async def _put_role(call: Call, tables: WriteTables, name: str, held: Document | None) -> Document:
    role = parse_role({**call.fields.body, "name": check_role(name)})
    document = role_document(role)
    await tables.cluster.put_role(name, document)
    await call.service.issuer.refresh(tables)
    await call.service.audit.record(
        tables, "role.create" if held is None else "role.update", role=name, by=call.caller.actor
    )
    return {"kind": "role", **document}


async def _remove_role(call: Call, tables: WriteTables, name: str) -> None:
    users = [user.name for user in await tables.users.all() if name in user.roles]
    if users:
        # Their certificates would be refused whole: an unknown role may have held a deny.
        raise PeerError(
            f"role {name} is held by {', '.join(users[:5])}{' and others' if len(users) > 5 else ''}",
            hint="take it from them first: tctl users update NAME --roles ...",
            code="in_use",
        )
    if not await tables.cluster.delete_role(name):
        raise not_found("role", name)
    await call.service.issuer.refresh(tables)
    await call.service.audit.record(tables, "role.delete", role=name, by=call.caller.actor)


# -------------------------------------------------------------------- tokens, nodes, locks


async def _read_tokens(call: Call, tables: Tables) -> list[Document]:
    now = call.service.now()
    return [api_tokens.token_document(token) for token in await tables.tokens.all() if token.expires > now]


async def _put_token(call: Call, tables: WriteTables, name: str, held: Document | None) -> Document:
    raise PeerError("a token's secret is made here, so a file cannot hold one", hint="tctl tokens add --type node")


async def _read_nodes(call: Call, tables: Tables) -> list[Document]:
    copies, locks = await tables.copies.open(), api_nodes.node_locks(call.service)
    return [
        api_nodes.node_document(call.service, node, copies.get(node.uuid, ()), locks=locks)
        for node in await tables.nodes.all("node")
    ]


async def _put_node(call: Call, tables: WriteTables, name: str, held: Document | None) -> Document:
    if held is None:
        raise PeerError("a node comes by joining, not from a file", hint="tctl tokens add --type node")
    node = await api_nodes.find_node(tables, name)
    await api_nodes.change_labels(call, tables, node, call.fields.labels("labels"))
    return api_nodes.node_document(call.service, await api_nodes.find_node(tables, node.uuid))


async def _remove_node(call: Call, tables: WriteTables, name: str) -> None:
    await api_nodes.remove_node(call, tables, await api_nodes.find_node(tables, name), "removed")


async def _read_locks(call: Call, tables: Tables) -> list[Document]:
    return [api_locks.lock_document(lock) for lock in await tables.cluster.locks()]


async def _put_lock(call: Call, tables: WriteTables, name: str, held: Document | None) -> Document:
    if held is not None:
        await tables.cluster.delete_lock(name)
    return api_locks.lock_document(await api_locks.put_lock(call, tables, api_locks.check_lock_id(name)))


# -------------------------------------------------------------------- configuration


async def _read_config(call: Call, tables: Tables) -> list[Document]:
    found = await tables.cluster.config()
    return [{"kind": "cluster_config", "name": name, **document} for name, document in found.items()]


async def _put_config(call: Call, tables: WriteTables, name: str, held: Document | None) -> Document:
    if held is None:
        raise PeerError('there is one cluster_config, it is called "cluster"')
    document = {key: value for key, value in call.fields.body.items() if key not in ("kind", "name")}
    parse_cluster_config(document)
    await tables.cluster.put_config(name, document)
    await call.service.issuer.refresh(tables)
    await call.service.audit.record(tables, "config.update", by=call.caller.actor, config=document)
    return {"kind": "cluster_config", "name": name, **document}


async def _keep_config(call: Call, tables: WriteTables, name: str) -> None:
    raise PeerError("the cluster's configuration cannot be removed", hint="tctl create -f FILE changes it")


KINDS: dict[str, Kind] = {
    "user": Kind("users", _read_users, _put_user, api_users.remove_user),
    "role": Kind("roles", _read_roles, _put_role, _remove_role),
    "token": Kind("tokens", _read_tokens, _put_token, api_tokens.remove_token),
    "node": Kind("nodes", _read_nodes, _put_node, _remove_node),
    "cluster_config": Kind("cluster_config", _read_config, _put_config, _keep_config),
    "lock": Kind("locks", _read_locks, _put_lock, api_locks.remove_lock),
    "trusted_cluster": Kind("trusted_clusters", api_trusted.read_all, api_trusted.put, api_trusted.remove),
}


async def _held(kind: str, call: Call, tables: Tables) -> Document | None:
    name = call.path("name")
    for document in await KINDS[kind].read(call, tables):
        if name in (document.get("name"), document.get("uuid")):
            return document
    return None


def list_of(kind: str) -> Handler:
    """``GET /v1/resources/KIND``."""

    async def handler(call: Call) -> Answer:
        return {"resources": await KINDS[kind].read(call, call.service.store.read)}

    return handler


def get_of(kind: str) -> Handler:
    """``GET /v1/resources/KIND/NAME``."""

    async def handler(call: Call) -> Answer:
        found = await _held(kind, call, call.service.store.read)
        if found is None:
            raise not_found(kind.replace("_", " "), call.path("name"))
        return {"resource": found}

    return handler


def put_of(kind: str) -> Handler:
    """``PUT /v1/resources/KIND/NAME``: make or replace; with ``?create=1`` only make."""

    async def handler(call: Call) -> Answer:
        name = call.path("name")
        stated = call.fields.body.get("name", name)
        if stated != name or call.fields.body.get("kind", kind) != kind:
            raise PeerError(f"the document is not of {kind} {name}")
        async with call.service.store.write() as tables:
            held = await _held(kind, call, tables)
            call.caller.require(KINDS[kind].resource, "create" if held is None else "update")
            if held is not None and call.query("create") == "1":
                raise exists(kind.replace("_", " "), name, "tctl create -f replaces it")
            made = await KINDS[kind].put(call, tables, name, held)
        return {"resource": made}

    return handler


def delete_of(kind: str) -> Handler:
    """``DELETE /v1/resources/KIND/NAME``."""

    async def handler(call: Call) -> Answer:
        name = call.path("name")
        async with call.service.store.write() as tables:
            await KINDS[kind].remove(call, tables, name)
        return {"kind": kind, "name": name}

    return handler
