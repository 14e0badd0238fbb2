"""Certificates for the day when auth is gone: one node, one use, made in advance and kept in a safe.

docs/break-glass.md has the whole of it.

They are the user CA's, and say what they are by a critical option, so that whoever does not know it (another sshd, a
proxy, an older node) refuses them. The node judges by what it holds itself; no role and no confirmed time is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyport.core import certificate as c
from tinyport.core.access import STRANGER, Grant, check_locks, check_signer
from tinyport.core.certificate import Certificate
from tinyport.core.errors import AccessDenied, OperatorError
from tinyport.core.issue import BACKDATE, sign
from tinyport.core.names import printable
from tinyport.core.policy import NodeDocument, Policy
from tinyport.core.session_terms import in_emergency
from tinyport.core.signatures import Ed25519Key
from tinyport.core.verified import VerifiedCertificates

#: the critical option; its value is the node's UUID
OPTION = f"break-glass@{c.DOMAIN}"
#: in whose name it is used: nobody can be called so, and a lock on it ends all of them
USER = "break-glass"
#: a shell, and files to repair things with; nothing that leads on to other machines
PERMITS = frozenset(("pty", "exec", "sftp"))


def issue_break_glass(
    ca: Ed25519Key,
    *,
    public_key: bytes,
    serial: int,
    nonce: bytes,
    cluster: str,
    node_uuid: str,
    node_name: str,
    logins: Sequence[str],
    now: int,
    ttl: int,
) -> bytes:
    """A break-glass certificate's blob. ``public_key``: plain SSH key blob; ``nonce``: 32 random bytes; ``now`` and
    ``ttl``: seconds. OperatorError without a login."""
    if not logins or ttl <= 0:
        raise OperatorError("a break-glass certificate needs a login and a life")
    return sign(
        ca,
        c.to_be_signed(
            public_key=public_key,
            nonce=nonce,
            serial=serial,
            cert_type=c.USER,
            key_id=f"{USER} {node_name}.{cluster}",
            principals=list(logins),
            valid_after=max(0, now - BACKDATE),
            valid_before=now + ttl,
            critical_options={OPTION: node_uuid},
            extensions={c.EXT_CLUSTER: cluster, c.EXT_USER: USER, "permit-pty": None},
            ca_key=ca.public_blob,
        ),
    )


def is_break_glass(cert: Certificate) -> bool:
    """Does it claim to be one? Then no other rule than ``judge`` is for it."""
    return OPTION in cert.critical_options


def judge(
    cert: Certificate,
    *,
    login: str,
    policy: Policy,
    node: NodeDocument,
    past: float,
    now: float,
    verified: VerifiedCertificates | None = None,
) -> Grant:
    """The grant that a break-glass certificate gives on this node, whether or not it was used before.

    ``past``: the latest moment (Unix seconds) that is known to be past. Only that ends it: a board whose clock says any
    year must let in who was sent to repair it. ``now`` is for locks. AccessDenied by name (``foreign``, ``kind``,
    ``option``, ``expired``, ``locked``, ``quarantined``, ``denied``).
    """
    check_signer(cert, policy, verified)
    if cert.cert_type != c.USER:
        raise AccessDenied(STRANGER, detail="a host certificate was offered as a user's", code="kind")
    if cert.text_extension(c.EXT_CLUSTER) != policy.cluster or cert.text_extension(c.EXT_USER) != USER:
        raise AccessDenied(STRANGER, detail=f"the certificate is not for {policy.cluster}", code="foreign")
    if set(cert.critical_options) != {OPTION}:
        others = ", ".join(sorted(set(cert.critical_options) - {OPTION}))
        raise AccessDenied(f"a break-glass certificate has no other option: {printable(others, 60)}", code="option")
    if cert.text_option(OPTION) != node.uuid:
        raise AccessDenied(f"this break-glass certificate is not for {node.name}", code="denied")
    if past >= cert.valid_before:
        raise AccessDenied("this break-glass certificate has expired", code="expired")
    check_locks(policy, now, (("user", USER), ("node", node.uuid), ("node", node.name), ("login", login)))
    if node.state != "active":
        raise AccessDenied(f"node {node.name} is {node.state}", code="quarantined")
    if login not in cert.principals:
        raise AccessDenied(
            f"this break-glass certificate is not for login {printable(login, 40)}",
            hint=f"it is for {', '.join(cert.principals)}",
        )
    return Grant(
        user=USER,
        login=login,
        node=node.uuid,
        permits=PERMITS,
        force_command=None,
        expires=cert.valid_before,
        role_names=(),
        certificate_serial=cert.serial,
        key_id=cert.key_id,
        fingerprint=c.fingerprint(cert.public_key),
        terms=in_emergency(policy.session_terms),
    )
