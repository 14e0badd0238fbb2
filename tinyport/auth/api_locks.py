"""Routes about locks: "refuse whatever this names", in the policy within the same transaction."""

from __future__ import annotations

import secrets

from tinyport.auth.fields import one_line
from tinyport.auth.refusals import exists, not_found
from tinyport.auth.store import WriteTables
from tinyport.auth.store_cluster import LockRow
from tinyport.auth.web import Answer, Call
from tinyport.core.errors import PeerError
from tinyport.core.names import (
    check_cluster,
    check_fingerprint,
    check_login,
    check_node,
    check_role,
    check_user,
    is_uuid,
    printable,
)

LONGEST_LOCK = 10 * 366 * 86400
MOST_LOCKS = 1000


def lock_document(lock: LockRow) -> dict[str, object]:
    return {
        **lock.document(),
        "kind": "lock",
        "name": lock.id,
        "created": lock.created,
        "created_by": lock.created_by,
    }


async def list_locks(call: Call) -> Answer:
    now = call.service.now()
    read = call.service.store.read
    rows = [row for row in await read.cluster.locks() if row.expires is None or row.expires > now]
    names = await read.nodes.names(row.value for row in rows if row.kind == "node")
    return {
        "locks": [lock_document(row) | ({"node_name": names[row.value]} if row.value in names else {}) for row in rows]
    }


def _node_target(value: object) -> str:
    return value if isinstance(value, str) and is_uuid(value) else check_node(value)


def _user_target(value: object) -> str:
    """``user``, or ``user@cluster`` of a trusted cluster."""
    name, at, cluster = value.partition("@") if isinstance(value, str) else (value, "", "")
    return f"{check_user(name)}@{check_cluster(cluster)}" if at else check_user(name)


_CHECKS = {
    "user": _user_target,
    "node": _node_target,
    "role": check_role,
    "login": check_login,
    "device": check_fingerprint,
}


def _target(call: Call) -> tuple[str, str]:
    target = call.fields.table("target")
    if len(target) != 1 or next(iter(target)) not in _CHECKS:
        raise PeerError('target: one of "user", "node", "role", "login", "device" with a name is needed')
    ((kind, value),) = target.items()
    return kind, _CHECKS[kind](value)


async def put_lock(call: Call, tables: WriteTables, id: str) -> LockRow:
    """Add the lock of the request under this id. What it names need not exist (yet)."""
    service, fields = call.service, call.fields
    kind, value = _target(call)
    if kind == "device":
        # Logins that were extended have other keys; all of them lead back to one.
        value = await tables.cluster.first_device(value)
    now = service.now()
    expires: float | None = None
    if fields.has("ttl"):
        expires = float(int(now) + fields.seconds("ttl", 1, LONGEST_LOCK))
    elif fields.has("expires"):
        expires = float(fields.integer("expires", 0, 2**40))
    held = await tables.cluster.locks()
    if any(lock.id == id for lock in held):
        raise exists("lock", id)
    if len(held) >= MOST_LOCKS:
        raise PeerError(f"there are {MOST_LOCKS} locks already", hint="lock a role instead of its users", code="in_use")
    lock = LockRow(id, kind, value, expires, one_line(fields.body.get("message"), 300), now, call.caller.actor)
    await tables.cluster.add_lock(lock)
    await service.issuer.refresh(tables)
    await service.audit.record(
        tables,
        "lock.create",
        lock=id,
        target={kind: value},
        by=call.caller.actor,
        expires=expires,
        message=lock.message or None,
    )
    return lock


def check_lock_id(id: str) -> str:
    if not id.isascii() or not id.replace("-", "").isalnum() or len(id) > 64:
        raise PeerError(f"lock id {printable(id, 40)!r} is not allowed", hint="letters, digits and '-', at most 64")
    return id


async def add_lock(call: Call) -> Answer:
    async with call.service.store.write() as tables:
        lock = await put_lock(call, tables, secrets.token_hex(6))
    return lock_document(lock)


async def remove_lock(call: Call, tables: WriteTables, id: str) -> None:
    if not await tables.cluster.delete_lock(id):
        raise not_found("lock", id, hint='"tctl lock" lists them')
    await call.service.issuer.refresh(tables)
    await call.service.audit.record(tables, "lock.delete", lock=id, by=call.caller.actor)


async def delete_lock(call: Call) -> Answer:
    id = call.path("id")
    async with call.service.store.write() as tables:
        await remove_lock(call, tables, id)
    return {"id": id}
