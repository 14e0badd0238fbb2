"""How a device becomes a node (or proxy) and stays one: tokens, names, registered keys, generations."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tinyport.auth.authority import IssuedPair
from tinyport.auth.callers import Caller
from tinyport.auth.copies import (
    copy_that_asks,
    joined_as_another,
    quarantined,
    refuse_copy,
    shown_generation,
)
from tinyport.auth.presence import LEASE
from tinyport.auth.refusals import exists, refuse_locked
from tinyport.auth.registering import board_of, recognised
from tinyport.auth.service import Service
from tinyport.auth.settings import StaticToken
from tinyport.auth.store import WriteTables
from tinyport.auth.store_nodes import NodeRow
from tinyport.auth.store_tokens import TokenRow
from tinyport.auth.tls_certificates import BACKDATE, Request
from tinyport.core import tokens
from tinyport.core.certificate import fingerprint
from tinyport.core.durations import format_duration
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.names import check_node, is_uuid, parse_address, printable
from tinyport.core.signatures import verify_raw

JOIN_PREFIX = b"tinyport-join-v1\0"
RETURN_PREFIX = b"tinyport-return-v1\0"
#: how long after its end a token still gives a device that used it the same answer again
LATE_ANSWER = 7 * 86400
#: what a proxy is called on its own certificate, and what every machine calls itself
RESERVED_NAMES = frozenset(("proxy", "auth", "localhost"))
_PLACEHOLDERS = ("name", "uuid8", "serial")
_FOREVER = float(2**53)


@dataclass(frozen=True)
class JoinRequest:
    """What a device asks for, with its proofs checked (but for the token)."""

    kind: str
    nodename: str
    ssh_key: bytes
    request: Request
    version: str
    addresses: tuple[str, ...]
    #: the board's serial number, as the device says; only for ``{serial}`` in a name template
    board: str
    source: str
    #: the key by which a device that keeps its own in memory is known (booting); b"" for what joins once and for all
    device_key: bytes = b""

    @property
    def registered_key(self) -> bytes:
        """By which of its keys an administrator may have registered it."""
        return self.device_key or self.ssh_key


def check_proof(service: Service, prefix: bytes, challenge: str, proof: str, ssh_key: bytes, request: Request) -> None:
    """The device has the SSH host key, now, and asks for this very TLS key. PeerError when that is not shown."""
    service.challenges.check(challenge, service.now())
    try:
        signature = base64.b64decode(proof, validate=True)
    except (binascii.Error, ValueError):
        raise PeerError("proof: not base64") from None
    data = prefix + challenge.encode() + b"\0" + hashlib.sha256(request.der).digest()
    try:
        verify_raw(ssh_key, data, signature)
    except PeerError:
        raise PeerError("proof: not a signature of the challenge and the request by this SSH key") from None


# -------------------------------------------------------------------- tokens


def _static(service: Service, id: str) -> TokenRow | None:
    for token in service.settings.static_tokens:
        static_id, secret = tokens.split(token.value)
        if static_id == id:
            return _static_row(token, static_id, secret)
    return None


def _static_row(token: StaticToken, id: str, secret: str) -> TokenRow:
    return TokenRow(
        id=id,
        digest=tokens.digest(secret),
        type=token.type,
        created=0.0,
        expires=_FOREVER,
        uses=0,
        labels=token.labels,
        name_template=token.name_template,
        cidr=token.cidr,
        pending=token.pending,
    )


async def find_token(service: Service, tables: WriteTables, text: str) -> tuple[TokenRow, bool]:
    """The token that ``id.secret`` is, and whether it is one of the configuration. AccessDenied when it is none."""
    id, secret = tokens.split(text)
    static = _static(service, id)
    found = static or await tables.tokens.get(id)
    # Compared in any case: an id that exists must not answer slower than one that does not.
    right = tokens.matches(secret, found.digest if found is not None else tokens.digest(""))
    if found is None or not right:
        raise AccessDenied(
            "the token is not valid",
            detail=f"token id {printable(id, 40)}",
            hint="copy it whole, or make a new one: tctl tokens add",
            code="bad_token",
        )
    return found, static is not None


def check_source(token: TokenRow, source: str) -> None:
    """AccessDenied when the token is for other networks. Where a device comes from that joins through a proxy, that
    proxy says."""
    if not token.cidr:
        return
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        raise AccessDenied("the token may not be used from this address", detail=f"source {source!r}") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if not any(address in ipaddress.ip_network(network, strict=False) for network in token.cidr):
        raise AccessDenied(
            "the token may not be used from this address",
            detail=f"source {source}, allowed {', '.join(token.cidr)}",
            hint="tctl tokens ls shows from which networks",
        )


def check_template(template: str) -> str:
    """A token's name template. PeerError when it has a placeholder that we do not know, or gives no node name."""
    rest = template
    for placeholder in _PLACEHOLDERS:
        rest = rest.replace("{" + placeholder + "}", "0")
    try:
        check_node(rest)
    except PeerError:
        raise PeerError(
            f"name_template: {printable(template, 80)!r} gives no node name",
            hint="placeholders are {name}, {uuid8} and {serial}; the rest is lower-case letters, digits, '-' and '.', "
            "at most 63 characters",
        ) from None
    return template


def fill_template(template: str, name: str, uuid_text: str, board: str) -> str:
    """The name that a template gives. PeerError when the device did not say what it needs."""
    if "{serial}" in template and not board:
        raise PeerError(
            "the token names devices by their serial number, and this one did not say it",
            hint="use a token without {serial}, or a board that has one",
        )
    values = {"name": name, "uuid8": uuid_text[:8], "serial": board}
    for placeholder, value in values.items():
        template = template.replace("{" + placeholder + "}", value)
    return template


# -------------------------------------------------------------------- joining


async def join(
    service: Service, tables: WriteTables, wanted: JoinRequest, token_text: str
) -> tuple[NodeRow, IssuedPair]:
    """Within one transaction: take a use of the token, give a name and certificates.

    The same device again (its key is registered) gets its own UUID and name again: with the same token even when that
    is used up, because the first answer may have been lost.
    """
    token, static = await find_token(service, tables, token_text)
    check_source(token, wanted.source)
    if token.type != wanted.kind:
        raise AccessDenied(
            f"this token is for a {token.type}, not a {wanted.kind}",
            hint=f"tctl tokens add --type {wanted.kind}",
            code="bad_token",
        )
    known = await tables.nodes.by_key(wanted.ssh_key)
    if known is not None and known.kind != wanted.kind:
        raise exists(known.kind, "with this key", "a machine that is both needs two keys")
    if known is not None and known.kind == "node":
        await _refuse_copied_key(service, tables, known)
    again = known is not None and known.token == token.id
    taken = False
    if not static and not (again and service.now() < token.expires + LATE_ANSWER):
        await use_token(service, tables, token)
    if known is None and token.replaces:
        known, taken = await _take_place(service, tables, wanted, token)
    elif known is None:
        known, taken = await _enter(service, tables, wanted, token)
    elif wanted.addresses and wanted.kind == "proxy":
        await tables.nodes.set_addresses(known.uuid, wanted.addresses)
    if token.copy:
        await joined_as_another(service, tables, token.copy, known)
    refuse_locked(service.issuer.policy, service.now(), {"node": {known.name, known.uuid}})
    pair = await issue(service, tables, known, wanted.request)
    if taken:
        await tables.registrations.give_up_keys(known.uuid, fingerprint(wanted.registered_key))
        # What was issued before is good for nothing from here on, to whoever has it.
        await tables.nodes.set_since(known.uuid, pair.valid_after - BACKDATE)
        await service.issuer.refresh_node(tables, known.uuid)
    await service.audit.record(
        tables,
        f"{known.kind}.join",
        node=known.name,
        node_uuid=known.uuid,
        token=token.id,
        source=wanted.source or None,
        again=True if again else None,
        replaced=True if taken else None,
        state=known.state,
        fingerprint=pair.fingerprint,
    )
    return known, pair


async def _refuse_copied_key(service: Service, tables: WriteTables, node: NodeRow) -> None:
    """Whoever joins by a node's key has not had its answer. When a certificate of that node was used, somebody has: a
    newer one for another device would have the node itself taken for the copy. AccessDenied when that may be so.
    """
    if node.state == "quarantined" or any(
        not one.became and not one.place for one in await tables.copies.of(node.uuid)
    ):
        raise quarantined(node)
    if node.generation and service.presence.online(node.uuid):
        raise AccessDenied(
            f"another device is connected as {node.name}",
            detail=f"uuid {node.uuid}",
            hint="a copied device joins by a key of its own: remove its folder of keys first",
            code="in_use",
        )


async def use_token(service: Service, tables: WriteTables, token: TokenRow) -> None:
    """Take one use of it. AccessDenied when there is none."""
    if await tables.tokens.use(token.id, service.now()):
        return
    refuse_expired(service, token)
    raise AccessDenied(
        "the token was used already" if token.uses == 1 else f"all {token.uses} uses of the token are taken",
        hint="make a new one: tctl tokens add",
        code="bad_token",
    )


def refuse_expired(service: Service, token: TokenRow) -> None:
    """AccessDenied when its time is over."""
    now = service.now()
    if now >= token.expires:
        raise AccessDenied(
            f"the token expired {format_duration(now - token.expires)} ago",
            hint="make a new one: tctl tokens add",
            code="expired",
        )


async def _take_place(
    service: Service, tables: WriteTables, wanted: JoinRequest, token: TokenRow
) -> tuple[NodeRow, bool]:
    """A device that was written anew, or that is in place of a broken one, becomes the node that the token names: its
    name, UUID and labels stay. While that node is still there, an administrator has to look: it becomes a pending node.
    """
    node = await tables.nodes.get(token.replaces)
    if node is None:
        raise AccessDenied("the node that this token is for was removed", code="bad_token")
    if service.presence.online(node.uuid) and node.state != "quarantined":
        return await register_node(
            service, tables, wanted, replace(token, name_template="{name}-{uuid8}", pending=True)
        ), False
    await tables.copies.forget(node.uuid)
    await tables.nodes.take_over(node.uuid, wanted.ssh_key, token.id, wanted.board)
    return await tables.nodes.get(node.uuid) or node, True


async def _enter(service: Service, tables: WriteTables, wanted: JoinRequest, token: TokenRow) -> tuple[NodeRow, bool]:
    """A key that nobody has seen: a new node, or a board that was written anew and takes its old place (True)."""
    if wanted.kind != "node" or await recognised(tables, wanted.registered_key, wanted.board) is not None:
        return await register_node(service, tables, wanted, token), False
    board = await board_of(tables, token, wanted.board)
    old = board.old
    if old is None:
        # A token for certain boards lets no other in without a look.
        waits = bool(token.serials) and not board.named
        return await register_node(service, tables, wanted, replace(token, pending=token.pending or waits)), False
    if board.named and is_gone(service, old):
        await tables.copies.forget(old.uuid)
        await tables.nodes.take_over(old.uuid, wanted.ssh_key, token.id, wanted.board)
        return await tables.nodes.get(old.uuid) or old, True
    taken = bool(token.name_template) or await tables.nodes.by_name(wanted.nodename) is not None
    aside = replace(token, name_template="{name}-{uuid8}" if taken else "", pending=True)
    return await register_node(service, tables, wanted, aside, twin=old.uuid), False


def is_gone(service: Service, node: NodeRow) -> bool:
    """Is it known to be offline? Just after auth has started, that takes a while."""
    if service.presence.online(node.uuid):
        return False
    return service.presence.settled(service.settings.monotonic()) or node.last_seen < service.now() - 2 * LEASE


async def register_node(
    service: Service, tables: WriteTables, wanted: JoinRequest, token: TokenRow, *, twin: str = ""
) -> NodeRow:
    """Somebody new. ``twin``: UUID of the node whose board it may be."""
    uuid_text = str(uuid.uuid4())
    name = wanted.nodename
    registered = await recognised(tables, wanted.registered_key, wanted.board) if wanted.kind == "node" else None
    if registered is not None and registered.name:
        name = registered.name
    elif token.name_template:
        name = fill_template(token.name_template, name, uuid_text, wanted.board)
    await check_unclaimed(service, tables, name, None if registered is None else registered.id)
    node = NodeRow(
        uuid=uuid_text,
        kind=wanted.kind,
        name=name,
        ssh_key=wanted.ssh_key,
        # Somebody has looked at a registered device before.
        state="pending" if token.pending and registered is None else "active",
        labels=token.labels if registered is None else {**token.labels, **registered.labels},
        token=token.id,
        created=service.now(),
        addresses=wanted.addresses,
        version=wanted.version,
        serial=wanted.board if wanted.kind == "node" else "",
        twin=twin,
    )
    await tables.nodes.add(node)
    if registered is not None and not await tables.registrations.use(registered.id, uuid_text):
        raise AccessDenied("another device has come for this registration", code="used")
    return node


async def check_free(service: Service, tables: WriteTables, name: str) -> None:
    """May a new machine be called so? Names are SSH host principals, so no name may also read as another's.
    PeerError when not."""
    check_node(name)
    cluster = service.cluster
    if name in RESERVED_NAMES or name == cluster or name.endswith(f".{cluster}"):
        raise PeerError(f"the name {name} is reserved", hint="choose another nodename")
    if any(parse_address(address, 0)[0].lower() == name for address in service.issuer.policy.proxies):
        raise PeerError(f"the name {name} is a proxy's public host", hint="choose another nodename")
    if await tables.nodes.by_name(name) is not None:
        raise exists("machine called", name, f"choose another nodename, or remove the old one: tctl nodes rm {name}")


async def check_unclaimed(service: Service, tables: WriteTables, name: str, registration: str | None = None) -> None:
    """``check_free``, and no device is registered under it, but for ``registration``."""
    await check_free(service, tables, name)
    kept_for = await tables.registrations.named(name)
    if kept_for is not None and kept_for.id != registration:
        raise exists("device registered as", name, "choose another nodename")


async def issue(service: Service, tables: WriteTables, node: NodeRow, request: Request) -> IssuedPair:
    """Certificates of the next generation, and the documents that go with them."""
    extra: list[str] = []
    if node.kind == "proxy":
        extra = await _proxy_principals(service, tables, node.uuid)
        await service.issuer.refresh(tables)
    pair = await service.authority.issue_host(tables, node, request, extra_principals=extra)
    await service.issuer.refresh_node(tables, node.uuid)
    return pair


async def _proxy_principals(service: Service, tables: WriteTables, uuid_text: str) -> list[str]:
    """``proxy``, ``proxy.cluster`` and the hosts of its public addresses, less what is some other machine's name: a
    proxy's own word must not make it a node."""
    node = await tables.nodes.get(uuid_text)
    cluster = service.cluster
    principals = ["proxy", f"proxy.{cluster}"]
    for address in node.addresses if node is not None else ():
        host = parse_address(address, 0)[0].lower()
        short = host.removesuffix(f".{cluster}")
        other = await tables.nodes.by_name(short) or await tables.nodes.by_name(host)
        if not is_uuid(short) and (other is None or other.uuid == uuid_text):
            principals.append(host)
        else:
            service.log.warning("a proxy's public host is a node's name, it is left out", host=host)
    return principals


# -------------------------------------------------------------------- staying


async def renew(
    service: Service, tables: WriteTables, caller: Caller, ssh_key: bytes, request: Request, instance: str = ""
) -> tuple[NodeRow, IssuedPair] | AccessDenied:
    """New certificates for a machine that showed its current ones; to be raised after the commit when it is a copy.

    Whoever shows generation N has used it, so all before are over. If one of those comes back, there are two devices
    with one identity (docs: a cloned card). ``instance``: which process asks, "" for one that does not say.
    """
    node = await tables.nodes.get(caller.uuid)
    if node is None or caller.leaf is None:
        raise AccessDenied("this machine was removed from the cluster", code="removed")
    if node.ssh_key != ssh_key:
        raise AccessDenied(
            "the SSH host key is not the registered one", hint="a machine changes its key by joining again"
        )
    shown = await shown_generation(tables, node, caller.leaf)
    copy = await copy_that_asks(service, tables, node, shown, instance)
    if copy is not None:
        return await refuse_copy(service, tables, node, copy)
    if shown < node.generation:
        # Which of them it is is not known.
        await tables.nodes.set_state(node.uuid, "quarantined")
        await service.issuer.refresh_node(tables, node.uuid)
        await service.audit.record(
            tables,
            "node.quarantined",
            node=node.name,
            node_uuid=node.uuid,
            generation=shown,
            newest=node.generation,
            source=caller.source,
        )
        return quarantined(node)
    if shown > node.generation:
        await tables.nodes.set_generations(node.uuid, shown, node.issued_generation)
    current = await tables.nodes.get(node.uuid) or node
    pair = await issue(service, tables, current, request)
    await service.audit.record(
        tables,
        "node.renew",
        node=node.name,
        node_uuid=node.uuid,
        generation=pair.generation,
        fingerprint=pair.fingerprint,
    )
    return current, pair


async def come_back(
    service: Service,
    tables: WriteTables,
    uuid_text: str,
    ssh_key: bytes,
    request: Request,
    source: str,
    *,
    instance: str = "",
    generation: int | None = None,
) -> tuple[NodeRow, IssuedPair] | AccessDenied:
    """A device whose certificate expired and who proved the registered key. AccessDenied when it was removed or locked;
    one answer for an unknown UUID and a wrong key, so that nobody learns which nodes there are. To be raised after the
    commit when it is a copy. ``generation``: of the certificate that it has, as it says.
    """
    node = await tables.nodes.get(uuid_text)
    if node is None or node.ssh_key != ssh_key:
        raise AccessDenied(
            "no machine is registered with this UUID and key",
            detail=f"uuid {printable(uuid_text, 40)}",
            hint="it may have been removed: join again with a new token",
        )
    refuse_locked(service.issuer.policy, service.now(), {"node": {node.name, node.uuid}})
    shown = node.generation if generation is None else generation
    copy = await copy_that_asks(service, tables, node, shown, instance)
    if copy is not None:
        return await refuse_copy(service, tables, node, copy)
    last = await tables.nodes.instances(node.uuid)
    if instance and last and last[-1][0] != instance and service.presence.online(node.uuid):
        # Perhaps only for as long as a proxy believes in a connection that is none any more.
        raise AccessDenied(f"another device is connected as {node.name}", detail=f"uuid {node.uuid}", code="in_use")
    pair = await issue(service, tables, node, request)
    await service.audit.record(
        tables,
        "node.return",
        node=node.name,
        node_uuid=node.uuid,
        source=source or None,
        generation=pair.generation,
        fingerprint=pair.fingerprint,
    )
    return node, pair


async def identity_answer(service: Service, node: NodeRow, pair: IssuedPair) -> Mapping[str, object]:
    """The *identity answer* of api.md, after the commit."""
    proxies: Sequence[str] = service.issuer.policy.proxies
    return {
        "cluster": service.cluster,
        "uuid": node.uuid,
        "name": node.name,
        "kind": node.kind,
        "generation": pair.generation,
        "ssh_certificate": pair.ssh_certificate,
        "tls_certificate": pair.tls_certificate,
        "tls_cas": service.authority.tls_cas,
        "policy_key": service.authority.policy_key,
        "policy": service.issuer.signed,
        "node": await service.store.read.nodes.document(node.uuid) if node.kind == "node" else None,
        "proxies": list(proxies),
        "time": service.now(),
        "valid_after": pair.valid_after,
        "valid_before": pair.valid_before,
    }
