"""Two devices with one identity: how auth tells, and what becomes of the later one (docs/decisions, cloned cards).

The first goes on. The later one is a *copy*: its heartbeats count for nothing, it gets no sessions and no certificates,
until an administrator makes a node of its own of it (``split``) or says that there is only one (``accept``).
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tinyport.auth.callers import Caller
from tinyport.auth.minting import make_token
from tinyport.auth.service import Service
from tinyport.auth.store import Tables, WriteTables
from tinyport.auth.store_copies import CopyRow
from tinyport.auth.store_nodes import NodeRow
from tinyport.auth.store_tokens import TokenRow
from tinyport.auth.tls_certificates import BACKDATE, Leaf
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.instances import meet

#: how long a copy has to join after it was given the token for that
SPLIT_TOKEN_LIFE = 600
# By then a proxy has seen that a tunnel is dead: two and a half of the slowest beats.
NOTICED_WITHIN = 2400
# A device that is copied by the hundred is nobody's twin but a mistake in an image; each is a line in every document.
MOST_COPIES = 16


@dataclass(frozen=True)
class Standing:
    """What auth makes of a process: ``copy`` and ``split`` as above; ``renew``: it is the first, and its certificate
    must be another one than its copy's.
    """

    copy: bool = False
    split: bool = False
    renew: bool = False


async def shown_generation(tables: Tables, node: NodeRow, leaf: Leaf) -> int:
    """The generation of the certificate that is shown."""
    shown = await tables.cluster.generation_of(leaf.serial, node.uuid)
    # None: issued after the backup that we were restored from. The registered key still proves who it is.
    return node.generation if shown is None else shown


async def standing(
    service: Service, tables: WriteTables, caller: Caller, leaf: Leaf, instance: str, lived: float
) -> Standing:
    """A node's process says that it is there, with the certificate of ``caller``; ``lived``: when it was sure to live
    (Unix seconds)."""
    node = await tables.nodes.get(caller.uuid)
    if node is None:
        raise AccessDenied("this node was removed from the cluster", code="removed")
    shown = await shown_generation(tables, node, leaf)
    mine = await copy_that_asks(service, tables, node, shown, instance)
    if mine is not None:
        await tables.copies.saw(node.uuid, instance, service.now(), "")
        return Standing(copy=True, split=mine.split is not None)
    history = await tables.nodes.instances(node.uuid)
    if shown > node.generation:
        # It has used a newer one: whoever comes with an older one is another device.
        await tables.nodes.set_generations(node.uuid, shown, node.issued_generation)
        history = [one for one in history if one[0] == instance]
    meeting = meet(history, instance, lived)
    if meeting.history != tuple(history) or shown > node.generation:
        await tables.nodes.set_instances(node.uuid, meeting.history)
    for copy in meeting.copies:
        await found_copy(service, tables, node, copy)
    issued = leaf.not_before + BACKDATE
    twins = [one for one in await tables.copies.of(node.uuid) if issued <= one.found]
    return Standing(renew=bool(twins))


def _is_newest(history: Sequence[tuple[str, float]], instance: str) -> bool:
    return not history or history[-1][0] == instance


async def find_copy(tables: Tables, node: str, instance: str) -> CopyRow | None:
    """What is known of this process, when it is a copy's. A node that moves to another's place is all of it."""
    copies = await tables.copies.of(node) if instance else []
    return next((one for one in copies if one.instance == instance or one.place), None)


async def copy_that_asks(
    service: Service, tables: WriteTables, node: NodeRow, shown: int, instance: str
) -> CopyRow | None:
    """What is known of a process that shows a certificate of this generation, when it is a copy's: known before, or one
    whose certificate is older than one that another process has used.
    """
    known = await find_copy(tables, node.uuid, instance)
    if known is not None and known.instance != instance:
        await tables.copies.started_again(known.id, instance, service.now())
        await service.issuer.refresh_node(tables, node.uuid)
        known = await find_copy(tables, node.uuid, instance)
    if known is not None or not instance or shown >= node.generation:
        return known
    if _is_newest(await tables.nodes.instances(node.uuid), instance):
        return None
    await found_copy(service, tables, node, instance, generation=shown)
    return await find_copy(tables, node.uuid, instance)


async def found_copy(
    service: Service, tables: WriteTables, node: NodeRow, instance: str, *, generation: int | None = None
) -> None:
    """This process is another device's than the node's own."""
    now = service.now()
    known = await tables.copies.of(node.uuid)
    # A copy that started again is none more; one that is connected is another one, unless that is yesterday's news
    # (copies_left).
    gone = [one for one in known if not one.became and one.instance not in service.copies.of(node.uuid)]
    if gone:
        await tables.copies.started_again(gone[0].id, instance, now)
    elif len(known) < MOST_COPIES:
        await tables.copies.add(CopyRow(secrets.token_hex(4), node.uuid, instance, now, now))
        await service.audit.record(
            tables, "node.quarantined", node=node.name, node_uuid=node.uuid, copy=True, generation=generation
        )
        service.log.warning("a node was cloned: the later device is quarantined", node=node.name, uuid=node.uuid)
    else:
        # Which of them is which is beyond us.
        await tables.nodes.set_state(node.uuid, "quarantined")
    await service.issuer.refresh_node(tables, node.uuid)


async def copies_left(service: Service, tables: WriteTables, uuid: str, instances: Collection[str]) -> None:
    """A proxy says that processes of copies are not connected any more. One that started again, and was back before
    that was known, is in two rows: they become one.

    So is, until it is back, a copy that left by chance soon after another one was found. Then it has a row again.
    """
    there, now = service.copies.of(uuid), service.now()
    merged = False
    for instance in instances:
        rows = await tables.copies.of(uuid)
        left = next((one for one in rows if one.instance == instance), None)
        if left is None or left.became or left.place or instance in there:
            continue
        for again in rows:
            if again is not left and again.found >= left.found and 0 <= now - again.found <= NOTICED_WITHIN:
                await tables.copies.are_one(left, again)
                merged = True
                break
    if merged:
        await service.issuer.refresh_node(tables, uuid)


async def refuse_copy(service: Service, tables: WriteTables, node: NodeRow, copy: CopyRow) -> AccessDenied:
    """What a copy reads that wants a certificate; with a token of its own, when it was split. To be raised after the
    commit."""
    await tables.copies.saw(node.uuid, copy.instance, service.now(), "")
    settled = await tables.nodes.get(copy.became) if copy.became else None
    if copy.split is None or (copy.became and (settled is None or settled.generation)):
        return quarantined(node)
    labels = copy.split.get("labels")
    wanted = TokenRow(
        id="",
        digest="",
        type="node",
        created=0.0,
        expires=service.now() + SPLIT_TOKEN_LIFE,
        uses=1,
        labels={str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {},
        name_template=str(copy.split.get("name_template") or ""),
        pending=bool(copy.split.get("pending")),
        # Its answer was lost: the same node again, were it with another key.
        replaces=copy.became or copy.place,
        copy=copy.id,
    )
    await tables.tokens.delete_of_copy(copy.id)
    _, text = await make_token(service, tables, wanted, f"split of {node.name}")
    refusal = AccessDenied(f"this device is another one than {node.name}: it joins as itself", code="split")
    refusal.extra["token"] = text
    return refusal


async def joined_as_another(service: Service, tables: WriteTables, copy: str, node: NodeRow) -> None:
    """The copy with this id is a node of its own now."""
    row = await tables.copies.became(copy, node.uuid)
    if row is None:
        return
    if row.place:
        # What it was until now was only for the time that it waited.
        await tables.nodes.delete(row.node)
        service.issuer.removed(tables, row.node)
        return
    await service.issuer.refresh_node(tables, row.node)


async def move_to(service: Service, tables: WriteTables, node: NodeRow, old: NodeRow) -> None:
    """At its next contact the pending ``node`` takes the place of ``old``, by joining again."""
    history = await tables.nodes.instances(node.uuid)
    if not history:
        raise PeerError(
            f"{node.name} was not here yet, or its tinyport is older",
            hint=f"on the device, join again: tctl tokens add --replaces {old.name}",
        )
    await tables.copies.forget(node.uuid)
    copy = CopyRow(secrets.token_hex(4), node.uuid, history[-1][0], service.now(), service.now())
    await tables.copies.add(copy)
    await tables.copies.split(copy.id, {"place": old.uuid})
    await service.issuer.refresh_node(tables, node.uuid)


def quarantined(node: NodeRow) -> AccessDenied:
    return AccessDenied(
        f"there are two machines with the identity of {node.name}; this one is quarantined",
        hint=f"an administrator decides: tctl nodes split {node.name}, or tctl nodes accept {node.name}",
        code="quarantined",
    )


async def there_is_one(service: Service, tables: WriteTables, node: NodeRow) -> None:
    """An administrator says that all of them are one device: whatever certificate it shows next is the newest."""
    await tables.copies.forget(node.uuid)
    await tables.nodes.set_instances(node.uuid, ())
    await tables.nodes.set_generations(node.uuid, 0, node.issued_generation)
