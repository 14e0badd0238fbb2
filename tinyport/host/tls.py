"""TLS contexts between our programs: one place for versions, verification and keys that never touch the disk."""

from __future__ import annotations

import os
import ssl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# X509_V_FLAG_NO_CHECK_TIME. A board without a clock would refuse every certificate; who uses these contexts judges
# time by what auth states inside the channel (docs/protocol/policy.md, kind = time).
NO_CHECK_TIME = 0x200000


def _load_key(context: ssl.SSLContext, cert_pem: str, key_pem: str) -> None:
    # ssl reads keys from files only. A memfd is a file that no other user, and no backup, ever sees.
    descriptor = os.memfd_create("tinyport-key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, f"{cert_pem.strip()}\n{key_pem.strip()}\n".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def client_context(
    tls_cas: Sequence[str],
    *,
    alpn: Sequence[str],
    cert_pem: str | None = None,
    key_pem: str | None = None,
) -> ssl.SSLContext:
    """A context that trusts the cluster's TLS CAs (PEM texts) and nobody else.

    It does not compare host names: the caller must compare kind, cluster and id of
    ``core.identity.from_peer_certificate(sock.getpeercert())`` with what it wanted to reach.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= NO_CHECK_TIME
    context.load_verify_locations(cadata="\n".join(tls_cas))
    context.set_alpn_protocols(list(alpn))
    if cert_pem is not None and key_pem is not None:
        _load_key(context, cert_pem, key_pem)
    return context


def unverified_context(*, alpn: Sequence[str]) -> ssl.SSLContext:
    """A context that believes anybody. Only for asking an unknown server for its CA, which a pin then judges."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(alpn))
    return context


def server_context(
    tls_cas: Sequence[str], *, alpn: Sequence[str], cert_pem: str, key_pem: str, client: str
) -> ssl.SSLContext:
    """A server's context. ``client``: "none", "optional" or "required" client certificates of the cluster's TLS CAs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}[client]
    if client != "none":
        context.verify_flags |= NO_CHECK_TIME
        context.load_verify_locations(cadata="\n".join(tls_cas))
    context.set_alpn_protocols(list(alpn))
    # No tickets: a resumed session would carry on a verification that was made under older CAs.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    _load_key(context, cert_pem, key_pem)
    return context


def certificate_fingerprint(pem: str) -> str:
    """SHA-256 of the first certificate in a PEM text, as browsers show it: pairs of digits with colons between.
    ValueError when there is none."""
    # Not always there: only the proxy and quickstart want it.
    import hashlib

    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    _, found, rest = pem.partition(begin)
    body, closed, _ = rest.partition(end)
    if not found or not closed:
        raise ValueError("no certificate in it")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(f"{begin}{body}{end}")).digest().hex(":").upper()
