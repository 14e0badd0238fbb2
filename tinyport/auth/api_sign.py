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
from tinyport.auth.joining import check_free
from tinyport.auth.refusals import exists, not_found
from tinyport.auth.web import Answer, Call
from tinyport.core.names import check_user


async def sign(call: Call) -> Answer:
    """For a user; ``host`` in the request: for a machine."""
    if call.fields.has("host"):
        return await _sign_host(call)
    service, fields = call.service, call.fields
    name = fields.checked("user", check_user)
    ssh_key = service.authority.user_key(fields.text("ssh_public_key", MAX_KEY))
    csr = fields.optional_text("tls_csr", MAX_KEY)
    request = service.authority.request(csr) if csr is not None else None
    ttl = fields.integer("ttl", SHORTEST_LIFE, LONGEST_SIGNED, LOGIN_LIFE)
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
    ttl = fields.integer("ttl", SHORTEST_LIFE, LONGEST_SIGNED, 90 * 86400)
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
