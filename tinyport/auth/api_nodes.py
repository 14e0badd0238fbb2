"""Routes about nodes: the list, labels, accepting, removing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from tinyport.auth.callers import LOCAL, USER, Caller
from tinyport.auth.copies import move_to, there_is_one
from tinyport.auth.joining import check_unclaimed
from tinyport.auth.refusals import not_found
from tinyport.auth.service import Service
from tinyport.auth.store import Tables, WriteTables
from tinyport.auth.store_copies import CopyRow
from tinyport.auth.store_nodes import NodeRow
from tinyport.auth.store_traffic import month_of, name_of
from tinyport.auth.traffic import Sums
from tinyport.auth.web import Answer, Call
from tinyport.core import labels
from tinyport.core.certificate import fingerprint
from tinyport.core.cluster_config import node_budget
from tinyport.core.errors import PeerError
from tinyport.core.names import check_label, check_node, is_uuid, printable
from tinyport.core.policy import Lock

MAX_SELECTORS = 16


def status_of_node(service: Service, node: NodeRow) -> str:
    """online, offline, pending or quarantined."""
    if node.state != "active":
        return node.state
    return "online" if service.presence.online(node.uuid) else "offline"


def last_seen(service: Service, node: NodeRow) -> float | None:
    """When it was last known to be there (Unix seconds); None: never."""
    heard = service.presence.last_heard(node.uuid)
    return max(heard or 0.0, node.last_seen) or None


def node_locks(service: Service) -> dict[str, Lock]:
    """UUID or name of a node → the lock that keeps people out of it now; of several the one that lasts longest."""
    now, found = service.now(), dict[str, Lock]()
    for lock in service.issuer.policy.locks:
        target = lock.target.get("node")
        if target and lock.active(now):
            other = found.get(target)
            if other is None or (other.expires or math.inf) < (lock.expires or math.inf):
                found[target] = lock
    return found


def node_document(
    service: Service,
    node: NodeRow,
    copies: Sequence[CopyRow] = (),
    twin: NodeRow | None = None,
    locks: Mapping[str, Lock] | None = None,
) -> dict[str, object]:
    """A node as listings and resources show it. ``copies``: other devices that have its identity; ``twin``: the node
    that had its serial number before; ``locks``: ``node_locks``, where that is asked for many.
    """
    locks = node_locks(service) if locks is None else locks
    lock = locks.get(node.uuid) or locks.get(node.name)
    return {
        "kind": node.kind,
        "uuid": node.uuid,
        "name": node.name,
        "status": status_of_node(service, node),
        "last_seen": last_seen(service, node),
        "addresses": list(node.addresses),
        "peer": node.peer,
        "labels": dict(node.labels),
        "declared_labels": dict(node.declared_labels),
        "version": node.version,
        "created": node.created,
        "proxies": service.presence.proxies_of(node.uuid),
        "traffic": _traffic(service, node),
        "skew": service.skews.get(node.uuid, 0.0),
        "copies": [_copy(service, one) for one in copies if not one.became and not one.place],
        "serial": node.serial,
        # What an administrator compares with the device before letting it in.
        "fingerprint": None if node.state == "active" else fingerprint(node.ssh_key),
        "same_serial": None if twin is None or node.state != "pending" else _twin(service, twin),
        "locked": None if lock is None else {"id": lock.id, "expires": lock.expires, "message": lock.message},
    }


def _twin(service: Service, twin: NodeRow) -> dict[str, object]:
    return {
        "uuid": twin.uuid,
        "name": twin.name,
        "status": status_of_node(service, twin),
        "last_seen": last_seen(service, twin),
    }


def _copy(service: Service, copy: CopyRow) -> dict[str, object]:
    there = service.copies.of(copy.node)
    return {
        "id": copy.id,
        "online": copy.instance in there,
        "peer": there.get(copy.instance, copy.peer),
        "found": copy.found,
        "last_seen": service.now() if copy.instance in there else copy.seen,
        "split": copy.split is not None,
    }


def _traffic(service: Service, node: NodeRow) -> dict[str, object] | None:
    """Bytes on the wire between the node and the proxies that are there, since the first of them began to count; what
    that is in a day; and what days and months came to (UTC), beside the budget of a day.
    """
    told = service.traffic.meters.get(node.uuid)
    if not told:
        return None
    sums = service.traffic.sums(node.uuid, service.now()) or Sums(0)
    budget = node_budget(service.issuer.policy.config, node.labels)
    count, since = sum(one for one, _ in told.values()), min(since for _, since in told.values())
    # Not of less than a minute, and the proxy's clock may be ahead of ours.
    days = max(service.now() - since, 60.0) / 86400
    return {
        "bytes": count,
        "since": since,
        "a_day": round(count / days),
        "today": sums.today,
        "yesterday": sums.yesterday,
        "month": sums.month,
        "last_month": sums.last_month,
        "budget": budget,
        "over": sums.today > budget,
    }


async def show_node(call: Call) -> Answer:
    """One node, with what it cost by day and month as far back as that is kept."""
    rows = call.service.store.read
    node = await find_node(rows, call.path("id"))
    if node.kind != "node" or not visible(call.caller, node):
        raise not_found("node", call.path("id"))
    copies = (await rows.copies.open()).get(node.uuid, ())
    days = await rows.traffic.days_of(node.uuid)
    months = await rows.traffic.months_of(node.uuid)
    for row in days:
        months[month_of(row.day)] = months.get(month_of(row.day), 0) + row.bytes
    twin = await rows.nodes.get(node.twin) if node.twin else None
    document = node_document(
        call.service, node, copies, twin if twin is not None and visible(call.caller, twin) else None
    )
    return {
        "node": {**document, "fingerprint": fingerprint(node.ssh_key)},
        "days": [{"day": name_of(row.day), "bytes": row.bytes} for row in days],
        "months": [
            {"month": f"{month // 12}-{month % 12 + 1:02}", "bytes": count} for month, count in sorted(months.items())
        ],
    }


def visible(caller: Caller, node: NodeRow) -> bool:
    """May this user have the node in a list?

    Because a role selects it, or by the rule to read nodes; a role that denies the node hides it from both.
    """
    if caller.kind == LOCAL:
        return True
    there = caller.rights.on(node.labels)
    return there.seen or (caller.may("nodes", "read") and not there.hidden)


def _searchable(node: NodeRow) -> dict[str, str]:
    # The server's labels win: a node that declares site=berlin is not shown as one that was given it.
    return {**node.declared_labels, **node.labels}


async def list_nodes(call: Call) -> Answer:
    """Users: nodes that they may see, in full. Nodes and proxies: all nodes, by name, UUID and status alone."""
    service = call.service
    nodes = await service.store.read.nodes.all("node")
    if call.caller.kind not in (USER, LOCAL):
        return {
            "nodes": [{"uuid": node.uuid, "name": node.name, "status": status_of_node(service, node)} for node in nodes]
        }
    selectors = call.request.query.getall("selector", [])
    found = matching(nodes, lambda node: visible(call.caller, node), selectors, call.query("search") or "")
    copies = await service.store.read.copies.open()
    by_uuid = {node.uuid: node for node in nodes if visible(call.caller, node)}
    locks = node_locks(service)
    return {
        "nodes": [
            node_document(
                service, node, copies.get(node.uuid, ()), by_uuid.get(node.twin) if node.twin else None, locks
            )
            for node in found
        ]
    }


def matching(
    nodes: Iterable[NodeRow],
    visible: Callable[[NodeRow], bool],
    selectors: Sequence[str],
    search: str,
    *,
    addresses: bool = True,
) -> list[NodeRow]:
    """Those that are visible, have all labels of ``selectors`` (``k=v``) and mention all words of ``search``.
    ``addresses``: among the rest; not for people who may not see them, and could guess."""
    if len(selectors) > MAX_SELECTORS:
        raise PeerError(f"selector: at most {MAX_SELECTORS}")
    pairs = labels.parse_pairs(selectors)
    words = search.lower().split()
    return [
        node
        for node in nodes
        if visible(node)
        and (not pairs or labels.has_all(pairs, _searchable(node)))
        and (not words or _mentions(node, words, addresses=addresses))
    ]


def _mentions(node: NodeRow, words: Sequence[str], *, addresses: bool) -> bool:
    where = node.addresses if addresses else ()
    texts = [node.name, node.uuid, *where, *(f"{key}={value}" for key, value in _searchable(node).items())]
    text = "\n".join(texts).lower()
    return all(word in text for word in words)


async def find_node(tables: Tables, id: str) -> NodeRow:
    """A node or proxy by UUID or name. PeerError ``not_found``."""
    node = await (tables.nodes.get(id) if is_uuid(id) else tables.nodes.by_name(id))
    if node is None:
        raise not_found("node", id, hint='"tctl nodes ls" lists them')
    return node


async def change_labels(call: Call, tables: WriteTables, node: NodeRow, new_labels: dict[str, str]) -> None:
    """The server's labels of a node, which decide access, are these from now on."""
    if node.kind != "node":
        raise PeerError(f"{node.name} is a {node.kind}: only nodes have labels")
    await tables.nodes.set_labels(node.uuid, new_labels)
    await call.service.issuer.refresh_node(tables, node.uuid)
    await call.service.audit.record(
        tables, "node.update", node=node.name, node_uuid=node.uuid, by=call.caller.actor, labels=new_labels
    )


async def rename(call: Call, tables: WriteTables, node: NodeRow, name: str) -> None:
    """The node has another name from now on; it renews at once, for its certificate to say so."""
    if node.kind != "node":
        raise PeerError(f"{node.name} is a {node.kind}: only nodes can be renamed")
    await check_unclaimed(call.service, tables, name)
    if any((lock.kind, lock.value) == ("node", node.name) for lock in await tables.cluster.locks()):
        # It names the name: whoever renames would take it off, without having the right to.
        raise PeerError(
            f"{node.name} is locked by this name",
            hint="tctl lock --node with its UUID, then tctl unlock",
            code="in_use",
        )
    await tables.nodes.set_name(node.uuid, name)
    await call.service.issuer.refresh_node(tables, node.uuid)
    await call.service.audit.record(
        tables, "node.update", node=name, node_uuid=node.uuid, by=call.caller.actor, old_name=node.name
    )


async def update_node(call: Call) -> Answer:
    """``name``: what it is called from now on. Labels are merged; null takes one away."""
    name = call.fields.checked("name", check_node) if call.fields.has("name") else None
    changes = call.fields.table("labels")
    async with call.service.store.write() as tables:
        node = await find_node(tables, call.path("id"))
        if name is not None and name != node.name:
            await rename(call, tables, node, name)
            node = await find_node(tables, node.uuid)
        if changes or name is None:
            merged: dict[str, object] = {**node.labels, **changes}
            kept = dict(check_label(key, value) for key, value in merged.items() if value is not None)
            if len(kept) > 64:
                raise PeerError("labels: at most 64 labels")
            await change_labels(call, tables, node, kept)
            node = await find_node(tables, node.uuid)
    return {"node": node_document(call.service, node)}


async def remove_node(call: Call, tables: WriteTables, node: NodeRow, why: str) -> None:
    """Take a node or proxy out of the cluster: its certificates are good for nothing here from now on."""
    service = call.service
    await tables.nodes.delete(node.uuid)
    await tables.audit.forget_sessions(node.uuid)
    service.issuer.removed(tables, node.uuid)
    # A proxy's public addresses are part of the policy.
    await service.issuer.refresh(tables)
    await service.audit.record(
        tables, "node.delete", node=node.name, node_uuid=node.uuid, kind=node.kind, by=call.caller.actor, reason=why
    )

    def forget() -> None:
        service.presence.forget(node.uuid)
        service.written.pop(node.uuid, None)
        service.traffic.forget(node.uuid)
        service.skews.pop(node.uuid, None)
        service.boots.pop(node.uuid, None)
        service.copies.forget(node.uuid)
        service.proxy_sources.pop(node.uuid, None)

    tables.after_commit(forget)


async def delete_node(call: Call) -> Answer:
    async with call.service.store.write() as tables:
        node = await find_node(tables, call.path("id"))
        await remove_node(call, tables, node, "removed")
    return {"uuid": node.uuid, "name": node.name}


async def accept_node(call: Call) -> Answer:
    """Pending or quarantined → active. Of a cloned one: there is only one device. With ``replaces``: a pending one
    takes that node's place at its next contact.
    """
    replaces = call.fields.optional_text("replaces", 300)
    async with call.service.store.write() as tables:
        node = await find_node(tables, call.path("id"))
        if replaces is not None:
            old = await find_node(tables, replaces)
            await _replace(call, tables, node, old)
            return {"node": node_document(call.service, node), "replaces": {"uuid": old.uuid, "name": old.name}}
        copies = await tables.copies.of(node.uuid)
        if node.state == "quarantined" or copies:
            await there_is_one(call.service, tables, node)
        if node.state != "active" or copies:
            await tables.nodes.set_state(node.uuid, "active")
            await call.service.issuer.refresh_node(tables, node.uuid)
            await call.service.audit.record(
                tables,
                "node.update",
                node=node.name,
                node_uuid=node.uuid,
                by=call.caller.actor,
                state="active",
                was=node.state,
                copies=len(copies) or None,
            )
        node = await find_node(tables, node.uuid)
    return {"node": node_document(call.service, node)}


async def _replace(call: Call, tables: WriteTables, node: NodeRow, old: NodeRow) -> None:
    if node.state != "pending" or node.kind != "node":
        raise PeerError(
            f"{node.name} is not pending: who waits to be let in takes another node's place",
            hint=f"for a device that is in already: tctl tokens add --replaces {old.name}",
        )
    if old.kind != "node" or old.uuid == node.uuid:
        raise PeerError("replaces: the name of another node is needed")
    if old.state == "active" and call.service.presence.online(old.uuid):
        raise PeerError(f"{old.name} is online", hint="one that is there is not replaced", code="in_use")
    await move_to(call.service, tables, node, old)
    await call.service.audit.record(
        tables,
        "node.update",
        node=node.name,
        node_uuid=node.uuid,
        by=call.caller.actor,
        was=node.state,
        replaces=old.uuid,
    )


async def reject_node(call: Call) -> Answer:
    """A pending node is removed. One that was accepted is not: that is what removing is for."""
    async with call.service.store.write() as tables:
        node = await find_node(tables, call.path("id"))
        if node.state != "pending":
            raise PeerError(
                f"node {printable(node.name, 64)} is not pending", hint=f"tctl nodes rm {node.name}", code="in_use"
            )
        await remove_node(call, tables, node, "rejected")
    return {"uuid": node.uuid, "name": node.name}
