"""May this certificate's user reach that node, now? Five truthful refusals, and one for strangers.

Unknown, offline since, denied by role, clock, locked: said to those whose roles could see the node. To anybody else a
node that they may not see and a name that nobody has look the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tinyport.auth.policy_issuer import node_document
from tinyport.auth.service import Service
from tinyport.auth.store_nodes import NodeRow
from tinyport.core import labels
from tinyport.core.access import STRANGER, Subject, decide
from tinyport.core.durations import format_duration
from tinyport.core.errors import AccessDenied, PeerError, TinyportError
from tinyport.core.names import is_uuid, printable
from tinyport.core.rights import Rights
from tinyport.core.roles import Role

#: an ambiguous name lists this many
MAX_CANDIDATES = 20


@dataclass(frozen=True)
class Viewer:
    """Somebody whose roles are known without a certificate of theirs."""

    user: str
    roles: tuple[Role, ...]
    traits: Mapping[str, tuple[str, ...]]

    @cached_property
    def rights(self) -> Rights:
        """What the roles come to."""
        return Rights(self.roles, self.user, self.traits)


def sees(subject: Subject | Viewer, node: NodeRow) -> bool:
    """Could one of the user's roles see this node?"""
    return subject.rights.on(node.labels).seen


def sees_everything(subject: Subject | Viewer) -> bool:
    """Then "there is no such node" tells nothing that a list would not."""
    denies = any(role.deny.node_labels and not role.deny.logins for role in subject.roles)
    everything = {labels.WILDCARD: (labels.WILDCARD,)}
    return not denies and any(dict(role.allow.node_labels) == everything for role in subject.roles)


async def resolve(service: Service, subject: Subject | Viewer, target: str) -> NodeRow:
    """The one node that ``target`` (name, UUID, either with the cluster's name behind, or ``k=v``) means to this user.

    AccessDenied when there is none that they may know of, ``ambiguous`` with candidates when there are several.
    """
    nodes = service.store.read.nodes
    if "=" in target:
        return _only(subject, target, await _labelled(service, target))
    short = target.lower().removesuffix(f".{service.cluster}")
    node = await (nodes.get(short) if is_uuid(short) else nodes.by_name(short))
    return _only(subject, target, [node] if node is not None and node.kind == "node" else [])


async def _labelled(service: Service, target: str) -> list[NodeRow]:
    pairs = labels.parse_pairs([target])
    found = await service.store.read.nodes.all("node")
    return [node for node in found if labels.has_all(pairs, {**node.declared_labels, **node.labels})]


def _only(subject: Subject | Viewer, target: str, found: Iterable[NodeRow]) -> NodeRow:
    nodes = list(found)
    seen = [node for node in nodes if sees(subject, node)]
    if len(seen) == 1:
        return seen[0]
    if len(seen) > 1:
        raise _ambiguous(target, seen)
    shown = printable(target, 80)
    if not sees_everything(subject):
        raise AccessDenied(
            STRANGER,
            detail=f"{subject.user} asked for {shown}, which {'they may not see' if nodes else 'is no node'}",
            hint='"tsh ls" lists the nodes that you may reach',
        )
    raise AccessDenied(f"there is no node {shown}", hint='"tsh ls" lists the nodes', code="no_such_node")


def _ambiguous(target: str, nodes: Sequence[NodeRow]) -> TinyportError:
    error = PeerError(
        f"{printable(target, 80)} means {len(nodes)} nodes",
        hint=f"one of: {', '.join(node.name for node in nodes[:MAX_CANDIDATES])}",
        code="ambiguous",
    )
    error.extra["candidates"] = [
        {"name": node.name, "uuid": node.uuid, "labels": dict(node.labels)} for node in nodes[:MAX_CANDIDATES]
    ]
    return error


def check_decision(service: Service, subject: Subject, node: NodeRow, login: str | None) -> None:
    """AccessDenied unless the user may be ``login`` there; with None, unless there is some login they may be."""
    policy = service.issuer.policy
    document = node_document(node.content, policy.epoch, node.document_serial)
    refusal: AccessDenied | None = None
    for candidate in subject.logins if login is None else (login,):
        try:
            decide(subject, login=candidate, node=document, policy=policy, now=service.now())
        except AccessDenied as error:
            # A lock or a state is the same for all logins, and says more than "not as games".
            if refusal is None or error.code != "denied":
                refusal = error
        else:
            return
    raise refusal or AccessDenied(STRANGER, detail=f"{subject.user} has no login")


def check_online(service: Service, node: NodeRow) -> None:
    """``offline`` with ``since`` when no proxy has the node. For the first seconds after a start nobody can know."""
    presence = service.presence
    if presence.online(node.uuid) or not presence.settled(service.settings.monotonic()):
        return
    if node.last_seen:
        ago = format_duration(service.now() - node.last_seen)
        error = PeerError(f"node {node.name} has been offline for {ago}", code="offline")
        error.extra["since"] = node.last_seen
    else:
        error = PeerError(f"node {node.name} was never online", code="offline")
        error.extra["since"] = None
    raise error
