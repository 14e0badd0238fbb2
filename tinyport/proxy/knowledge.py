"""What this proxy knows by itself: the signed policy and the nodes' signed documents, in memory and on disk.

With it the proxy judges when auth does not answer. Nothing gets in without the cluster's signature, nothing
older replaces what is newer: whoever owns the proxy's disk or its link to auth can roll nothing back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.core.labels import has_all, parse_pairs
from tinyport.core.names import is_uuid, printable
from tinyport.core.policy import NodeDocument, Policy, newer, open_document, version
from tinyport.host.files import read_limited, write_private
from tinyport.host.logging_line import Log

Signed = dict[str, str]

MAX_POLICY_FILE = 3 * 1024 * 1024
# 20,000 nodes of 1.5 kB.
MAX_NODES_FILE = 32 * 1024 * 1024
MAX_NODES = 20_000
# What a refusal lists; a person who gets more needs another name, not a longer list.
MAX_CANDIDATES = 10


class KnownNode:
    """A node's document, as it came and as it reads."""

    __slots__ = ("document", "signed")

    def __init__(self, document: NodeDocument, signed: Signed) -> None:
        self.document = document
        self.signed = signed


class Knowledge:
    """The copy.

    ``on_change`` is called after each change with the node's UUID, or None when the policy changed.
    """

    def __init__(self, folder: Path, cluster: str, policy_key: bytes, log: Log) -> None:
        self._folder = folder
        self.cluster = cluster
        self._policy_key = policy_key
        self._log = log
        self._policy: Policy | None = None
        self.signed_policy: Signed | None = None
        self.policy_version = (0, 0)
        self._nodes: dict[str, KnownNode] = {}
        self._names: dict[str, str] = {}
        self._nodes_changed = False
        self.on_change: list[Callable[[str | None], None]] = []
        #: called with the UUID of a node that an administrator removed
        self.on_removed: list[Callable[[str], None]] = []
        #: called with the UUID of a node that may not be there any more
        self.on_doubted: list[Callable[[str], None]] = []

    # ------------------------------------------------------------------ what is known

    @property
    def policy(self) -> Policy:
        """The newest policy. Unavailable when there never was one."""
        if self._policy is None:
            raise Unavailable("the proxy has not heard from auth yet", hint="try again in a moment")
        return self._policy

    @property
    def has_policy(self) -> bool:
        return self._policy is not None

    def node(self, uuid: str) -> KnownNode | None:
        return self._nodes.get(uuid)

    @property
    def node_count(self) -> int:
        return len(self._nodes)

    # ------------------------------------------------------------------ taking documents

    def take_policy(self, signed: object, *, keep: bool = True) -> bool:
        """Take a signed policy if it is newer; says whether it was. PeerError when it is not ours to believe.

        ``keep``: on disk, too, and there first: after a crash the proxy must not judge by less than before.
        """
        if signed == self.signed_policy:
            return False
        body = open_document(signed, self._policy_key, "policy", self.cluster)
        if not newer(body, self._version_body(self.policy_version)):
            self._log_older("policy", version(body), self.policy_version)
            return False
        policy = Policy.parse(body)
        kept = _signed(signed)
        if keep:
            self._keep(kept)
        self._policy = policy
        self.signed_policy = kept
        self.policy_version = (policy.epoch, policy.serial)
        self._changed(None)
        return True

    def _keep(self, signed: Signed) -> None:
        try:
            write_private(self._folder / "policy.json", json.dumps(signed).encode())
        except OSError as error:
            # A full or read-only disk must not keep an old lock or role alive here.
            self._log.error("the policy cannot be kept on disk", reason=error)

    def take_node(self, signed: object) -> str:
        """Keep a signed node document if it is newer; its UUID. PeerError when it is not ours to believe."""
        body = open_document(signed, self._policy_key, "node", self.cluster)
        document = NodeDocument.parse(body)
        held = self._nodes.get(document.uuid)
        if held is not None:
            have = (held.document.epoch, held.document.serial)
            if (document.epoch, document.serial) <= have:
                self._log_older(f"node {document.name}", (document.epoch, document.serial), have)
                return document.uuid
            if self._names.get(held.document.name) == document.uuid:
                del self._names[held.document.name]
        elif len(self._nodes) >= MAX_NODES:
            raise PeerError(f"more than {MAX_NODES} nodes", detail="the copy of the node documents is full")
        self._nodes[document.uuid] = KnownNode(document, _signed(signed))
        self._names[document.name] = document.uuid
        self._nodes_changed = True
        self._changed(document.uuid)
        return document.uuid

    def uuid_of(self, signed: object) -> str | None:
        """The UUID when this very document is held already, so that its signature need not be checked
        again."""
        text = signed.get("document") if isinstance(signed, dict) else None
        if not isinstance(text, str) or len(text) > MAX_POLICY_FILE:
            return None
        try:
            uuid = json.loads(text).get("uuid")
        except (ValueError, RecursionError, AttributeError):
            return None
        held = self._nodes.get(uuid) if isinstance(uuid, str) else None
        return held.document.uuid if held is not None and held.signed == signed else None

    def remove_node(self, uuid: str) -> None:
        """Auth says that the node was removed."""
        self.forget_nodes(lambda known: known != uuid)
        for tell in self.on_removed:
            tell(uuid)

    def doubt(self, uuid: str) -> None:
        """Auth asks whether the node is there indeed."""
        for tell in self.on_doubted:
            tell(uuid)

    def forget_nodes(self, keep: Callable[[str], bool]) -> None:
        """Auth has told all nodes it has: those that are not to be kept are gone."""
        for uuid in [uuid for uuid in self._nodes if not keep(uuid)]:
            held = self._nodes.pop(uuid)
            if self._names.get(held.document.name) == uuid:
                del self._names[held.document.name]
            self._nodes_changed = True
            self._changed(uuid)

    def _changed(self, uuid: str | None) -> None:
        for tell in self.on_change:
            tell(uuid)

    def _log_older(self, what: str, offered: tuple[int, int], held: tuple[int, int]) -> None:
        # Equal is a repetition; smaller is a backup restored without a new epoch, or somebody trying.
        if offered < held:
            self._log.warning("a document older than ours was offered", what=what, offered=offered, held=held)

    @staticmethod
    def _version_body(held: tuple[int, int]) -> Mapping[str, object]:
        return {"epoch": held[0], "serial": held[1]}

    # ------------------------------------------------------------------ on disk

    def load(self) -> None:
        """Take what an earlier run kept.

        What is damaged or not signed is left behind with a warning: auth sends it anew.
        """
        self.load_policy()
        self._load_nodes()

    def load_policy(self) -> None:
        """Take the policy on disk if it is newer: an earlier run kept it, or auth's answer to a renewal brought it."""
        try:
            self.take_policy(json.loads(read_limited(self._folder / "policy.json", MAX_POLICY_FILE)), keep=False)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TinyportError) as error:
            self._log.warning("the kept policy cannot be used", error=error)

    def _load_nodes(self) -> None:
        try:
            lines = read_limited(self._folder / "nodes.jsonl", MAX_NODES_FILE).splitlines()
        except FileNotFoundError:
            return
        except (OSError, TinyportError) as error:
            self._log.warning("the kept node documents cannot be read", error=error)
            return
        for line in lines:
            try:
                self.take_node(json.loads(line))
            except (ValueError, TinyportError) as error:
                self._log.warning("a kept node document cannot be used", error=error)
        self._nodes_changed = False

    def unsaved_nodes(self) -> bytes | None:
        """What ``nodes.jsonl`` should hold now.

        None when it already does. Written by whoever can afford to wait for a disk.
        """
        if not self._nodes_changed:
            return None
        self._nodes_changed = False
        return b"".join(json.dumps(node.signed).encode() + b"\n" for node in self._nodes.values())

    @property
    def nodes_file(self) -> Path:
        return self._folder / "nodes.jsonl"

    # ------------------------------------------------------------------ names

    def locate(self, target: str, visible: Callable[[NodeDocument], bool], *, sees_all: bool) -> NodeDocument:
        """The one node that ``target`` (name, name.cluster, UUID, or k=v) means.

        ``visible`` says which nodes the asker may know of. AccessDenied with the code ambiguous
        (``extra["candidates"]``), no_such_node for those who see all nodes, and denied for everybody else: to them a
        node that they may not see and a name that nobody has look the same.
        """
        found = [known.document for known in self._meant(target) if visible(known.document)]
        if len(found) == 1:
            return found[0]
        shown = printable(target, 80)
        if len(found) > 1:
            several = AccessDenied(f"{shown} means {len(found)} nodes", code="ambiguous")
            several.extra["candidates"] = [
                {"name": node.name, "uuid": node.uuid, "labels": dict(node.labels)} for node in found[:MAX_CANDIDATES]
            ]
            raise several
        if sees_all:
            raise AccessDenied(f"there is no node {shown}", code="no_such_node", hint='"tsh ls" lists the nodes')
        raise AccessDenied(
            "access denied",
            detail=f"{shown} is no node, or not theirs to see",
            hint='"tsh ls" lists the nodes that you may reach',
        )

    def _meant(self, target: str) -> list[KnownNode]:
        target = target.strip()
        if "=" in target:
            try:
                pairs = parse_pairs([target])
            except PeerError as error:
                raise AccessDenied(error.message, code="no_such_node", hint=error.hint) from None
            # The server's labels only: a node must not be able to draw sessions to itself by what it declares.
            return [known for known in self._nodes.values() if has_all(pairs, known.document.labels)]
        name = target.lower().removesuffix("." + self.cluster)
        held = self._nodes.get(name if is_uuid(name) else self._names.get(name, ""))
        return [] if held is None else [held]


def _signed(signed: object) -> Signed:
    """Only the two members that were checked; whatever else somebody put beside them is not kept."""
    if not isinstance(signed, dict):
        raise PeerError("malformed document")
    return {"document": str(signed["document"]), "signature": str(signed["signature"])}
