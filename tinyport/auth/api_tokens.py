"""Routes about join tokens."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import replace

from tinyport.auth.api_nodes import find_node
from tinyport.auth.joining import check_template
from tinyport.auth.refusals import not_found
from tinyport.auth.settings import JOIN_KINDS
from tinyport.auth.store import WriteTables
from tinyport.auth.store_tokens import TokenRow
from tinyport.auth.web import Answer, Call
from tinyport.core import tokens
from tinyport.core.errors import PeerError
from tinyport.core.names import printable

TOKEN_LIFE = 30 * 60
# Somebody has to find the two devices.
SPLIT_LIFE = 7 * 86400
LONGEST_TOKEN = 366 * 86400
MOST_USES = 1_000_000


def token_document(token: TokenRow) -> dict[str, object]:
    """A token as listings and resources show it: its secret is nowhere."""
    return {
        "kind": "token",
        "name": token.id,
        "id": token.id,
        "type": token.type,
        "created": token.created,
        "expires": token.expires,
        "uses": token.uses,
        "used": token.used,
        "labels": dict(token.labels),
        "name_template": token.name_template,
        "cidr": list(token.cidr),
        "pending": token.pending,
        "replaces": token.replaces,
    }


async def list_tokens(call: Call) -> Answer:
    now = call.service.now()
    rows = await call.service.store.read.tokens.all()
    # Those that ended stay for a while for devices whose answer was lost; nobody else has a use for them.
    return {"tokens": [token_document(row) for row in rows if row.expires > now]}


def _network(value: object) -> str:
    try:
        return str(ipaddress.ip_network(value if isinstance(value, str) else "", strict=False))
    except ValueError:
        raise PeerError(f"{printable(str(value), 60)!r} is not a network", hint='write "10.0.0.0/8"') from None


async def add_token(call: Call) -> Answer:
    """A new token. Its secret is in this answer and nowhere else."""
    fields = call.fields
    kind = fields.text("type", 16)
    if kind not in JOIN_KINDS:
        raise PeerError(f"type: must be one of {', '.join(JOIN_KINDS)}")
    pending = fields.flag("pending")
    if pending and kind != "node":
        # A proxy's certificate lets it stand between people and nodes: there is nothing that it could wait with.
        raise PeerError("pending: only nodes can wait to be accepted", hint="give the proxy a token when you trust it")
    template = fields.optional_text("name_template", 100) or ""
    uses = fields.integer("uses", 1, MOST_USES, 1)
    if template:
        check_template(template)
        if uses > 1 and "{" not in template:
            raise PeerError(
                "name_template: all devices would get the same name", hint="put {name}, {uuid8} or {serial} in it"
            )
    replaces = fields.optional_text("replaces", 300) or ""
    if replaces:
        if kind != "node" or uses > 1 or template or fields.has("labels"):
            raise PeerError("replaces: for one node, whose name and labels stay")
        node = await find_node(call.service.store.read, replaces)
        if node.kind != "node":
            raise PeerError(f"{node.name} is a {node.kind}: only nodes are replaced")
        call.caller.require("nodes", "update")
        replaces = node.uuid
    row = TokenRow(
        id="",
        digest="",
        type=kind,
        created=0.0,
        expires=call.service.now() + fields.integer("ttl", 1, LONGEST_TOKEN, TOKEN_LIFE),
        uses=uses,
        labels=fields.labels("labels"),
        name_template=template,
        cidr=fields.texts("cidr", _network),
        pending=pending,
        replaces=replaces,
    )
    async with call.service.store.write() as tables:
        made, secret = await make_token(call, tables, row)
    return {
        "id": made.id,
        "token": secret,
        "expires": made.expires,
        "uses": made.uses,
        "ca_pins": list(call.service.authority.ca_pins),
    }


async def make_token(call: Call, tables: WriteTables, wanted: TokenRow) -> tuple[TokenRow, str]:
    """``wanted`` with an id and a secret of its own, written down; and the token's text, which is kept nowhere."""
    text = tokens.new(secrets.token_bytes(tokens.ID_BYTES), secrets.token_bytes(tokens.SECRET_BYTES))
    id, secret = tokens.split(text)
    row = replace(wanted, id=id, digest=tokens.digest(secret), created=call.service.now())
    await tables.tokens.add(row)
    await call.service.audit.record(
        tables,
        "token.create",
        token=id,
        type=row.type,
        by=call.caller.actor,
        expires=row.expires,
        uses=row.uses,
        labels=dict(row.labels) or None,
        replaces=row.replaces or None,
    )
    return row, text


async def split_node(call: Call) -> Answer:
    """Two devices have one node's identity. Neither is believed from here on; with one of the tokens in the answer one
    of them becomes that node again, with the other the other one a node of its own, which waits to be accepted.
    """
    service = call.service
    async with service.store.write() as tables:
        node = await find_node(tables, call.path("id"))
        # Whoever may make tokens may not for that become a node that is there already.
        call.caller.require("nodes", "update")
        if node.kind != "node":
            raise PeerError(f"{node.name} is a {node.kind}: only nodes are split")
        if node.state != "quarantined":
            await tables.nodes.set_state(node.uuid, "quarantined")
            await service.issuer.refresh_node(tables, node.uuid)
        wanted = TokenRow(
            id="", digest="", type="node", created=0.0, expires=service.now() + SPLIT_LIFE, uses=1, replaces=node.uuid
        )
        _, original = await make_token(call, tables, wanted)
        aside = replace(wanted, replaces="", name_template=f"{node.name[:50]}-{{uuid8}}", pending=True)
        _, copy = await make_token(call, tables, aside)
        await service.audit.record(
            tables, "node.split", node=node.name, node_uuid=node.uuid, by=call.caller.actor, was=node.state
        )
    return {
        "uuid": node.uuid,
        "name": node.name,
        "original": original,
        "copy": copy,
        "expires": wanted.expires,
        "ca_pins": list(service.authority.ca_pins),
    }


async def remove_token(call: Call, tables: WriteTables, id: str) -> None:
    if not await tables.tokens.delete(id):
        raise not_found("token", id)
    await call.service.audit.record(tables, "token.delete", token=id, by=call.caller.actor)


async def delete_token(call: Call) -> Answer:
    id = call.path("id")
    async with call.service.store.write() as tables:
        await remove_token(call, tables, id)
    return {"id": id}
