"""What the keeper judges by: identity, policy, node document and time, from the disk and from link.

Link may be a stranger's; so every document is checked here against the policy key that came with the join, and
replaces only an older one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tinyport.core.certificate import parse_public_line
from tinyport.core.clock import ClusterClock
from tinyport.core.errors import OperatorError, PeerError, TinyportError
from tinyport.core.names import printable
from tinyport.core.policy import MAX_DOCUMENT, NodeDocument, Policy, newer, open_document, version
from tinyport.core.signatures import Ed25519Key
from tinyport.core.verified import VerifiedCertificates
from tinyport.host import identity_before, identity_file
from tinyport.host.files import read_limited, write_private
from tinyport.host.logging_line import Log
from tinyport.node.keeper.used_once import UsedOnce

# JSON escapes at most double what we write ourselves; 64 KiB for the frame.
MAX_FILE = 2 * MAX_DOCUMENT + 64 * 1024
# How far cluster time may run before the floor is written again: an hour's certificates, not the flash's life.
FLOOR_EVERY = 3600.0


@dataclass(frozen=True)
class HostIdentity:
    """This node as it shows itself. Blobs are SSH blobs."""

    cluster: str
    uuid: str
    name: str
    key: Ed25519Key
    certificate: bytes
    policy_key: bytes
    tls_cas: tuple[str, ...]

    @property
    def host_keys(self) -> tuple[bytes, bytes]:
        """What may stand as K_S in a transcript: the certificate, or the plain key."""
        return self.certificate, self.key.public_blob


def load_identity(place: identity_file.Kept) -> HostIdentity:
    """The identity, parsed. OperatorError when it is damaged or not a node's; OSError when it cannot be read."""
    raw = place.load()
    if raw["kind"] != "node":
        raise OperatorError("the identity is not a node's")
    cas = raw["tls_cas"]
    assert isinstance(cas, list)
    try:
        return HostIdentity(
            cluster=str(raw["cluster"]),
            uuid=str(raw["uuid"]),
            name=str(raw["name"]),
            key=Ed25519Key.from_openssh(str(raw["ssh_key"]).encode()),
            certificate=parse_public_line(str(raw["ssh_certificate"])),
            policy_key=parse_public_line(str(raw["policy_key"])),
            tls_cas=tuple(str(pem) for pem in cas),
        )
    except PeerError as error:
        raise OperatorError("the identity is damaged", detail=str(error)) from None


class Documents:
    """The held documents. ``policy`` and ``node`` are None until the cluster was heard for the first time."""

    def __init__(self, paths: Mapping[str, str], log: Log, instance: str = "", memory: int | None = None) -> None:
        """``paths``: files by name: identity, policy, node, floor. ``instance``: which of the processes that are or
        were this node this is (core.instances). ``memory``: the memory file with the identity, which counts instead
        of the file.
        """
        self._paths = paths
        self._place = identity_file.Kept(paths["identity"], memory)
        self._instance = instance
        self._log = log
        self._identity_stamp = self._stamp()
        self.identity = load_identity(self._place)
        self.policy: Policy | None = None
        #: people's certificates; not held on the disk
        self.verified = VerifiedCertificates()
        self.node: NodeDocument | None = None
        #: break-glass certificates that were used here
        self.used_once = UsedOnce(os.path.join(os.path.dirname(paths["identity"]), "break-glass.used"))
        self._bodies: dict[str, Mapping[str, object]] = {}
        #: kind → what could not be written
        self._unsaved: dict[str, object] = {}
        self._written_floor = self._read_floor()
        self._clock = ClusterClock(self._written_floor)
        for kind in ("policy", "node"):
            self._load(kind)

    # ------------------------------------------------------------------ identity

    def refresh_identity(self) -> HostIdentity:
        """The identity as it is kept now: renewal replaces it. A damaged one is not taken."""
        stamp = self._stamp()
        if stamp != self._identity_stamp:
            self._identity_stamp = stamp
            try:
                self.identity = load_identity(self._place)
            except (OSError, OperatorError) as error:
                self._log.error("the new identity is not taken", reason=error)
        return self.identity

    def _stamp(self) -> tuple[int, int]:
        try:
            state = os.stat(self._paths["identity"] if self._place.memory is None else self._place.memory)
        except OSError:
            return 0, 0
        return state.st_ino, state.st_mtime_ns

    @property
    def dial_cas(self) -> list[str]:
        """The TLS CAs of proxies that sessions are dialled back to: where the tunnel may stand."""
        policy = self.policy
        cas = list(self.identity.tls_cas if policy is None else policy.tls_cas)
        before = identity_before.read(os.path.dirname(self._paths["identity"]))
        if before is None or not identity_before.counts(before, self.now(), 0 if policy is None else policy.epoch):
            return cas
        return [*cas, *(pem for pem in _list(before["tls_cas"]) if pem not in cas)]

    # ------------------------------------------------------------------ documents

    def reload(self) -> bool:
        """What another keeper of this node has written since. True when something of it is newer."""
        return any([self._load("policy"), self._load("node")])

    def _load(self, kind: str) -> bool:
        try:
            signed = json.loads(read_limited(self._paths[kind], MAX_FILE))
            return self._take(signed) is not None
        except FileNotFoundError:
            return False
        except (OSError, ValueError, RecursionError, TinyportError) as error:
            # The cluster sends it again: link tells the tunnel which versions we have.
            self._log.error("a document on the disk is not used", kind=kind, reason=error)
            return False

    def _take(self, signed: object) -> str | None:
        """Check and hold a policy or node document. Returns its kind, None when it is not newer."""
        identity = self.identity
        kind = _claimed_kind(signed)
        body = open_document(signed, identity.policy_key, kind, identity.cluster)
        held = self._bodies.get(kind)
        if not newer(body, held):
            if version(body) < version(held):
                self._log.warning("an older document is not taken", kind=kind, version=version(body))
            return None
        if kind == "policy":
            self.policy = Policy.parse(body)
            # Signed by auth, so this moment is past.
            self._past(self.policy.issued_at)
        else:
            node = NodeDocument.parse(body)
            if node.uuid != identity.uuid:
                raise PeerError("the node document is another node's", detail=printable(node.uuid, 60))
            self.node = node.as_read_by(self._instance)
        self._bodies[kind] = {"epoch": body.get("epoch"), "serial": body.get("serial")}
        return kind

    def install(self, signed: object, *, write: bool = True) -> str | None:
        """A document from link: checked, held, and (unless another keeper does that) written. Returns its kind when it
        is newer than what was held.

        PeerError when it is not signed by this cluster's auth or is malformed. What cannot be written counts
        nevertheless: a full disk must not keep a lock away.
        """
        kind = self._take(signed)
        if kind is not None:
            if write:
                self._unsaved[kind] = signed
                self.save()
                self.save_floor()
            else:
                self._unsaved.pop(kind, None)
        return kind

    def save(self) -> None:
        """Write what could not be written before, too."""
        for kind, signed in list(self._unsaved.items()):
            if kind == "node" and self.node is not None and self.node.uuid != self.refresh_identity().uuid:
                # This device has another identity by now, and that one's document.
                del self._unsaved[kind]
                continue
            try:
                write_private(self._paths[kind], json.dumps(signed).encode())
            except OSError as error:
                self._log.error("a document could not be written", kind=kind, reason=error)
            else:
                del self._unsaved[kind]

    def versions(self) -> dict[str, object]:
        """What ``have`` says: kind → [epoch, serial]."""
        return {kind: list(version(self._bodies.get(kind))) for kind in ("policy", "node")}

    @property
    def renewal(self) -> list[float] | None:
        """Which certificates are to be renewed early: [before, within]."""
        return None if self.policy is None else self.policy.renewal

    @property
    def proxies(self) -> dict[str, object] | None:
        """Where proxies are, for link: as the policy says it."""
        policy = self.policy
        if policy is None:
            return None
        preferred = policy.config.get("proxy_addresses")
        return {"addresses": list(policy.proxies), "uuids": dict(policy.proxy_uuids), "preferred": preferred}

    @property
    def unsaved(self) -> list[str]:
        """The kinds that are newer than on the disk; link keeps those for our successor."""
        return list(self._unsaved)

    # ------------------------------------------------------------------ time

    def now(self) -> float:
        """Cluster time, Unix seconds."""
        return self._clock.now(time.time(), time.monotonic())

    @property
    def knows_time(self) -> bool:
        """Is there a clock to go by? Auth's word, or a system clock that is not before what is past for certain."""
        return self._clock.confirmed or time.time() >= self.known_past()

    def known_past(self) -> float:
        """The latest moment that is past for certain (Unix seconds): auth said so, now or once."""
        issued = 0.0 if self.policy is None else self.policy.issued_at
        return max(self._written_floor, issued, self.now() if self._clock.confirmed else 0.0)

    def confirm_time(self, signed: object, heard: object) -> None:
        """Auth's statement of the time, heard when the monotonic clock showed ``heard``. PeerError when it is none.

        Link chose the statement's nonce, so a link that was taken over could repeat an old one: the clock does not go
        below what was already past.
        """
        body = open_document(signed, self.identity.policy_key, "time", self.identity.cluster)
        stated, monotonic = body.get("time"), time.monotonic()
        when = monotonic if heard is None else heard
        if isinstance(stated, bool) or not isinstance(stated, (int, float)):
            raise PeerError("malformed time document")
        if isinstance(when, bool) or not isinstance(when, (int, float)) or not 0 <= when <= monotonic:
            raise PeerError("malformed time document", detail="heard in the future")
        self._clock.confirm(float(stated), float(when))
        if self.now() - self._written_floor >= FLOOR_EVERY:
            self.save_floor()

    def _past(self, moment: float) -> None:
        # Once auth told the time, a document from a moment later is a matter of milliseconds.
        if moment > self.now() and not self._clock.confirmed:
            self._log.warning("the clock of this machine is behind its cluster's", seconds=round(moment - self.now()))
            # A clock that starts from there: the system's counts again when it is later.
            self._clock = ClusterClock(moment)

    def _read_floor(self) -> float:
        try:
            floor = float(read_limited(self._paths["floor"], 64))
        except (OSError, ValueError, OperatorError):
            return 0.0
        # Not "nan" or "inf", with which nothing would ever expire or everything had.
        return floor if 0 <= floor < 2**40 else 0.0

    def save_floor(self) -> None:
        """Write the floor: this moment is past. Only cluster time; a system clock that was never confirmed may be
        wrong in both directions.
        """
        if not self._clock.confirmed and self.policy is not None:
            floor = max(self._written_floor, self.policy.issued_at)
        elif self._clock.confirmed:
            floor = self.now()
        else:
            return
        if floor <= self._written_floor:
            return
        try:
            write_private(self._paths["floor"], f"{floor:.0f}\n".encode())
        except OSError as error:
            self._log.warning("the time could not be written", reason=error)
            return
        self._written_floor = floor


def _list(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _claimed_kind(signed: object) -> str:
    """The kind that a document says it is, before any check; the check then insists on it."""
    text = signed.get("document") if isinstance(signed, dict) else None
    try:
        body = json.loads(text) if isinstance(text, str) and len(text) <= MAX_DOCUMENT else None
    except (ValueError, RecursionError):
        body = None
    kind = body.get("kind") if isinstance(body, dict) else None
    if kind not in ("policy", "node"):
        raise PeerError("neither a policy nor a node document")
    return str(kind)
