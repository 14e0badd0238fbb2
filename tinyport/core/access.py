"""The access decision: is this certificate good, and may its user be that login on that node?

Two ladders of named refusals, the last rung of each is no. Node and proxy climb the same ones. ``Grant`` is
the proof that becoming somebody needs; only ``decide`` makes one, and for certificates made for the day when auth is
gone, ``core.break_glass``.

Who is told what: somebody whose roles could see the node is told the truth; anybody else reads "access denied".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from tinyport.core import certificate as c
from tinyport.core.certificate import Certificate
from tinyport.core.durations import format_duration
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.forwarding import NOTHING, ForwardRule
from tinyport.core.issue import PERMIT_EXTENSIONS
from tinyport.core.names import check_user, printable
from tinyport.core.policy import Lock, NodeDocument, Policy
from tinyport.core.roles import Role, can_see, forwarding, permits, requires_mfa, role_allows, role_denies, sftp_terms
from tinyport.core.sftp_terms import UNBOUND, SftpTerms
from tinyport.core.signatures import verify
from tinyport.core.verified import VerifiedCertificates

STRANGER = "access denied"

FORCE_COMMAND = "force-command"
SOURCE_ADDRESS = "source-address"
#: critical options that we obey (PROTOCOL.certkeys); any other one is a refusal
_KNOWN_OPTIONS = frozenset((FORCE_COMMAND, SOURCE_ADDRESS))


@dataclass(frozen=True)
class Subject:
    """A user whose certificate is good. Not yet allowed anything anywhere."""

    user: str
    role_names: tuple[str, ...]
    roles: tuple[Role, ...]
    traits: Mapping[str, tuple[str, ...]]
    logins: tuple[str, ...]
    certificate: Certificate


@dataclass(frozen=True)
class Grant:
    """Proof that ``user`` may be ``login`` on one node. Made by ``decide`` and ``core.break_glass.judge`` alone.
    ``expires`` is in Unix seconds."""

    user: str
    login: str
    node: str
    permits: frozenset[str]
    force_command: str | None
    expires: int
    role_names: tuple[str, ...]
    certificate_serial: int
    key_id: str
    fingerprint: str
    #: what ``port_forwarding`` among the permits reaches
    forwarding: ForwardRule = NOTHING
    #: how ``sftp`` among the permits may be used
    sftp: SftpTerms = UNBOUND


def judge_certificate(
    cert: Certificate, *, policy: Policy, now: float, source: str | None, verified: VerifiedCertificates | None = None
) -> Subject:
    """Is this a good user certificate of the cluster, at ``now`` (Unix seconds), used from ``source`` (an IP
    address, None when it is not known)?

    Checks the CA's signature, kind, cluster, life, principals, critical options, revocation and locks on user and
    roles.
    ``verified`` spares a CA signature that was checked before; every rule is judged each time.
    It does not prove that the peer has the private key. AccessDenied with ``code`` foreign, kind, clock, expired,
    principals, option,
    source, revoked, role or locked.
    """
    check_signer(cert, policy, verified)
    if cert.cert_type != c.USER:
        raise AccessDenied(STRANGER, detail="a host certificate was offered as a user's", code="kind")
    user = _user_of(cert, policy)
    _check_life(cert, user, policy, now)
    if not cert.principals:
        # asyncssh and old OpenSSH read "no principals" as "every user". Absent means denied.
        raise AccessDenied(STRANGER, detail=f"certificate of {user} has no principals", code="principals")
    _check_options(cert, user, source)
    role_names = _texts(cert.json_extension(c.EXT_ROLES), "roles")
    roles = _roles(role_names, user, policy)
    check_locks(policy, now, {"user": {user}, "role": set(role_names)})
    return Subject(
        user=user,
        role_names=role_names,
        roles=roles,
        traits=_traits(cert),
        logins=cert.principals,
        certificate=cert,
    )


def decide(subject: Subject, *, login: str, node: NodeDocument, policy: Policy, now: float) -> Grant:
    """May ``subject`` be ``login`` on ``node``? The proof, or AccessDenied with the truth or "access denied"."""
    seen = can_see(subject.roles, subject.user, subject.traits, node.labels)

    def refuse(truth: str, detail: str, code: str = "denied", hint: str = "") -> AccessDenied:
        if seen:
            return AccessDenied(truth, detail=detail, code=code, hint=hint)
        return AccessDenied(STRANGER, detail=detail, code="denied")

    check_locks(policy, now, {"node": {node.uuid, node.name}, "login": {login}}, refuse)
    if node.state != "active":
        raise refuse(f"node {node.name} is {node.state}", f"node state {node.state}", "quarantined")
    if login not in subject.logins:
        raise refuse(
            f"login {printable(login, 40)} is not one of yours",
            f"{subject.user} asked for login {printable(login, 64)}, certificate has {','.join(subject.logins)}",
            hint=f"your logins are {', '.join(subject.logins)}",
        )
    for role in subject.roles:
        if role_denies(role, login, subject.user, subject.traits, node.labels):
            raise refuse(
                f"role {role.name} denies {printable(login, 40)} on {node.name}", f"denied by role {role.name}"
            )
    if not any(role_allows(role, login, subject.user, subject.traits, node.labels) for role in subject.roles):
        names = ", ".join(subject.role_names)
        raise refuse(
            f"none of your roles ({names}) lets you be {printable(login, 40)} on {node.name}",
            f"no role of {subject.user} ({names}) allows {printable(login, 64)}",
        )
    if requires_mfa(subject.roles) and node.uuid not in _second_factor_nodes(subject.certificate):
        # Only now: whoever is refused anyway need not look for their phone.
        truth = f"a session on {node.name} needs a one-time code"
        raise refuse(truth, f"of {subject.user}", "mfa_required", 'use "tsh ssh", which asks for it')
    return _grant(subject, login, node)


def _second_factor_nodes(cert: Certificate) -> tuple[str, ...]:
    """The nodes for which a code was shown when the certificate was made. What cannot be read is none."""
    found = cert.json_extension(c.EXT_SECOND_FACTOR)
    nodes = found.get("nodes") if isinstance(found, dict) else None
    return tuple(node for node in nodes if isinstance(node, str)) if isinstance(nodes, list) else ()


def _grant(subject: Subject, login: str, node: NodeDocument) -> Grant:
    cert = subject.certificate
    allowed = permits(subject.roles)
    # A permit needs both the role's word of today and, where PROTOCOL.certkeys has a flag for it, the certificate's.
    withheld = {permit for permit, flag in PERMIT_EXTENSIONS.items() if flag not in cert.extensions}
    return Grant(
        user=subject.user,
        login=login,
        node=node.uuid,
        permits=allowed - withheld,
        force_command=cert.text_option(FORCE_COMMAND),
        expires=cert.valid_before,
        role_names=subject.role_names,
        certificate_serial=cert.serial,
        key_id=cert.key_id,
        fingerprint=c.fingerprint(cert.public_key),
        forwarding=NOTHING if "port_forwarding" in withheld else forwarding(subject.roles),
        sftp=sftp_terms(subject.roles, subject.user, subject.traits),
    )


def check_signer(cert: Certificate, policy: Policy, verified: VerifiedCertificates | None) -> None:
    """Did a user CA of the policy sign it? AccessDenied ``foreign`` when not."""
    if cert.ca_key not in policy.user_cas:
        detail = f"certificate {printable(cert.key_id, 60)} is signed by {c.fingerprint(cert.ca_key)}"
        raise AccessDenied(STRANGER, detail=f"{detail}, which is no user CA of {policy.cluster}", code="foreign")
    try:
        if verified is None:
            verify(cert.ca_key, cert.signed, cert.signature)
        else:
            verified.verify(cert, policy.user_cas)
    except PeerError as error:
        raise AccessDenied(STRANGER, detail=f"the CA's signature is not right: {error}", code="foreign") from None


def _user_of(cert: Certificate, policy: Policy) -> str:
    user = cert.text_extension(c.EXT_USER)
    cluster = cert.text_extension(c.EXT_CLUSTER)
    route = cert.text_extension(c.EXT_ROUTE)
    if user is None or cluster != policy.cluster or route != policy.cluster:
        detail = f"user {user!r:.60}, cluster {cluster!r:.60}, route {route!r:.60}"
        raise AccessDenied(STRANGER, detail=f"the certificate is not for {policy.cluster}: {detail}", code="foreign")
    try:
        return check_user(user)
    except PeerError as error:
        raise AccessDenied(STRANGER, detail=str(error), code="foreign") from None


def _check_life(cert: Certificate, user: str, policy: Policy, now: float) -> None:
    # The holder of a certificate that our CA signed is no stranger: the truth about its dates helps only them.
    if now >= cert.valid_before:
        ago = format_duration(now - cert.valid_before)
        raise AccessDenied(
            f"certificate expired {ago} ago", detail=f"of {user}", code="expired", hint='run "tsh login"'
        )
    if now < cert.valid_after:
        ahead = format_duration(cert.valid_after - now)
        raise AccessDenied(
            f"certificate is not valid yet: this machine's clock is {ahead} behind the certificate's",
            detail=f"of {user}",
            code="clock",
            hint="compare the clocks; tctl nodes ls shows a node's",
        )
    before = policy.refuse_before.get(user)
    if before is not None:
        issued = cert.text_extension(c.EXT_ISSUED_AT)
        # No date of issue: it cannot be shown to be newer, so it is refused.
        if issued is None or not issued.isascii() or not issued.isdigit() or int(issued[:19]) < before:
            raise AccessDenied(
                "certificate was withdrawn", detail=f"of {user}", code="revoked", hint='run "tsh login" again'
            )


def _check_options(cert: Certificate, user: str, source: str | None) -> None:
    for name in cert.critical_options:
        if name not in _KNOWN_OPTIONS:
            raise AccessDenied(
                f"the certificate has a critical option that is not known here: {printable(name, 60)}",
                detail=f"of {user}",
                code="option",
            )
    allowed = cert.text_option(SOURCE_ADDRESS)
    if allowed is not None and not _source_allowed(allowed, source):
        raise AccessDenied(
            "the certificate may not be used from this address",
            detail=f"of {user}, from {source}, allowed {printable(allowed)}",
            code="source",
        )


def _source_allowed(allowed: str, source: str | None) -> bool:
    """PROTOCOL.certkeys: a comma-separated list of addresses in CIDR form. What cannot be read allows nothing."""
    try:
        address = ipaddress.ip_address((source or "").partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    for text in allowed.split(","):
        try:
            network = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            return False
        if address.version == network.version and address in network:
            return True
    return False


def _texts(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise AccessDenied(STRANGER, detail=f"malformed {what} in the certificate", code="role")
    return tuple(value)


def _traits(cert: Certificate) -> dict[str, tuple[str, ...]]:
    value = cert.json_extension(c.EXT_TRAITS)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AccessDenied(STRANGER, detail="malformed traits in the certificate", code="role")
    return {name: _texts(values, f"trait {name!r:.40}") for name, values in value.items()}


def _roles(names: tuple[str, ...], user: str, policy: Policy) -> tuple[Role, ...]:
    unknown = [name for name in names if name not in policy.roles]
    if unknown or not names:
        # An unknown role may have held a deny. Leaving it out could grant what it forbade.
        what = f"role {printable(unknown[0], 60)} does not exist" if unknown else "the certificate has no role"
        raise AccessDenied(what, detail=f"of {user}", code="role", hint='run "tsh login" again')
    return tuple(policy.roles[name] for name in names)


def check_locks(policy: Policy, now: float, targets: Mapping[str, set[str]], refuse: object = None) -> None:
    """AccessDenied ``locked`` when an active lock names one of ``targets`` (kind → values)."""
    for lock in policy.locks:
        if lock.active(now) and any(lock.target.get(kind) in values for kind, values in targets.items()):
            raise _locked(lock, refuse)


def _locked(lock: Lock, refuse: object) -> AccessDenied:
    kind, value = next(iter(lock.target.items()))
    truth = f"{kind} {printable(value, 60)} is locked" + (f": {printable(lock.message)}" if lock.message else "")
    detail = f"lock {lock.id}"
    if callable(refuse):
        made: AccessDenied = refuse(truth, detail, "locked")
        return made
    return AccessDenied(truth, detail=detail, code="locked")
