"""The signed documents by which auth rules nodes and proxies. See docs/protocol/policy.md."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from tinyport.core.certificate import parse_public_line
from tinyport.core.errors import ConfigError, PeerError
from tinyport.core.names import check_cluster, is_uuid, printable
from tinyport.core.roles import Role, parse_role
from tinyport.core.session_terms import SessionTerms, of_config, record_of_config
from tinyport.core.signatures import Ed25519Key, verify_raw
from tinyport.core.trust import MOST_CLUSTERS, TrustedCluster, by_user_ca, parse_trusted_cluster

SIGN_PREFIX = b"tinyport-document-v1\0"
MAX_DOCUMENT = 1024 * 1024
#: ``device``: the fingerprint of the key that a login was made for, on one person's laptop
LOCK_TARGETS = frozenset(("user", "node", "role", "login", "device"))
NODE_STATES = frozenset(("active", "pending", "quarantined"))


def sign_document(key: Ed25519Key, body: Mapping[str, object]) -> dict[str, str]:
    """The signed form of a document. ``body`` must be JSON and have a ``kind``."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if len(text.encode()) > MAX_DOCUMENT:
        raise PeerError(f"the {body['kind']} document is larger than {MAX_DOCUMENT} bytes")
    signature = key.sign_raw(SIGN_PREFIX + text.encode())
    return {"document": text, "signature": base64.b64encode(signature).decode("ascii")}


def open_document(signed: object, policy_key: bytes, kind: str, cluster: str) -> dict[str, object]:
    """Check a signed document and return its body.

    ``policy_key``: the SSH blob of the policy key. PeerError unless the signature is right and the body is of this
    kind and
    cluster: a time statement can never serve as a policy, another cluster's never here. Nothing is parsed before
    the check.
    """
    text = signed.get("document") if isinstance(signed, dict) else None
    encoded = signed.get("signature") if isinstance(signed, dict) else None
    if not isinstance(text, str) or not isinstance(encoded, str) or len(text) > MAX_DOCUMENT or len(encoded) > 128:
        raise PeerError(f"malformed {kind} document")
    try:
        signature = base64.b64decode(encoded, validate=True)
        data = text.encode()
    except (binascii.Error, ValueError):
        raise PeerError(f"malformed {kind} document") from None
    try:
        verify_raw(policy_key, SIGN_PREFIX + data, signature)
    except PeerError:
        raise PeerError(f"the {kind} document is not signed by this cluster's policy key") from None
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise PeerError(f"malformed {kind} document") from None
    if not isinstance(body, dict) or body.get("kind") != kind or body.get("cluster") != cluster:
        raise PeerError(f"a {kind} document of cluster {cluster} was expected, this is another one")
    return body


def version(body: Mapping[str, object] | None) -> tuple[int, int]:
    """(epoch, serial) of a document; (0, 0) for none."""
    if body is None:
        return 0, 0
    return _count(body.get("epoch")), _count(body.get("serial"))


def newer(candidate: Mapping[str, object], held: Mapping[str, object] | None) -> bool:
    """May ``candidate`` replace ``held``? Only forward: a restored backup raises the epoch, a change the serial."""
    return version(candidate) > version(held)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise PeerError("malformed document: epoch and serial are whole numbers")
    return value


@dataclass(frozen=True)
class Lock:
    """Refuses whatever ``target`` names until ``expires`` (Unix seconds, None: until it is removed)."""

    id: str
    target: Mapping[str, str]
    expires: float | None
    message: str

    def active(self, now: float) -> bool:
        return self.expires is None or now < self.expires


@dataclass(frozen=True)
class Policy:
    """A policy document, checked. CA keys are SSH blobs, TLS CAs are PEM texts, times Unix seconds."""

    cluster: str
    epoch: int
    serial: int
    issued_at: float
    user_cas: tuple[bytes, ...]
    host_cas: tuple[bytes, ...]
    tls_cas: tuple[str, ...]
    roles: Mapping[str, Role]
    locks: tuple[Lock, ...] = ()
    refuse_before: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
    proxies: tuple[str, ...] = ()
    #: address → UUID of the proxy that is there, where that is one proxy
    proxy_uuids: Mapping[str, str] = field(default_factory=dict)
    #: user CAs that a planned rotation has retired: they open nothing, and end nothing that they opened before
    retired_user_cas: tuple[bytes, ...] = ()
    #: machines whose certificate was issued before (Unix seconds) renew it early, within so many seconds
    renew_before: float = 0.0
    renew_within: float = 0.0
    #: those that are enabled
    trusted_clusters: tuple[TrustedCluster, ...] = ()

    @cached_property
    def foreign_user_cas(self) -> Mapping[bytes, TrustedCluster]:
        """User CAs of other clusters → whose they are. Never one of ours, not even one that we have retired."""
        clusters = [cluster for cluster in self.trusted_clusters if cluster.name != self.cluster]
        return by_user_ca(clusters, (*self.user_cas, *self.retired_user_cas))

    @cached_property
    def locks_devices(self) -> bool:
        """Does anything ask for the fingerprint of a key?"""
        return any(kind == "device" for kind, _ in self.locks_on)

    @cached_property
    def locks_on(self) -> Mapping[tuple[str, str], tuple[Lock, ...]]:
        """(kind, value) → the locks that name it, so that a decision does not look at every lock."""
        found: dict[tuple[str, str], tuple[Lock, ...]] = {}
        for lock in self.locks:
            for target in lock.target.items():
                found[target] = (*found.get(target, ()), lock)
        return found

    @cached_property
    def session_terms(self) -> SessionTerms:
        """The limits on everybody's sessions that the configuration says."""
        try:
            return of_config(self.config)
        except PeerError:
            # A later auth may say it in a way that this version cannot read: the roles' limits still hold.
            return record_of_config(self.config)

    @property
    def renewal(self) -> list[float]:
        """[before, within] of ``renew``, as monitor and link pass it on."""
        return [self.renew_before, self.renew_within]

    def for_who_is_here(self) -> Policy:
        """The policy by which connections are judged again that were let in before: a rotation ends nobody's work."""
        return replace(self, user_cas=(*self.user_cas, *self.retired_user_cas)) if self.retired_user_cas else self

    @classmethod
    def parse(cls, body: Mapping[str, object]) -> Policy:
        """The body of a document whose signature was checked → Policy. PeerError when it is malformed."""
        roles: dict[str, Role] = {}
        for name, document in _table(body, "roles").items():
            try:
                role = parse_role(document)
            except ConfigError as error:
                # A role that this version cannot read grants nothing: it is left out, and whoever has only that
                # role is refused by name. Refusing the whole document would keep old locks and roles alive.
                # But its denies would be lost, too: so it stays as a role that denies everything.
                role = _unreadable(name, error)
            roles[name] = role
        return cls(
            cluster=check_cluster(body.get("cluster")),
            epoch=_count(body.get("epoch")),
            serial=_count(body.get("serial")),
            issued_at=_time(body.get("issued_at")),
            user_cas=tuple(parse_public_line(line) for line in _texts(body, "user_cas")),
            host_cas=tuple(parse_public_line(line) for line in _texts(body, "host_cas")),
            tls_cas=_texts(body, "tls_cas"),
            roles=roles,
            locks=tuple(_lock(item) for item in _list(body, "locks")),
            refuse_before={user: _time(when) for user, when in _table(body, "refuse_before").items()},
            config=_table(body, "config"),
            proxies=_texts(body, "proxies"),
            proxy_uuids={place: str(uuid) for place, uuid in _table(body, "proxy_uuids").items()},
            retired_user_cas=tuple(parse_public_line(line) for line in _texts(body, "retired_user_cas")),
            renew_before=_time(_table(body, "renew").get("before", 0)),
            renew_within=_time(_table(body, "renew").get("within", 0)),
            trusted_clusters=_trusted(_list(body, "trusted_clusters")),
        )


@dataclass(frozen=True)
class NodeDocument:
    """What auth knows of one node. ``labels`` are the server's, the only ones that decide access."""

    epoch: int
    serial: int
    uuid: str
    name: str
    labels: Mapping[str, str]
    state: str
    #: sessions that an administrator has ended → who it was
    ended: Mapping[str, str] = field(default_factory=dict)
    #: certificates of this node that began before (Unix seconds) are another device's, whose place this one took
    since: float = 0.0
    #: processes (instances) of other devices that have this node's identity; ``split``: those that are to get their own
    copies: frozenset[str] = frozenset()
    split: frozenset[str] = frozenset()

    @cached_property
    def label_items(self) -> frozenset[tuple[str, str]]:
        return frozenset(self.labels.items())

    def as_read_by(self, instance: str) -> NodeDocument:
        """As it counts for one of the node's processes: a copy is quarantined."""
        return replace(self, state="quarantined") if instance in self.copies else self

    @classmethod
    def parse(cls, body: Mapping[str, object]) -> NodeDocument:
        """The body of a checked document → NodeDocument. PeerError when it is malformed."""
        uuid, name, state = body.get("uuid"), body.get("name"), body.get("state")
        if not isinstance(uuid, str) or not is_uuid(uuid) or not isinstance(name, str) or not name:
            raise PeerError("malformed node document: uuid and name")
        if state not in NODE_STATES:
            raise PeerError(f"malformed node document: state {printable(str(state), 40)!r}")
        labels = _table(body, "labels")
        if not all(isinstance(value, str) for value in labels.values()):
            raise PeerError("malformed node document: labels")
        return cls(
            epoch=_count(body.get("epoch")),
            serial=_count(body.get("serial")),
            uuid=uuid,
            name=name,
            labels={key: str(value) for key, value in labels.items()},
            state=str(state),
            ended=dict(_ended(item) for item in _list(body, "ended")),
            since=_time(body.get("since", 0)),
            copies=frozenset(_texts(body, "copies")),
            split=frozenset(_texts(body, "split")),
        )


def _unreadable(name: str, error: ConfigError) -> Role:
    del error
    return parse_role({"name": name, "deny": {"logins": ["*"], "rules": [{"resources": ["*"], "verbs": ["*"]}]}})


def _trusted(items: list[object]) -> tuple[TrustedCluster, ...]:
    clusters = []
    for item in items[:MOST_CLUSTERS]:
        try:
            clusters.append(parse_trusted_cluster(item))
        except ConfigError:
            # A later auth may say it in a way that this version cannot read: then nobody comes from there.
            continue
    return tuple(clusters)


def _ended(item: object) -> tuple[str, str]:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str) or not isinstance(item.get("by"), str):
        raise PeerError("malformed node document: ended")
    return item["id"], item["by"]


def _lock(item: object) -> Lock:
    if not isinstance(item, dict):
        raise PeerError("malformed policy: lock")
    target = item.get("target")
    if not isinstance(target, dict) or not target or not all(isinstance(value, str) for value in target.values()):
        raise PeerError("malformed policy: a lock without a target")
    if not LOCK_TARGETS.issuperset(target):
        raise PeerError(f"malformed policy: unknown lock target {printable(','.join(map(str, target)), 60)!r}")
    expires = item.get("expires")
    return Lock(
        id=str(item.get("id", "")),
        target=dict(target),
        expires=None if expires is None else _time(expires),
        message=str(item.get("message") or ""),
    )


def _time(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise PeerError("malformed document: a time is not a number")
    return float(value)


def _table(body: Mapping[str, object], key: str) -> dict[str, object]:
    value = body.get(key, {})
    if not isinstance(value, dict):
        raise PeerError(f"malformed document: {key}")
    return value


def _list(body: Mapping[str, object], key: str) -> list[object]:
    value = body.get(key, [])
    if not isinstance(value, list):
        raise PeerError(f"malformed document: {key}")
    return value


def _texts(body: Mapping[str, object], key: str) -> tuple[str, ...]:
    values = _list(body, key)
    if not all(isinstance(value, str) for value in values):
        raise PeerError(f"malformed document: {key}")
    return tuple(str(value) for value in values)
