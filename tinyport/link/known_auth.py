"""Which TLS CAs to believe when somebody says to be auth: those of a pin or an identity, and where a planned rotation
has led since (core.succession).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tinyport.core.certificate import parse_public_line
from tinyport.core.errors import OperatorError, PeerError, TinyportError
from tinyport.core.names import parse_address
from tinyport.core.policy import Policy, open_document
from tinyport.core.restored_trust import restored_cas
from tinyport.core.succession import follow
from tinyport.host.files import read_limited
from tinyport.link.api import UNKNOWN_CA, AuthClient, check_pins, fetch_hello, pin_of

MAX_DOCUMENT_FILE = 4 * 1024 * 1024


def believed(hello: Mapping[str, object], pins: Sequence[str]) -> list[str]:
    """The TLS CAs (PEM) that ``pins`` vouch for, by the hello of a server that is not known yet: those that they name,
    and the one that planned rotations have led to since. OperatorError when there is none."""
    offered = _texts(hello.get("tls_cas"))
    cluster = hello.get("cluster")
    wanted = [pin.strip().lower() for pin in pins]
    led = follow(hello.get("successions"), wanted, cluster=str(cluster), pin_of=pin_of)
    try:
        named = check_pins(offered, wanted)
    except OperatorError:
        if led is None:
            raise
        named = []
    return named if led is None else [*named, led]


def meet(
    address: tuple[str, int],
    tls_cas: Sequence[str],
    *,
    cluster: str | None,
    policy_key: bytes | None = None,
    held: tuple[int, int] | None = None,
    server: str = "proxy",
) -> tuple[list[str], dict[str, object]]:
    """Auth's hello, and the TLS CAs to believe it by: ``tls_cas``, or where planned rotations have led from there, or
    a restored auth leads back to.

    ``policy_key``: its SSH blob, for who holds it; ``held``: the version of the policy that they have. Raises what
    ``AuthClient`` does; PeerError ``unknown_ca`` when nothing leads from the CAs that are trusted to what the server
    shows.
    """
    try:
        with AuthClient(address, tls_cas=tls_cas, cluster=cluster, server=server) as auth:
            return list(tls_cas), auth.request("GET", "/v1/hello")
    except PeerError as error:
        if error.code != UNKNOWN_CA:
            raise
        stranger = fetch_hello(address, server=server)
        name = cluster if cluster is not None else str(stranger["cluster"])
        pins = [pin_of(pem) for pem in tls_cas]
        led = follow(stranger.get("successions"), pins, cluster=name, pin_of=pin_of, policy_key=policy_key)
        cas = [] if led is None else [led]
        if policy_key is not None and held is not None:
            # Perhaps both: restored from a backup, and rotated since.
            cas += restored_cas(stranger.get("trust"), policy_key, name, held) or []
        if not cas:
            raise
    with AuthClient(address, tls_cas=cas, cluster=name, server=server) as auth:
        return cas, auth.request("GET", "/v1/hello")


def meet_again(held: Mapping[str, object], folder: Path) -> tuple[list[str], dict[str, object]]:
    """``meet`` for a node or proxy with the identity ``held``, whose documents are in ``folder``."""
    policy = _held_policy(held, folder)
    return meet(
        parse_address(str(held["server"])),
        _trusted(held, policy),
        cluster=str(held["cluster"]),
        policy_key=parse_public_line(str(held["policy_key"])),
        # Without one, any statement of years ago would be news.
        held=None if policy is None else (policy.epoch, policy.serial),
        server="proxy" if held["kind"] == "node" else "auth",
    )


def trusted_cas(identity: Mapping[str, object], folder: Path) -> list[str]:
    """The TLS CAs to trust: those of the join, and those that the signed policy beside it has brought since."""
    return _trusted(identity, _held_policy(identity, folder))


def _trusted(identity: Mapping[str, object], policy: Policy | None) -> list[str]:
    cas = _texts(identity.get("tls_cas"))
    return cas if policy is None else [*cas, *(pem for pem in policy.tls_cas if pem not in cas)]


def _held_policy(identity: Mapping[str, object], folder: Path) -> Policy | None:
    try:
        policy_key = parse_public_line(str(identity["policy_key"]))
        signed = json.loads(read_limited(folder / "policy.json", MAX_DOCUMENT_FILE))
        return Policy.parse(open_document(signed, policy_key, "policy", str(identity["cluster"])))
    except (OSError, ValueError, TinyportError):
        # Absent or damaged: then only what the join brought counts. The keeper complains about damage.
        return None


def vouched_for(leaf: str, hello: Mapping[str, object]) -> bool:
    """Will auth still take a certificate (PEM) of ours for one of its cluster's? By the CAs in its hello, from a server
    that was checked. What cannot be read is not: then another way is tried, which ends nothing."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        certificate = x509.load_pem_x509_certificate(leaf.encode())
        authorities = [x509.load_pem_x509_certificate(pem.encode()) for pem in _texts(hello.get("tls_cas"))]
    except ValueError:
        return False
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (InvalidSignature, ValueError, TypeError):
            continue
        return True
    return False


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise PeerError("malformed answer of auth: tls_cas")
    return list(value)
