"""Routes about join tokens."""

from __future__ import annotations

import ipaddress

from tinyport.auth.api_nodes import find_node
from tinyport.auth.joining import check_template
from tinyport.auth.minting import make_token
from tinyport.auth.refusals import not_found
from tinyport.auth.registering import check_serial
from tinyport.auth.settings import JOIN_KINDS
from tinyport.auth.store import WriteTables
from tinyport.auth.store_tokens import TokenRow
from tinyport.auth.web import Answer, Call
from tinyport.core.errors import PeerError
from tinyport.core.names import printable

TOKEN_LIFE = 30 * 60
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
        "serials": list(token.serials),
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
        if kind != "node" or uses > 1 or template or fields.has("labels") or fields.has("serials"):
            raise PeerError("replaces: for one node, whose name and labels stay")
        node = await find_node(call.service.store.read, replaces)
        if node.kind != "node":
            raise PeerError(f"{node.name} is a {node.kind}: only nodes are replaced")
        call.caller.require("nodes", "update")
        replaces = node.uuid
    serials = fields.texts("serials", check_serial)
    if serials:
        if kind != "node":
            raise PeerError("serials: only nodes take an old place")
        # Each of these becomes a node that is there already.
        call.caller.require("nodes", "update")
    row = TokenRow(
        id="",
        digest="",
        type=kind,
        created=0.0,
        expires=call.service.now() + fields.seconds("ttl", 1, LONGEST_TOKEN, TOKEN_LIFE),
        uses=uses,
        labels=fields.labels("labels"),
        name_template=template,
        cidr=fields.texts("cidr", _network),
        pending=pending,
        replaces=replaces,
        serials=serials,
    )
    async with call.service.store.write() as tables:
        made, secret = await make_token(call.service, tables, row, call.caller.actor)
    return {
        "id": made.id,
        "token": secret,
        "expires": made.expires,
        "uses": made.uses,
        "ca_pins": list(call.service.authority.ca_pins),
    }


async def remove_token(call: Call, tables: WriteTables, id: str) -> None:
    if not await tables.tokens.delete(id):
        raise not_found("token", id, hint='"tctl tokens ls" lists them')
    await call.service.audit.record(tables, "token.delete", token=id, by=call.caller.actor)


async def delete_token(call: Call) -> Answer:
    id = call.path("id")
    async with call.service.store.write() as tables:
        await remove_token(call, tables, id)
    return {"id": id}
