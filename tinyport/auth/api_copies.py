"""Routes about devices that share an identity: a node's process says that it is there, an administrator splits."""

from __future__ import annotations

from dataclasses import replace

from tinyport.auth.api_nodes import find_node
from tinyport.auth.copies import Standing, standing
from tinyport.auth.joining import check_free, check_template
from tinyport.auth.minting import make_token
from tinyport.auth.store import WriteTables
from tinyport.auth.store_copies import CopyRow
from tinyport.auth.store_nodes import NodeRow
from tinyport.auth.store_tokens import TokenRow
from tinyport.auth.web import Answer, Call
from tinyport.core.errors import PeerError
from tinyport.core.instances import check_instance

# Somebody has to find the two devices.
SPLIT_LIFE = 7 * 86400


async def here(call: Call) -> Answer:
    """A node's process, at its start and when a proxy has preferred another one."""
    service = call.service
    instance = call.fields.checked("instance", check_instance)
    who = f"{call.caller.uuid} {instance}"
    lived = service.moments.read(call.fields.optional_text("heard", 100) or "", who)
    leaf = call.caller.leaf
    assert leaf is not None
    found = Standing()
    if lived:
        async with service.store.write() as tables:
            found = await standing(service, tables, call.caller, leaf, instance, lived)
    return {
        "heard": service.moments.make(service.now(), who),
        "again": not lived,
        "copy": found.copy,
        "split": found.split,
        "renew": found.renew,
    }


async def split_node(call: Call) -> Answer:
    """Two devices have one node's identity. Those that auth has told from the first become nodes of their own at their
    next contact. Where it has not told them, neither is believed from here on, and each joins by a token; for a node
    that is not quarantined only if that is asked for.
    """
    fields = call.fields
    name = fields.optional_text("name", 100) or ""
    labels, pending = fields.labels("labels"), fields.flag("pending")
    async with call.service.store.write() as tables:
        node = await find_node(tables, call.path("id"))
        # Whoever may make tokens may not for that become a node that is there already.
        call.caller.require("nodes", "update")
        if node.kind != "node":
            raise PeerError(f"{node.name} is a {node.kind}: only nodes are split")
        copies = [one for one in await tables.copies.of(node.uuid) if not one.became]
        # Nobody quarantines a node that is well by a name mistyped, or because somebody else was faster.
        if not copies and (fields.flag("copies") or (node.state != "quarantined" and not fields.flag("quarantine"))):
            raise PeerError(
                f"no copy of {node.name} is known",
                hint=f'are there two devices all the same? "tctl nodes split {node.name} --yes" quarantines it until '
                "each has joined again",
                code="not_found",
            )
        if name:
            check_template(name)
            if "{" not in name:
                await check_free(call.service, tables, name)
                if len(copies) > 1:
                    raise PeerError("name: all of them would get the same name", hint="put {uuid8} in it")
        template = name or f"{node.name[:50]}-{{uuid8}}"
        if copies:
            terms = {"name_template": template, "labels": labels, "pending": pending}
            made = await _split_known(call, tables, node, copies, terms)
        else:
            made = await _split_unknown(call, tables, node, template, labels)
        await call.service.audit.record(
            tables,
            "node.split",
            node=node.name,
            node_uuid=node.uuid,
            by=call.caller.actor,
            was=node.state,
            copies=len(copies) or None,
        )
    return {"uuid": node.uuid, "name": node.name, **made}


async def _split_known(
    call: Call, tables: WriteTables, node: NodeRow, copies: list[CopyRow], terms: dict[str, object]
) -> dict[str, object]:
    for copy in copies:
        await tables.copies.split(copy.id, terms)
    await call.service.issuer.refresh_node(tables, node.uuid)
    return {"copies": [{"id": copy.id, "peer": copy.peer, "found": copy.found} for copy in copies]}


async def _split_unknown(
    call: Call, tables: WriteTables, node: NodeRow, template: str, labels: dict[str, str]
) -> dict[str, object]:
    service = call.service
    if node.state != "quarantined":
        await tables.nodes.set_state(node.uuid, "quarantined")
        await service.issuer.refresh_node(tables, node.uuid)
    wanted = TokenRow(
        id="", digest="", type="node", created=0.0, expires=service.now() + SPLIT_LIFE, uses=1, replaces=node.uuid
    )
    _, original = await make_token(service, tables, wanted, call.caller.actor)
    aside = replace(wanted, replaces="", name_template=template, labels=labels, pending=True)
    _, copy = await make_token(service, tables, aside, call.caller.actor)
    return {
        "copies": [],
        "original": original,
        "copy": copy,
        "expires": wanted.expires,
        "ca_pins": list(service.authority.ca_pins),
    }
