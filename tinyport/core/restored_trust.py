"""The statement by which machines follow auth *back* to a TLS CA that they had left.

Auth was restored from a backup that is older than a rotation: it has the CA of then, its machines trust the one of
later, and no succession can lead from there, as the key that would have to sign it is gone. So hello says, signed by
the policy key, which TLS CAs the policy of today names, with that policy's version. Who holds an older policy believes
it: the policy itself would say the same, and only goes forward, too. Whoever could forge it could forge the policy.

A compromise replaces the policy key, and the last document under the old one has a version above which nothing can
come: so this leads nobody back to a CA that was given up for stolen. See docs/rotation.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyport.core.errors import PeerError
from tinyport.core.policy import open_document, version

KIND = "trust"
#: an active one and a new one, and room for what a later version may do
MOST = 4
MAX_STATEMENT = 16 * 1024


def trust_body(cluster: str, epoch: int, serial: int, tls_cas: Sequence[str]) -> dict[str, object]:
    """What auth signs: under its policy of this version, these (PEM) are the TLS CAs."""
    return {"kind": KIND, "cluster": cluster, "epoch": epoch, "serial": serial, "tls_cas": list(tls_cas)}


def restored_cas(statement: object, policy_key: bytes, cluster: str, held: tuple[int, int]) -> list[str] | None:
    """The TLS CAs (PEM) that a hello's ``trust`` names, for a machine whose policy has version ``held``.

    None when it says nothing that is newer, or nothing that holds; it raises nothing, for a server that is not known
    yet said it.
    """
    text = statement.get("document") if isinstance(statement, dict) else None
    if not isinstance(text, str) or len(text) > MAX_STATEMENT:
        return None
    try:
        body = open_document(statement, policy_key, KIND, cluster)
        newer = version(body) > held
    except PeerError:
        return None
    cas = body.get("tls_cas")
    if not newer or not isinstance(cas, list) or not 0 < len(cas) <= MOST:
        return None
    return list(cas) if all(isinstance(pem, str) for pem in cas) else None
