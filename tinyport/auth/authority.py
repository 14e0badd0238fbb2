"""The cluster's keys, and everything that is signed with them.

Keys are made on the first start, in one transaction, and never leave this process but into its own database. Of each
type the newest signs; all are trusted, so a rotation has something to rotate between.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tinyport.auth.store import Store, WriteTables
from tinyport.auth.store_cluster import AuthorityRow
from tinyport.auth.store_nodes import NodeRow
from tinyport.auth.tls_certificates import (
    Request,
    TlsAuthority,
    issue_leaf,
    load_authority,
    make_authority,
    read_request,
    serial_text,
)
from tinyport.core.certificate import certificate_line, fingerprint, key_type_of, parse_public_line, public_line
from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.identity import Identity
from tinyport.core.issue import issue_host_certificate, issue_user_certificate
from tinyport.core.policy import sign_document
from tinyport.core.signatures import MIN_RSA_BITS, Ed25519Key
from tinyport.core.sshwire import Reader

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
_SSH_TYPES = ("user", "host", "policy")


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

    def __init__(self, cluster: str, server_id: str, rows: Sequence[AuthorityRow], clock: Callable[[], float]) -> None:
        self.cluster = cluster
        self._server_id = server_id
        self._clock = clock
        keys = {kind: [row for row in rows if row.type == kind] for kind in (*_SSH_TYPES, "tls")}
        missing = sorted(kind for kind, found in keys.items() if not found)
        if missing:
            raise OperatorError(f"the store has no {' and no '.join(missing)} key", hint="restore a backup")
        self._user_ca = Ed25519Key.from_openssh(keys["user"][-1].private.encode())
        self._host_ca = Ed25519Key.from_openssh(keys["host"][-1].private.encode())
        self._policy_key = Ed25519Key.from_openssh(keys["policy"][-1].private.encode())
        self._tls = [load_authority(row.private, row.public) for row in keys["tls"]]
        self.user_cas = tuple(row.public for row in keys["user"])
        self.host_cas = tuple(row.public for row in keys["host"])
        self.policy_key = keys["policy"][-1].public
        self._own = {parse_public_line(row.public) for kind in _SSH_TYPES for row in keys[kind]}

    # ---------------------------------------------------------------- what everybody may know

    @property
    def policy_key_blob(self) -> bytes:
        return self._policy_key.public_blob

    @property
    def tls_cas(self) -> list[str]:
        return [authority.pem for authority in self._tls]

    @property
    def ca_pins(self) -> tuple[str, ...]:
        """Newest first: the first is what a new device is told."""
        return tuple(authority.pin for authority in reversed(self._tls))

    def public_keys(self, kind: str) -> list[dict[str, str]]:
        """``GET /v1/ca``: keys of type user, host, tls or policy. PeerError for another type."""
        if kind == "tls":
            return [
                {"pem": authority.pem, "fingerprint": authority.pin, "pin": authority.pin} for authority in self._tls
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
        return read_request(pem, forbidden=self._tls)

    # ---------------------------------------------------------------- issuing

    def sign(self, body: Mapping[str, object]) -> dict[str, str]:
        """A signed document (docs/protocol/policy.md)."""
        return sign_document(self._policy_key, body)

    async def issue_host(
        self, tables: WriteTables, node: NodeRow, request: Request, *, extra_principals: Sequence[str] = ()
    ) -> IssuedPair:
        """New certificates for a node or proxy: its next generation, which is recorded."""
        now = int(self._clock())
        generation = node.issued_generation + 1
        await tables.nodes.set_generations(node.uuid, node.generation, generation)
        serial = secrets.randbits(SERIAL_BITS)
        blob = issue_host_certificate(
            self._host_ca,
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
    ) -> IssuedPair:
        """Certificates for a user. ``not_before``: those issued before this time are refused, so it is not before it.
        ``proven``: when the person last showed their password (Unix seconds; None: they did not).
        OperatorError when there is no login.
        """
        now = max(int(self._clock()), not_before)
        serial = secrets.randbits(SERIAL_BITS)
        blob = issue_user_certificate(
            self._user_ca,
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
        )
        identity = Identity("user", self.cluster, user)
        pair = IssuedPair(certificate_line(blob, user), "", serial, fingerprint(ssh_key), 0, now, now + ttl)
        return await self._record(tables, pair, identity, request, proven)

    async def issue_foreign_host(
        self, tables: WriteTables, *, name: str, uuid: str, ssh_key: bytes, ttl: int
    ) -> IssuedPair:
        """A host certificate for a machine that is no node (``tctl auth sign --host``): an sshd that stays."""
        now = int(self._clock())
        serial = secrets.randbits(SERIAL_BITS)
        blob = issue_host_certificate(
            self._host_ca,
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

    async def _record(
        self,
        tables: WriteTables,
        pair: IssuedPair,
        identity: Identity,
        request: Request | None,
        proven: float | None = None,
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
        )
        if request is None:
            return pair
        leaf = issue_leaf(
            self._tls[-1],
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
            self._tls[-1],
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


def new_authorities(cluster: str, now: float) -> list[AuthorityRow]:
    """Fresh keys for a fresh cluster, one of each type."""
    rows = []
    for kind in _SSH_TYPES:
        key = Ed25519Key.generate()
        rows.append(
            AuthorityRow(kind, key.to_openssh().decode("ascii"), public_line(key.public_blob, f"{kind}-ca@{cluster}"))
        )
    tls: TlsAuthority = make_authority(cluster, now=now)
    rows.append(AuthorityRow("tls", tls.private_pem(), tls.pem))
    return rows


async def open_authority(store: Store, clock: Callable[[], float]) -> Authority:
    """The authority of an initialised store."""
    cluster = await store.read.cluster.meta("cluster")
    server_id = await store.read.cluster.meta("server_id")
    if cluster is None or server_id is None:
        raise OperatorError("the store is not initialised", hint="restore a backup")
    return Authority(cluster, server_id, await store.read.cluster.authorities(), clock)
