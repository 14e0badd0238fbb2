"""The cluster's keys, and everything that is signed with them.

Keys are made on the first start, in one transaction, and never leave this process but into its own database. Which of
them signs what is the ring's to say (``auth.key_ring``); ``auth.rotating`` makes another ring.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tinyport.auth.key_ring import POLICY, SSH_TYPES, KeyRing, load_ring
from tinyport.auth.sealing import META as SEAL
from tinyport.auth.sealing import Seal, open_seal
from tinyport.auth.store import Store, Tables, WriteTables
from tinyport.auth.store_authorities import ACTIVE, AuthorityRow
from tinyport.auth.store_nodes import NodeRow
from tinyport.auth.tls_certificates import (
    Request,
    issue_leaf,
    make_authority,
    read_request,
    serial_text,
)
from tinyport.core.break_glass import USER as BREAK_GLASS
from tinyport.core.break_glass import issue_break_glass
from tinyport.core.certificate import certificate_line, fingerprint, key_type_of, parse_public_line, public_line
from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.identity import Identity
from tinyport.core.issue import issue_host_certificate, issue_user_certificate
from tinyport.core.policy import sign_document
from tinyport.core.signatures import MIN_RSA_BITS, Ed25519Key
from tinyport.core.sshwire import Reader
from tinyport.core.succession import newest

NODE_LIFE = 7 * 86400
# PROTOCOL.certkeys has 64; more than 53 would be rounded by the JSON readers of the audit log.
SERIAL_BITS = 53
#: what users may have certified; no DSA, nothing with a curve of its own
USER_KEY_TYPES = frozenset(
    (
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "ssh-rsa",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    )
)


@dataclass(frozen=True)
class IssuedPair:
    """An SSH certificate (line) and a TLS leaf (PEM, empty when none was asked for), with one life.

    ``serial`` is the SSH certificate's, ``fingerprint`` its key's, times are Unix seconds.
    """

    ssh_certificate: str
    tls_certificate: str
    serial: int
    fingerprint: str
    generation: int
    valid_after: int
    valid_before: int


class Authority:
    """Made by ``open_authority``. Holds every private key of the cluster."""

    def __init__(
        self, cluster: str, server_id: str, clock: Callable[[], float], ring: KeyRing, seal: Seal | None
    ) -> None:
        self.cluster = cluster
        self._server_id = server_id
        self._clock = clock
        self.ring = ring
        self._seal = seal
        self._own = ring.own()
        #: certificates of machines from before (Unix seconds) are to be renewed
        self.renew_before = 0
        #: what leads from the TLS CAs of earlier rotations to today's (core.succession)
        self.successions: list[dict[str, str]] = []

    async def reload(self, tables: Tables) -> None:
        """Take up the keys that the store has now. OperatorError when they cannot be used."""
        ring = await _ring(tables, self._seal)
        before = await tables.cluster.meta("renew_before")
        successions = newest(await tables.authorities.successions())
        self.ring, self._own, self.successions = ring, ring.own(), successions
        self.renew_before = int(before or 0)

    def kept(self, row: AuthorityRow) -> AuthorityRow:
        """A new key as it goes into the store: encrypted, if the others are."""
        return row if self._seal is None else self._seal.close(row)

    # ---------------------------------------------------------------- what everybody may know

    @property
    def policy_key(self) -> str:
        """The public half of what signs documents, as an SSH line."""
        return self.ring.rows[POLICY, ACTIVE].public

    @property
    def policy_key_blob(self) -> bytes:
        return self.ring.policy_key.public_blob

    @property
    def user_cas(self) -> tuple[str, ...]:
        return self.ring.lines("user")

    @property
    def host_cas(self) -> tuple[str, ...]:
        return self.ring.lines("host")

    @property
    def tls_cas(self) -> list[str]:
        return [authority.pem for authority in self.ring.tls_authorities()]

    @property
    def ca_pins(self) -> tuple[str, ...]:
        """The first is what a new device is told: it vouches for what servers show now."""
        return tuple(authority.pin for authority in reversed(self.ring.tls_authorities()))

    def public_keys(self, kind: str) -> list[dict[str, str]]:
        """``GET /v1/ca``: keys of type user, host, tls or policy. PeerError for another type."""
        if kind == "tls":
            return [
                {"pem": authority.pem, "fingerprint": authority.pin, "pin": authority.pin}
                for authority in self.ring.tls_authorities()
            ]
        lines = {"user": self.user_cas, "host": self.host_cas, "policy": (self.policy_key,)}.get(kind)
        if lines is None:
            raise PeerError("type: must be one of user, host, tls, policy")
        return [{"line": line, "fingerprint": fingerprint(parse_public_line(line))} for line in lines]

    # ---------------------------------------------------------------- keys that strangers bring

    def host_key(self, line: str) -> bytes:
        """A node's SSH host key (``ssh-ed25519 ...``) → its blob. PeerError unless it is Ed25519 and not ours."""
        blob = parse_public_line(line)
        if key_type_of(blob) != "ssh-ed25519":
            raise PeerError("ssh_public_key: host keys are ssh-ed25519")
        reader = Reader(blob, "public key")
        reader.text(64)
        if len(reader.string(64)) != 32:
            raise PeerError("ssh_public_key: an Ed25519 key has 32 bytes")
        reader.end()
        return self._foreign(blob)

    def user_key(self, line: str) -> bytes:
        """A user's SSH key → its blob. PeerError when it is of a kind that we do not certify, weak, or ours."""
        blob = parse_public_line(line)
        kind = key_type_of(blob)
        if kind not in USER_KEY_TYPES:
            raise PeerError("ssh_public_key: keys of this type are not certified", hint="use ssh-ed25519")
        if kind == "ssh-rsa":
            reader = Reader(blob, "public key")
            reader.text(64)
            reader.mpint()
            if reader.mpint().bit_length() < MIN_RSA_BITS:
                raise PeerError(f"ssh_public_key: RSA keys need at least {MIN_RSA_BITS} bits")
        return self._foreign(blob)

    def _foreign(self, blob: bytes) -> bytes:
        # A CA key that is certified as somebody's would let its signatures be taken for that person's.
        if blob in self._own:
            raise PeerError("ssh_public_key: this key is the cluster's own")
        return blob

    def request(self, pem: str) -> Request:
        """A certificate request, checked."""
        return read_request(pem, forbidden=self.ring.tls_authorities())

    # ---------------------------------------------------------------- issuing

    def sign(self, body: Mapping[str, object]) -> dict[str, str]:
        """A signed document (docs/protocol/policy.md)."""
        return sign_document(self.ring.policy_key, body)

    async def issue_host(
        self, tables: WriteTables, node: NodeRow, request: Request, *, extra_principals: Sequence[str] = ()
    ) -> IssuedPair:
        """New certificates for a node or proxy: its next generation, which is recorded."""
        # Within the second in which a rotation went on: not of those that are to be renewed.
        now = max(int(self._clock()), self.renew_before)
        generation = node.issued_generation + 1
        await tables.nodes.set_generations(node.uuid, node.generation, generation)
        serial = secrets.randbits(SERIAL_BITS)
        blob = issue_host_certificate(
            self.ring.ssh_signer("host", node.kind),
            public_key=node.ssh_key,
            serial=serial,
            nonce=secrets.token_bytes(32),
            cluster=self.cluster,
            uuid=node.uuid,
            name=node.name,
            role=node.kind,
            generation=generation,
            now=now,
            ttl=NODE_LIFE,
            extra_principals=extra_principals,
        )
        identity = Identity(node.kind, self.cluster, node.uuid)
        return await self._record(
            tables,
            IssuedPair(
                certificate_line(blob, node.name),
                "",
                serial,
                fingerprint(node.ssh_key),
                generation,
                now,
                now + NODE_LIFE,
            ),
            identity,
            request,
        )

    async def issue_user(
        self,
        tables: WriteTables,
        *,
        user: str,
        ssh_key: bytes,
        request: Request | None,
        logins: Sequence[str],
        roles: Sequence[str],
        traits: Mapping[str, Sequence[str]],
        permits: Sequence[str],
        ttl: int,
        not_before: int = 0,
        proven: float | None = None,
        second_factor: Mapping[str, object] | None = None,
        device: str = "",
    ) -> IssuedPair:
        """Certificates for a user. ``not_before``: those issued before this time are refused, so it is not before it.
        ``proven``: when the person last showed their password (Unix seconds; None: they did not). ``device``: the
        fingerprint of the key that they did it for, when it was another one.
        OperatorError when there is no login.
        """
        now = max(int(self._clock()), not_before)
        serial = secrets.randbits(SERIAL_BITS)
        blob = issue_user_certificate(
            self.ring.ssh_signer("user", "user"),
            public_key=ssh_key,
            serial=serial,
            nonce=secrets.token_bytes(32),
            cluster=self.cluster,
            user=user,
            logins=logins,
            roles=roles,
            traits=traits,
            permits=permits,
            now=now,
            ttl=ttl,
            second_factor=second_factor,
            device=device,
        )
        identity = Identity("user", self.cluster, user)
        pair = IssuedPair(certificate_line(blob, user), "", serial, fingerprint(ssh_key), 0, now, now + ttl)
        return await self._record(tables, pair, identity, request, proven, device)

    async def issue_foreign_host(
        self, tables: WriteTables, *, name: str, uuid: str, ssh_key: bytes, ttl: int
    ) -> IssuedPair:
        """A host certificate for a machine that is no node (``tctl auth sign --host``): an sshd that stays."""
        now = int(self._clock())
        serial = secrets.randbits(SERIAL_BITS)
        blob = issue_host_certificate(
            self.ring.ssh_signer("host", "node"),
            public_key=ssh_key,
            serial=serial,
            nonce=secrets.token_bytes(32),
            cluster=self.cluster,
            uuid=uuid,
            name=name,
            role="node",
            generation=0,
            now=now,
            ttl=ttl,
        )
        pair = IssuedPair(certificate_line(blob, name), "", serial, fingerprint(ssh_key), 0, now, now + ttl)
        return await self._record(tables, pair, Identity("node", self.cluster, uuid), None)

    async def issue_break_glass(
        self, tables: WriteTables, *, node: NodeRow, logins: Sequence[str], ssh_key: bytes, ttl: int
    ) -> IssuedPair:
        """A certificate for the day when auth is gone: good for one use on one node (``core.break_glass``)."""
        now = int(self._clock())
        serial = secrets.randbits(SERIAL_BITS)
        blob = issue_break_glass(
            self.ring.ssh_signer("user", "user"),
            public_key=ssh_key,
            serial=serial,
            nonce=secrets.token_bytes(32),
            cluster=self.cluster,
            node_uuid=node.uuid,
            node_name=node.name,
            logins=logins,
            now=now,
            ttl=ttl,
        )
        line = certificate_line(blob, f"{BREAK_GLASS}-{node.name}")
        pair = IssuedPair(line, "", serial, fingerprint(ssh_key), 0, now, now + ttl)
        return await self._record(tables, pair, Identity("user", self.cluster, BREAK_GLASS), None)

    async def _record(
        self,
        tables: WriteTables,
        pair: IssuedPair,
        identity: Identity,
        request: Request | None,
        proven: float | None = None,
        device: str = "",
    ) -> IssuedPair:
        tls_serial = x509.random_serial_number()
        await tables.cluster.add_certificate(
            serial=pair.serial,
            kind=identity.kind,
            subject=identity.id,
            fingerprint=pair.fingerprint,
            tls_serial="" if request is None else serial_text(tls_serial),
            generation=pair.generation,
            issued=pair.valid_after,
            valid_before=pair.valid_before,
            proven=proven,
            device=device,
        )
        if request is None:
            return pair
        leaf = issue_leaf(
            self.ring.tls_signer(identity.kind),
            public_key=request.public_key,
            identity=identity,
            serial=tls_serial,
            now=pair.valid_after,
            ttl=pair.valid_before - pair.valid_after,
        )
        return IssuedPair(
            pair.ssh_certificate,
            leaf,
            pair.serial,
            pair.fingerprint,
            pair.generation,
            pair.valid_after,
            pair.valid_before,
        )

    def server_leaf(self) -> tuple[str, str]:
        """Auth's own leaf and key (PEM), made anew at each start and never written down."""
        key = Ed25519PrivateKey.generate()
        leaf = issue_leaf(
            self.ring.tls_signer("auth"),
            public_key=key.public_key(),
            identity=Identity("auth", self.cluster, self._server_id),
            serial=x509.random_serial_number(),
            now=self._clock(),
            ttl=NODE_LIFE,
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return leaf, private.decode("ascii")


def new_key(type: str, cluster: str, now: float, state: str = ACTIVE) -> AuthorityRow:
    """A fresh key of a type: user, host, tls or policy."""
    if type == "tls":
        tls = make_authority(cluster, now=now)
        return AuthorityRow(type, tls.private_pem(), tls.pem, state)
    key = Ed25519Key.generate()
    return AuthorityRow(
        type, key.to_openssh().decode("ascii"), public_line(key.public_blob, f"{type}-ca@{cluster}"), state
    )


def new_authorities(cluster: str, now: float) -> list[AuthorityRow]:
    """Fresh keys for a fresh cluster, one of each type."""
    return [new_key(type, cluster, now) for type in (*SSH_TYPES, POLICY, "tls")]


async def open_authority(store: Store, clock: Callable[[], float], passphrase: str | None = None) -> Authority:
    """The authority of an initialised store. ``passphrase``: what its keys are encrypted with, if they are."""
    cluster = await store.read.cluster.meta("cluster")
    server_id = await store.read.cluster.meta("server_id")
    if cluster is None or server_id is None:
        raise OperatorError("the store is not initialised", hint="restore a backup")
    wrapped = await store.read.cluster.meta(SEAL)
    seal = None if wrapped is None else open_seal(wrapped, passphrase)
    authority = Authority(cluster, server_id, clock, await _ring(store.read, seal), seal)
    await authority.reload(store.read)
    return authority


async def _ring(tables: Tables, seal: Seal | None) -> KeyRing:
    return load_ring(await tables.authorities.all(), await tables.authorities.rotations(), seal)
