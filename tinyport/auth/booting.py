"""Devices that keep their keys in memory: a new SSH host key at each boot, and the same node all the same.

Such a device is known by its *device key*, which an administrator has registered or which it has brought with its
token, and which does nothing but this; or, without one, by a token that names its board's serial number. Only one
device is a node at a time: who comes while it is still connected has to wait (docs/decisions, keys in memory).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets

from tinyport.auth.authority import IssuedPair
from tinyport.auth.copies import quarantined
from tinyport.auth.joining import (
    JoinRequest,
    check_source,
    find_token,
    is_gone,
    issue,
    refuse_expired,
    register_node,
    use_token,
)
from tinyport.auth.refusals import refuse_locked
from tinyport.auth.service import Service
from tinyport.auth.store import WriteTables
from tinyport.auth.store_nodes import NodeRow
from tinyport.auth.store_registrations import RegistrationRow
from tinyport.auth.store_tokens import TokenRow
from tinyport.auth.tls_certificates import BACKDATE, Request
from tinyport.core.certificate import fingerprint, public_line
from tinyport.core.errors import AccessDenied, PeerError, TinyportError
from tinyport.core.names import printable
from tinyport.core.signatures import verify

DEVICE_PREFIX = b"tinyport-device-v1\0"
# Of two devices with one proof that boot in the same moment one is first. It has so many seconds to be connected.
SETTLING = 20.0


def check_device_proof(challenge: str, proof: str, device_key: bytes, ssh_key: bytes, request: Request) -> None:
    """The device has the device key, and asks for these very keys; the challenge was checked with theirs. ``proof``: an
    SSH signature, base64. PeerError when that is not shown.
    """
    digest = hashlib.sha256(request.der).digest() + hashlib.sha256(ssh_key).digest()
    try:
        verify(device_key, DEVICE_PREFIX + challenge.encode() + b"\0" + digest, base64.b64decode(proof, validate=True))
    except (binascii.Error, ValueError, PeerError):
        raise PeerError("device_proof: not a signature of the challenge and both keys by the device key") from None


async def boot(
    service: Service, tables: WriteTables, wanted: JoinRequest, token_text: str
) -> tuple[NodeRow, IssuedPair]:
    """Within one transaction: who the device is, and certificates for its new keys. ``token_text``: for one without a
    device key. What it had before is good for nothing from then on.
    """
    if wanted.device_key:
        node, token = await _by_key(service, tables, wanted), ""
    else:
        node, token = await _by_token(service, tables, wanted, token_text)
    new = node.generation == 0 and node.issued_generation == 0
    # The same keys again: the answer was lost on its way.
    again = node.ssh_key == wanted.ssh_key
    if node.state == "quarantined":
        raise quarantined(node)
    refuse_locked(service.issuer.policy, service.now(), {"node": {node.name, node.uuid}})
    if not again:
        _refuse_second(service, node)
        await tables.copies.forget(node.uuid)
        await tables.nodes.take_over(node.uuid, wanted.ssh_key, token or node.token, wanted.board)
        await tables.registrations.give_up_keys(node.uuid, fingerprint(wanted.device_key) if wanted.device_key else "")
    _not_in_circles(service, node.uuid)
    node = await tables.nodes.get(node.uuid) or node
    pair = await issue(service, tables, node, wanted.request)
    await tables.nodes.set_since(node.uuid, pair.valid_after - BACKDATE)
    await service.issuer.refresh_node(tables, node.uuid)
    await service.audit.record(
        tables,
        "node.join" if new else "node.boot",
        node=node.name,
        node_uuid=node.uuid,
        token=token or None,
        device_key=fingerprint(wanted.device_key) if wanted.device_key else None,
        source=wanted.source or None,
        state=node.state,
        generation=pair.generation,
        fingerprint=pair.fingerprint,
    )
    return node, pair


async def _by_key(service: Service, tables: WriteTables, wanted: JoinRequest) -> NodeRow:
    """Who is known by this device key; a registration whose device has not come makes a new node."""
    print_of = fingerprint(wanted.device_key)
    known = await tables.registrations.find("key", print_of)
    if known is None:
        raise AccessDenied(
            "no device is registered with this device key",
            detail=print_of,
            hint=f'register it: tctl nodes import, with a line ssh_key="{public_line(wanted.device_key)}" name=NAME',
            code="unknown_device",
        )
    if known.node is None:
        bare = TokenRow(id="", digest="", type="node", created=0.0, expires=0.0, uses=1)
        return await register_node(service, tables, wanted, bare)
    node = await tables.nodes.get(known.node)
    if node is None:
        raise AccessDenied(
            "the node of this device key was removed from the cluster, or another device is it now",
            detail=print_of,
            hint=f"to let the device in again: tctl nodes unregister {known.id}, and import it anew",
            code="removed",
        )
    if node.ssh_key == wanted.device_key:
        # It came with this key, which lies on its disk: a copy of that would push it aside.
        raise AccessDenied(
            f"this key is the SSH host key of {node.name}, and no device key",
            hint="make one that does nothing else: ssh-keygen -t ed25519",
            code="host_key",
        )
    return node


async def _by_token(service: Service, tables: WriteTables, wanted: JoinRequest, token_text: str) -> tuple[NodeRow, str]:
    """Which board this is, by a token that names it. Such a token is good for each of them as often as it boots, until
    it expires or is removed; a use is what a board takes that was not there yet.
    """
    token, _ = await find_token(service, tables, token_text)
    check_source(token, wanted.source)
    if token.type != "node" or token.replaces or wanted.board not in token.serials:
        raise AccessDenied(
            "a device that keeps its keys in memory needs a device key, or a token that names its serial number",
            detail=f"serial {printable(wanted.board, 60)!r}, token {token.id}",
            hint=f"tctl tokens add --serial {printable(wanted.board, 60) or 'NUMBER'}, or node.device_key",
            code="not_named",
        )
    said = await tables.nodes.by_serial(wanted.board, token.id)
    # What others have said of their boards, who came by other tokens, keeps nobody out.
    said = [one for one in said if one.token == token.id] or said
    if len(said) > 1:
        raise AccessDenied("several nodes have said this serial number", hint="give each device a device key")
    if said and said[0].token == token.id:
        refuse_expired(service, token)
        return said[0], token.id
    await use_token(service, tables, token)
    return (said[0] if said else await register_node(service, tables, wanted, token)), token.id


def _refuse_second(service: Service, node: NodeRow) -> None:
    """AccessDenied ``in_use`` while somebody is this node, or has just become it."""
    # In either direction, or a clock that was years ahead once would keep it out for as long. That it has spoken to us
    # already is no end of it: its proxy has not.
    settling = abs(service.now() - (node.since + BACKDATE)) < SETTLING
    if not settling and is_gone(service, node):
        return
    # Perhaps only for as long as a proxy believes in a connection that is none any more.
    service.watchers.tell(f"ask {node.uuid}", {"ask": node.uuid})
    raise AccessDenied(
        f"another device is connected as {node.name}",
        detail=f"uuid {node.uuid}",
        hint="after a power cut a device is taken for connected for half a minute; it is tried again",
        code="in_use",
    )


def _not_in_circles(service: Service, uuid: str) -> None:
    now = service.settings.monotonic()
    if not service.booted.bearable(uuid, now):
        raise TinyportError("this device boots too often", hint="it is tried again in some minutes", code="slow_down")
    service.booted.failed(uuid, now)


async def remember_key(service: Service, tables: WriteTables, device_key: bytes, node: NodeRow) -> None:
    """The device that has just joined with a token is known by this key from now on. AccessDenied when there is a node
    that is known by it: that is who boots with it, and no token makes it another.
    """
    value = fingerprint(device_key)
    known = await tables.registrations.find("key", value)
    if known is not None and known.node == node.uuid:
        return
    if known is not None:
        if known.node is not None and await tables.nodes.get(known.node) is not None:
            raise AccessDenied("a node is known by this device key already", detail=value, code="in_use")
        await tables.registrations.delete(known.id)
    await tables.registrations.put_joined(
        RegistrationRow(secrets.token_hex(8), "key", value, "", {}, service.now(), node.uuid)
    )
