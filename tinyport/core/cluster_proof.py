"""How a proxy of another cluster proves whose it is: the first words of the tunnel that it dials to us.

It signs, with the host key that its cluster's host CA has certified as a proxy's, a challenge of ours together with the
TLS certificate that it sees. So the proof is of this moment and for this server: whoever takes it elsewhere, or plays
it again, has nothing. A cluster is known by the key of its host CA, never by what it calls itself
(docs/protocol/tunnel.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyport.core.certificate import EXT_HOST_UUID, Certificate
from tinyport.core.errors import PeerError
from tinyport.core.host_judgement import judge_host
from tinyport.core.names import check_cluster, is_uuid
from tinyport.core.signatures import verify_raw
from tinyport.core.sshwire import string
from tinyport.core.trust import TrustedCluster

PREFIX = b"tinyport-cluster-v1\0"
CHALLENGE_BYTES = 32
DIGEST_BYTES = 32


@dataclass(frozen=True)
class Proven:
    """A proxy of another cluster, which has proved it. ``until``: Unix time at which its certificate ends."""

    cluster: TrustedCluster
    uuid: str
    until: int


def signed_words(cluster: str, server: str, challenge: bytes, digest: bytes) -> bytes:
    """What the proxy of ``cluster`` signs for one of ``server``. ``digest``: SHA-256 of that proxy's TLS certificate
    (DER)."""
    if len(challenge) != CHALLENGE_BYTES or len(digest) != DIGEST_BYTES:
        raise PeerError("malformed challenge")
    return PREFIX + b"".join(map(string, (cluster.encode(), server.encode(), challenge, digest)))


def judge_proof(
    blob: bytes,
    signature: bytes,
    *,
    cluster: object,
    server: str,
    challenge: bytes,
    digest: bytes,
    trusted: Sequence[TrustedCluster],
    now: float,
) -> Proven:
    """Whose proxy has signed. ``blob``: its host certificate; ``cluster``: what it says to be.

    PeerError when no tunnel is expected from a cluster of that name, or it is not one of its proxies.
    """
    name = check_cluster(cluster)
    known = next((one for one in trusted if one.name == name and one.by_tunnel), None)
    if known is None:
        raise PeerError("this cluster expects no tunnel from yours", detail=name, code="denied")
    certificate = judge_host(
        blob, host_cas=known.host_cas, cluster=name, principals=[f"proxy.{name}"], now=now, role="proxy"
    )
    verify_raw(certificate.public_key, signed_words(name, server, challenge, digest), signature)
    return Proven(known, _uuid(certificate), certificate.valid_before)


def _uuid(certificate: Certificate) -> str:
    uuid = certificate.text_extension(EXT_HOST_UUID) or ""
    if not is_uuid(uuid):
        raise PeerError("the proxy's certificate has no UUID")
    return uuid
