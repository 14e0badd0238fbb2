"""``tctl auth sign``: certificates without a login, for a user or for an sshd that stays."""

from __future__ import annotations

import uuid

from tinyport.auth.api_login import (
    LOGIN_LIFE,
    LONGEST_SIGNED,
    MAX_KEY,
    SHORTEST_LIFE,
    issue_for,
    login_answer,
    roles_of,
)
from tinyport.auth.api_nodes import find_node
from tinyport.auth.joining import check_free
from tinyport.auth.refusals import exists, not_found
from tinyport.auth.web import Answer, Call
from tinyport.core.certificate import public_line
from tinyport.core.errors import PeerError
from tinyport.core.names import check_login, check_user

#: a certificate in a safe is renewed with what else lies there, once a year
BREAK_GLASS_LIFE = 366 * 86400
LONGEST_BREAK_GLASS = 5 * 366 * 86400


async def sign(call: Call) -> Answer:
    """For a user; ``host`` in the request: for a machine; ``break_glass``: for the day when auth is gone."""
    if call.fields.has("host"):
        return await _sign_host(call)
    if call.fields.has("break_glass"):
        return await _sign_break_glass(call)
    service, fields = call.service, call.fields
    name = fields.checked("user", check_user)
    ssh_key = service.authority.user_key(fields.text("ssh_public_key", MAX_KEY))
    csr = fields.optional_text("tls_csr", MAX_KEY)
    request = service.authority.request(csr) if csr is not None else None
    ttl = fields.seconds("ttl", SHORTEST_LIFE, LONGEST_SIGNED, LOGIN_LIFE)
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
    return login_answer(call, user, logins, pair)


async def _sign_host(call: Call) -> Answer:
    service, fields = call.service, call.fields
    name = fields.text("host", 63)
    ssh_key = service.authority.host_key(fields.text("ssh_public_key", MAX_KEY))
    ttl = fields.seconds("ttl", SHORTEST_LIFE, LONGEST_SIGNED, 90 * 86400)
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


async def _sign_break_glass(call: Call) -> Answer:
    """``{"break_glass": NODE, "logins": [...], "ssh_public_key", "ttl"?}``: see docs/break-glass.md. The answer has
    what else is needed to get in without us: the node's own key and where it was last reached."""
    service, fields = call.service, call.fields
    ssh_key = service.authority.user_key(fields.text("ssh_public_key", MAX_KEY))
    ttl = fields.seconds("ttl", SHORTEST_LIFE, LONGEST_BREAK_GLASS, BREAK_GLASS_LIFE)
    logins = fields.texts("logins", check_login)
    if not logins:
        raise PeerError("logins: at least one is needed")
    async with service.store.write() as tables:
        node = await find_node(tables, fields.text("break_glass", 300))
        if node.kind != "node":
            raise PeerError(f"{node.name} is a {node.kind}: only nodes have sessions")
        pair = await service.authority.issue_break_glass(tables, node=node, logins=logins, ssh_key=ssh_key, ttl=ttl)
        await service.audit.record(
            tables,
            "break_glass.issue",
            node=node.name,
            node_uuid=node.uuid,
            logins=list(logins),
            by=call.caller.actor,
            serial=pair.serial,
            fingerprint=pair.fingerprint,
            expires=pair.valid_before,
        )
    return {
        "ssh_certificate": pair.ssh_certificate,
        "cluster": service.cluster,
        "node": node.name,
        "uuid": node.uuid,
        "host_key": public_line(node.ssh_key),
        "host_cas": list(service.authority.host_cas),
        "addresses": list(node.addresses),
        "valid_before": pair.valid_before,
    }
