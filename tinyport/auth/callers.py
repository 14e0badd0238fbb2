"""Who calls: the client certificate, and what the store says of its bearer at this moment."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tinyport.auth.refusals import login_required, refuse_locked
from tinyport.auth.service import Service
from tinyport.auth.store_nodes import NodeRow
from tinyport.auth.tls_certificates import BACKDATE, Leaf, read_leaf
from tinyport.core.durations import format_duration
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.rights import Rights, may
from tinyport.core.roles import Role

ANYONE, NODE, PROXY, USER, LOCAL = "anyone", "node", "proxy", "user", "local"


@dataclass(frozen=True)
class Caller:
    """``kind`` is one of the five above. ``name``: user or node name; ``uuid``: of nodes and proxies; ``source``: the
    address the connection came from, empty for the unix socket."""

    kind: str
    name: str = ""
    uuid: str = ""
    source: str = ""
    roles: tuple[Role, ...] = ()
    traits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    leaf: Leaf | None = None
    #: a user's: fingerprint of the key that the login was made for, where a lock asks for it
    device: str = ""

    @cached_property
    def rights(self) -> Rights:
        """What a user's roles come to."""
        return Rights(self.roles, self.name, self.traits)

    def may(self, resource: str, verb: str) -> bool:
        """Does a rule allow it? ``local`` is whoever can read the database anyway."""
        if self.kind == LOCAL:
            return True
        return self.kind == USER and may(self.roles, resource, verb)

    def require(self, resource: str, verb: str) -> None:
        if not self.may(resource, verb):
            raise AccessDenied(
                f"none of your roles allows you to {verb} {resource.replace('_', ' ')}",
                detail=f"{self.kind} {self.name}",
                hint='ask an administrator for a role with that rule; "tsh status" shows yours',
            )

    @property
    def actor(self) -> str:
        """For the audit log's ``by``."""
        return LOCAL if self.kind == LOCAL else f"{self.kind}:{self.name}"


def peer_uid(connection: socket.socket) -> int:
    """Whose process is at the other end of a unix socket (SO_PEERCRED)."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", data)[1])


async def identify(service: Service, certificate: bytes, source: str) -> Caller:
    """The bearer of a client certificate whose chain TLS verified.

    AccessDenied unless it is of this cluster, has not ended by our clock, and its bearer is still there and welcome.
    Locks are judged by the caller of this function (a locked node may still hear of its lock).
    """
    try:
        leaf = read_leaf(certificate)
    except PeerError as error:
        raise login_required("the client certificate is not one of this cluster's") from error
    identity = leaf.identity
    if identity.cluster != service.cluster:
        raise login_required(f"the client certificate is not of cluster {service.cluster}")
    now = service.now()
    machine = await _machine(service, leaf) if identity.kind in (NODE, PROXY) else None
    if now >= leaf.not_after:
        ago = format_duration(now - leaf.not_after)
        hint = 'run "tsh login"' if identity.kind == USER else "it returns by its registered key"
        raise AccessDenied(f"the certificate expired {ago} ago", hint=hint, code="expired")
    if identity.kind == USER:
        return await _user(service, leaf, source)
    if machine is not None:
        return _node(machine, leaf, source)
    raise AccessDenied("no route is for auth servers", detail=identity.uri)


async def _machine(service: Service, leaf: Leaf) -> NodeRow:
    """Whose certificate it is. One that has been put out is told so even when its certificate has ended: it need not
    try to return."""
    node = await service.store.read.nodes.get(leaf.identity.id)
    if node is None or node.kind != leaf.identity.kind:
        raise AccessDenied(
            f"this {leaf.identity.kind} was removed from the cluster",
            detail=leaf.identity.uri,
            hint="join again with a new token",
            code="removed",
        )
    if leaf.not_before < node.since:
        raise AccessDenied(
            "another device has taken the place of this one",
            detail=leaf.identity.uri,
            hint="to be a node of its own it joins again: tctl nodes add",
            code="replaced",
        )
    return node


def _node(node: NodeRow, leaf: Leaf, source: str) -> Caller:
    if node.kind == PROXY and node.state != "active":
        # A node's state is judged where its sessions are. A proxy's is judged here: it asks in other people's names.
        hint = f"an administrator decides: tctl nodes accept {node.name}, or tctl nodes rm {node.name}"
        raise AccessDenied(f"this proxy is {node.state}", detail=leaf.identity.uri, hint=hint, code="quarantined")
    return Caller(node.kind, name=node.name, uuid=node.uuid, source=source, leaf=leaf)


async def _user(service: Service, leaf: Leaf, source: str) -> Caller:
    user = await service.store.read.users.get(leaf.identity.id)
    if user is None:
        raise login_required("the certificate's user was removed", hint="ask an administrator for an invitation")
    before = service.issuer.policy.refuse_before.get(user.name, 0)
    if leaf.not_before + BACKDATE < before:
        raise login_required("the certificate was withdrawn")
    known = service.issuer.policy.roles
    missing = [name for name in user.roles if name not in known]
    if missing:
        # It may have held a deny. Leaving it out could grant what it forbade.
        raise AccessDenied(f"role {missing[0]} does not exist", detail=f"of {user.name}")
    roles = tuple(known[name] for name in user.roles)
    device = await _device(service, leaf, user.name)
    return Caller(USER, name=user.name, source=source, roles=roles, traits=user.traits, leaf=leaf, device=device)


async def _device(service: Service, leaf: Leaf, user: str) -> str:
    """The key that the login was made for, when that decides anything; else ""."""
    if not any("device" in lock.target for lock in service.issuer.policy.locks):
        return ""
    device = await service.store.read.cluster.device_of(leaf.serial, user)
    if device is None:
        # It may be the one that is locked.
        raise login_required("the certificate's key is not known any more")
    return device


def refuse_locked_caller(service: Service, caller: Caller) -> None:
    """AccessDenied ``locked`` when a lock names the caller."""
    targets: dict[str, set[str]] = {}
    if caller.kind == USER:
        targets = {"user": {caller.name}, "role": {role.name for role in caller.roles}, "device": {caller.device}}
    elif caller.kind in (NODE, PROXY):
        targets = {"node": {caller.name, caller.uuid}}
    refuse_locked(service.issuer.policy, service.now(), targets)
