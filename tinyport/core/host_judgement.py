"""Is this host the node that was asked for? Its host certificate is judged here, wholly by our own rules.

The proxy says which node it joined us to; that word counts for nothing beyond telling *which* name and UUID the
certificate must carry, and a name that the person typed must be in it as well.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tinyport.core import certificate as c
from tinyport.core.certificate import Certificate
from tinyport.core.durations import format_duration
from tinyport.core.errors import PeerError
from tinyport.core.names import printable
from tinyport.core.signatures import verify


def wanted_principal(target: str, cluster: str) -> str | None:
    """What the person typed, as the principal that the certificate must have; None for ``k=v``, which is no name."""
    if "=" in target:
        return None
    return target.lower().removesuffix(f".{cluster}")


def judge_host(
    blob: bytes,
    *,
    host_cas: Collection[bytes],
    cluster: str,
    principals: Sequence[str],
    now: float,
    role: str = "node",
) -> Certificate:
    """A host certificate blob, good for all of ``principals`` at ``now`` (Unix seconds) → the certificate.

    ``host_cas``: plain key blobs; ``role``: node or proxy. PeerError says what is wrong: not a certificate, another CA,
    a user's, dates, another host, a critical option (no host certificate has one that we know).
    """
    if not c.is_certificate_type(c.key_type_of(blob)):
        raise PeerError("the node showed a plain host key and no certificate")
    cert = Certificate.decode(blob)
    if cert.ca_key not in host_cas:
        raise PeerError(
            f"the node's host certificate is not signed by a CA of {cluster}",
            detail=f"it is signed by {c.fingerprint(cert.ca_key)}",
            hint='if the CA was changed, run "tsh login"; else somebody may be listening',
        )
    verify(cert.ca_key, cert.signed, cert.signature)
    if cert.cert_type != c.HOST:
        raise PeerError("the node showed a user certificate as its host certificate")
    if cert.text_extension(c.EXT_CLUSTER) != cluster or cert.text_extension(c.EXT_ROLE) != role:
        raise PeerError(f"the host certificate is not that of a {role} of {cluster}")
    if cert.critical_options:
        raise PeerError("the host certificate has a critical option that is not known here")
    missing = [name for name in principals if name not in cert.principals]
    if missing:
        raise PeerError(
            f"the host that answered is {printable(cert.key_id, 80)}, not {printable(missing[0], 80)}",
            hint="somebody may be listening; tell the operator",
        )
    if now >= cert.valid_before:
        raise PeerError(f"the node's host certificate expired {format_duration(now - cert.valid_before)} ago")
    if now < cert.valid_after:
        ahead = format_duration(cert.valid_after - now)
        raise PeerError(f"the node's host certificate begins in {ahead}: is this machine's clock right?", code="clock")
    return cert
