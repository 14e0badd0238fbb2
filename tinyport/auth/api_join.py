"""Routes by which machines get and keep their identity: join, boot, return, renew."""

from __future__ import annotations

from collections.abc import Sequence

from tinyport.auth.booting import boot, check_device_proof, remember_key
from tinyport.auth.fields import Fields, one_line
from tinyport.auth.joining import (
    JOIN_PREFIX,
    RETURN_PREFIX,
    JoinRequest,
    check_proof,
    come_back,
    identity_answer,
    join,
    renew,
)
from tinyport.auth.service import Service
from tinyport.auth.settings import JOIN_KINDS
from tinyport.auth.web import Answer, Call
from tinyport.core.certificate import fingerprint, parse_public_line
from tinyport.core.errors import AccessDenied, PeerError, TinyportError
from tinyport.core.instances import check_instance
from tinyport.core.names import check_node, format_address, is_uuid, parse_address, printable

MAX_ADDRESSES = 16
_MAX_KEY = 4096
_MAX_PEM = 16 * 1024


def public_addresses(items: Sequence[object]) -> tuple[str, ...]:
    """A proxy's public addresses. PeerError for what is none."""
    if len(items) > MAX_ADDRESSES:
        raise PeerError(f"addresses: at most {MAX_ADDRESSES}")
    found = []
    for item in items:
        if not isinstance(item, str) or len(item) > 300:
            raise PeerError("addresses: host:port is needed")
        found.append(format_address(*parse_address(item)))
    return tuple(dict.fromkeys(found))


def _kind(fields: Fields) -> str:
    kind = fields.text("kind", 16)
    if kind not in JOIN_KINDS:
        raise PeerError(f"kind: must be one of {', '.join(JOIN_KINDS)}")
    return kind


async def join_route(call: Call) -> Answer:
    """A stranger with a token becomes a node or a proxy."""
    service, fields = call.service, call.fields
    service.check_source(call.source)
    token = fields.text("token", 300)
    kind = _kind(fields)
    wanted = _join_request(call, kind)
    nodename = wanted.nodename
    try:
        async with service.store.write() as tables:
            node, pair = await join(service, tables, wanted, token)
            if wanted.device_key and kind == "node":
                await remember_key(service, tables, wanted.device_key, node)
    except TinyportError as error:
        await failed(call, "node.join.failed", error, node=nodename, kind=kind)
        raise
    service.log.info("joined", kind=node.kind, name=node.name, uuid=node.uuid, source=call.source)
    return await identity_answer(service, node, pair)


def _join_request(call: Call, kind: str) -> JoinRequest:
    """What a stranger asks for, with the proofs of its keys checked. PeerError when one is none."""
    service, fields = call.service, call.fields
    ssh_key = service.authority.host_key(fields.text("ssh_public_key", _MAX_KEY))
    request = service.authority.request(fields.text("tls_csr", _MAX_PEM))
    challenge = fields.text("challenge", 256)
    check_proof(service, JOIN_PREFIX, challenge, fields.text("proof", 256), ssh_key, request)
    device_key = b""
    if fields.has("device_key"):
        device_key = parse_public_line(fields.text("device_key", _MAX_KEY))
        check_device_proof(challenge, fields.text("device_proof", _MAX_KEY), device_key, ssh_key, request)
        if device_key == ssh_key:
            raise PeerError("device_key: a key of its own is needed, not the SSH host key")
    return JoinRequest(
        kind=kind,
        nodename=fields.checked("nodename", check_node),
        ssh_key=ssh_key,
        request=request,
        version=one_line(fields.body.get("version"), 64),
        addresses=public_addresses(fields.items("addresses")) if kind == "proxy" else (),
        board=one_line(fields.body.get("serial"), 40).lower(),
        source=call.source,
        device_key=device_key,
    )


async def boot_route(call: Call) -> Answer:
    """A device that keeps its keys in memory has booted: by its device key, or by a token that names its board."""
    service, fields = call.service, call.fields
    service.check_source(call.source)
    token = "" if fields.has("device_key") else fields.text("token", 300)
    wanted = _join_request(call, "node")
    try:
        async with service.store.write() as tables:
            node, pair = await boot(service, tables, wanted, token)
    except TinyportError as error:
        if error.code == "in_use" and _waits(service, wanted):
            await refused(call, "node.boot.failed", error, source=call.source or None, node=wanted.nodename)
        else:
            await failed(call, "node.boot.failed", error, node=wanted.nodename)
        raise
    service.log.info("booted", name=node.name, uuid=node.uuid, source=call.source)
    return await identity_answer(service, node, pair)


def _waits(service: Service, wanted: JoinRequest) -> bool:
    """Has it been told to wait no oftener than a device is after a power cut? It has proved who it is, and all others
    at its address are not to be shut out for it.
    """
    who, now = fingerprint(wanted.device_key) if wanted.device_key else wanted.board, service.settings.monotonic()
    service.waited.failed(who, now)
    return service.waited.bearable(who, now)


async def failed(call: Call, event: str, error: TinyportError, **fields: object) -> None:
    """Count a stranger's failure against its source, and write it down: but no flood of them."""
    if call.service.count_failure(call.source):
        await refused(call, event, error, source=call.source or None, **fields)


async def refused(call: Call, event: str, error: TinyportError, **fields: object) -> None:
    """Write down what was refused, and why: both sentences of the error."""
    service = call.service
    async with service.store.write(or_go_on=True) as tables:
        await service.audit.record(
            tables,
            event,
            refusal=error.code,
            reason=printable(error.message, 300),
            detail=printable(error.detail, 300) or None,
            **fields,
        )


async def return_route(call: Call) -> Answer:
    """A device that slept past its certificate's end comes back by the key that was registered."""
    service, fields = call.service, call.fields
    service.check_source(call.source)
    uuid = fields.text("uuid", 64)
    if not is_uuid(uuid):
        raise PeerError("uuid: a UUID is needed")
    ssh_key = service.authority.host_key(fields.text("ssh_public_key", _MAX_KEY))
    request = service.authority.request(fields.text("tls_csr", _MAX_PEM))
    check_proof(service, RETURN_PREFIX, fields.text("challenge", 256), fields.text("proof", 256), ssh_key, request)
    try:
        async with service.store.write() as tables:
            back = await come_back(
                service,
                tables,
                uuid,
                ssh_key,
                request,
                call.source,
                instance=_instance(fields),
                generation=fields.integer("generation", 0, 2**53) if fields.has("generation") else None,
            )
        if isinstance(back, AccessDenied):
            raise back
    except AccessDenied as error:
        await failed(call, "node.renew.failed", error, node_uuid=uuid)
        raise
    return await identity_answer(service, *back)


def _instance(fields: Fields) -> str:
    """Which process asks; "" for one that does not say."""
    return fields.checked("instance", check_instance) if fields.has("instance") else ""


async def renew_route(call: Call) -> Answer:
    """New certificates for whoever shows their current ones."""
    service, fields = call.service, call.fields
    fields.integer("generation", 0, 2**53)
    ssh_key = service.authority.host_key(fields.text("ssh_public_key", _MAX_KEY))
    request = service.authority.request(fields.text("tls_csr", _MAX_PEM))
    addresses = public_addresses(fields.items("addresses")) if call.caller.kind == "proxy" else ()
    async with service.store.write() as tables:
        if addresses:
            await tables.nodes.set_addresses(call.caller.uuid, addresses)
        instance = _instance(fields) if call.caller.kind == "node" else ""
        renewed = await renew(service, tables, call.caller, ssh_key, request, instance)
    if isinstance(renewed, AccessDenied):
        service.log.warning("no certificate for a copy", node=call.caller.name, code=renewed.code)
        raise renewed
    return await identity_answer(service, *renewed)
