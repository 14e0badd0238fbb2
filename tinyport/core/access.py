"""The access decision: is this certificate good, and may its user be that login on that node?

Two ladders of named refusals, the last rung of each is no. Node and proxy climb the same ones. ``Grant`` is
the proof that becoming somebody needs; only ``decide`` makes one, and for certificates made for the day when auth is
gone, ``core.break_glass``.

Who is told what: somebody whose roles could see the node is told the truth; anybody else reads "access denied".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from tinyport.core import certificate as c
from tinyport.core.certificate import Certificate
from tinyport.core.claims import Claims, Network, read_claims
from tinyport.core.durations import format_duration
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.forwarding import NOTHING, ForwardRule
from tinyport.core.labels import WILDCARD
from tinyport.core.names import check_user, printable
from tinyport.core.policy import Lock, NodeDocument, Policy
from tinyport.core.rights import Rights, allowed_logins
from tinyport.core.roles import Role
from tinyport.core.session_joining import NO_JOINS, JoinRights
from tinyport.core.session_terms import NO_TERMS, SessionTerms
from tinyport.core.sftp_terms import UNBOUND, SftpTerms
from tinyport.core.signatures import verify
from tinyport.core.trust import TrustedCluster
from tinyport.core.verified import VerifiedCertificates

STRANGER = "access denied"


@dataclass(frozen=True)
class Subject:
    """A user whose certificate is good. Not yet allowed anything anywhere."""

    user: str
    role_names: tuple[str, ...]
    roles: tuple[Role, ...]
    traits: Mapping[str, tuple[str, ...]]
    logins: tuple[str, ...]
    certificate: Certificate
    claims: Claims
    #: the cluster whose user this is, when it is not ours
    home: str | None = None

    @cached_property
    def rights(self) -> Rights:
        """What the roles come to."""
        return Rights(self.roles, self.user, self.traits)


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
    #: how long and how many
    terms: SessionTerms = NO_TERMS
    #: whose sessions may be joined
    joins: JoinRights = NO_JOINS


def judge_certificate(
    cert: Certificate, *, policy: Policy, now: float, source: str | None, verified: VerifiedCertificates | None = None
) -> Subject:
    """Is this a good user certificate of the cluster, at ``now`` (Unix seconds), used from ``source`` (an IP
    address, None when it is not known)?

    Checks the CA's signature, kind, cluster, life, principals, critical options, revocation and locks on user, key
    and roles.
    ``verified`` spares a CA signature that was checked before; every rule is judged each time.
    A certificate of a trusted cluster is judged by the same ladder; what it says of logins, traits and second factors
    counts for nothing, and its roles are those that the role map makes of them.
    It does not prove that the peer has the private key. AccessDenied with ``code`` foreign, kind, clock, expired,
    principals, option,
    source, revoked, role or locked.
    """
    home = policy.foreign_user_cas.get(cert.ca_key)
    if home is None:
        check_signer(cert, policy, verified)
    else:
        _check_signature(cert, verified, policy.foreign_user_cas)
    if cert.cert_type != c.USER:
        raise AccessDenied(STRANGER, detail="a host certificate was offered as a user's", code="kind")
    kept = None if verified is None else verified.subject(cert, policy)
    claims = read_claims(cert) if verified is None else verified.claims(cert)
    user = _user_of(claims, policy, home)
    _check_life(cert, claims, policy, now, user)
    if not cert.principals:
        # asyncssh and old OpenSSH read "no principals" as "every user". Absent means denied.
        raise AccessDenied(STRANGER, detail=f"certificate of {user} has no principals", code="principals")
    _check_options(claims, source)
    subject = kept or _subject(cert, claims, user, policy, home)
    terms = subject.rights.session_terms
    if terms.sources:
        terms.check_source(_address(source))
    if policy.locks:
        roles = (("role", name) for name in subject.role_names)
        devices = [("device", one) for one in claims.devices] if policy.locks_devices else ()
        check_locks(policy, now, (("user", user), *devices, *roles))
    if kept is None and verified is not None:
        verified.keep_subject(cert, policy, subject)
    return subject


def _subject(cert: Certificate, claims: Claims, user: str, policy: Policy, home: TrustedCluster | None) -> Subject:
    names = claims.role_names
    if names is None or claims.traits is None:
        what = "roles" if names is None else "traits"
        raise AccessDenied(STRANGER, detail=f"malformed {what} in the certificate", code="role")
    if home is None:
        return Subject(user, names, _roles(names, user, policy), claims.traits, cert.principals, cert, claims)
    mapped = home.local_roles(names)
    if not mapped:
        # They are told what their own cluster knows anyway; not which roles there are here.
        detail = f"no role of {user} ({printable(','.join(names), 120)}) is mapped"
        raise AccessDenied(f"no role of yours counts in {policy.cluster}", detail=detail, code="role")
    roles = _roles(mapped, user, policy)
    # Where a role of ours says "every login", the certificate's are asked, as they are of our own users.
    any_login = any(WILDCARD in role.allow.logins for role in roles)
    logins = tuple(dict.fromkeys((*allowed_logins(roles, user, {}), *(cert.principals if any_login else ()))))
    # Whether somebody showed a code is for us to see; theirs was shown to somebody else.
    claims = replace(claims, second_factor=frozenset(), login_ends=None)
    return Subject(user, mapped, roles, {}, logins, cert, claims, home.name)


def decide(subject: Subject, *, login: str, node: NodeDocument, policy: Policy, now: float) -> Grant:
    """May ``subject`` be ``login`` on ``node``? The proof, or AccessDenied with the truth or "access denied"."""
    rights = subject.rights
    there = rights.on(node.labels, node.label_items)

    def refuse(truth: str, detail: str, code: str = "denied", hint: str = "") -> AccessDenied:
        if there.seen:
            return AccessDenied(truth, detail=detail, code=code, hint=hint)
        return AccessDenied(STRANGER, detail=detail, code="denied")

    if policy.locks:
        check_locks(policy, now, (("node", node.uuid), ("node", node.name), ("login", login)), refuse)
    if node.state != "active":
        raise refuse(f"node {node.name} is {node.state}", f"node state {node.state}", "quarantined")
    if login not in subject.logins:
        raise refuse(
            f"login {printable(login, 40)} is not one of yours",
            f"{subject.user} asked for login {printable(login, 64)}, certificate has {','.join(subject.logins)}",
            hint=f"your logins are {', '.join(subject.logins)}",
        )
    denying = there.denying(login)
    if denying is not None:
        raise refuse(f"role {denying} denies {printable(login, 40)} on {node.name}", f"denied by role {denying}")
    if there.allowing(login) is None:
        names = ", ".join(subject.role_names)
        raise refuse(
            f"none of your roles ({names}) lets you be {printable(login, 40)} on {node.name}",
            f"no role of {subject.user} ({names}) allows {printable(login, 64)}",
        )
    if rights.requires_mfa and node.uuid not in subject.claims.second_factor:
        # Only now: whoever is refused anyway need not look for their phone.
        if subject.home is not None:
            truth = (
                f"a session on {node.name} needs a one-time code, and one shown in {subject.home} does not count here"
            )
            hint = f"ask an administrator of {policy.cluster} for a role without require_mfa"
            raise refuse(truth, f"of {subject.user}", "mfa_elsewhere", hint)
        truth = f"a session on {node.name} needs a one-time code"
        raise refuse(truth, f"of {subject.user}", "mfa_required", 'use "tsh ssh", "tsh scp" or "tsh run"')
    return _grant(subject, login, node, rights.session_terms.and_also(policy.session_terms))


def _grant(subject: Subject, login: str, node: NodeDocument, terms: SessionTerms) -> Grant:
    cert, claims, rights = subject.certificate, subject.claims, subject.rights
    return Grant(
        user=subject.user,
        login=login,
        node=node.uuid,
        # A permit needs the role's word of today and, where PROTOCOL.certkeys has a flag for it, the certificate's.
        permits=rights.permits - claims.withheld,
        force_command=claims.force_command,
        # A certificate for one session lives for minutes; what ends with it is meant to end with the login.
        expires=max(cert.valid_before, claims.login_ends or 0),
        role_names=subject.role_names,
        certificate_serial=cert.serial,
        key_id=cert.key_id,
        fingerprint=claims.fingerprint,
        forwarding=NOTHING if "port_forwarding" in claims.withheld else rights.forwarding,
        sftp=rights.sftp,
        terms=terms,
        joins=rights.joins,
    )


def claimed_name(cert: Certificate, policy: Policy) -> str:
    """Who a certificate says it is, for a log about its refusal; hostile text. One of another cluster's never reads as
    a user of ours.
    """
    home = policy.foreign_user_cas.get(cert.ca_key)
    return cert.key_id if home is None else f"{cert.key_id[:64]}@{home.name}"


def check_signer(cert: Certificate, policy: Policy, verified: VerifiedCertificates | None) -> None:
    """Did a user CA of the policy sign it? AccessDenied ``foreign`` when not."""
    if cert.ca_key not in policy.user_cas:
        detail = f"certificate {printable(cert.key_id, 60)} is signed by {c.fingerprint(cert.ca_key)}"
        raise AccessDenied(STRANGER, detail=f"{detail}, which is no user CA of {policy.cluster}", code="foreign")
    _check_signature(cert, verified, policy.user_cas)


def _check_signature(cert: Certificate, verified: VerifiedCertificates | None, trusted: Container[bytes]) -> None:
    try:
        if verified is None:
            verify(cert.ca_key, cert.signed, cert.signature)
        else:
            verified.verify(cert, trusted)
    except PeerError as error:
        raise AccessDenied(STRANGER, detail=f"the CA's signature is not right: {error}", code="foreign") from None


def _user_of(claims: Claims, policy: Policy, home: TrustedCluster | None) -> str:
    user, cluster, route = claims.user, claims.cluster, claims.route
    # The key has said which cluster it is. Should its certificates say another name, or ours, they are nobody's.
    theirs = policy.cluster if home is None else home.name
    if user is None or cluster != theirs or route != theirs:
        detail = f"user {user!r:.60}, cluster {cluster!r:.60}, route {route!r:.60}"
        raise AccessDenied(STRANGER, detail=f"the certificate is not for {policy.cluster}: {detail}", code="foreign")
    try:
        # No name of ours has an "@", so this one is never a local user's.
        return check_user(user) if home is None else f"{check_user(user)}@{home.name}"
    except PeerError as error:
        raise AccessDenied(STRANGER, detail=str(error), code="foreign") from None


def _check_life(cert: Certificate, claims: Claims, policy: Policy, now: float, user: str) -> None:
    # The holder of a certificate that a trusted CA signed is no stranger: the truth about its dates helps only them.
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
    # No date of issue: it cannot be shown to be newer, so it is refused.
    if before is not None and (claims.issued_at is None or claims.issued_at < before):
        raise AccessDenied(
            "certificate was withdrawn", detail=f"of {user}", code="revoked", hint='run "tsh login" again'
        )


def _check_options(claims: Claims, source: str | None) -> None:
    for name in claims.unknown_options:
        raise AccessDenied(
            f"the certificate has a critical option that is not known here: {printable(name, 60)}",
            detail=f"of {claims.user}",
            code="option",
        )
    if claims.sources is not None and not _source_allowed(claims.sources, source):
        raise AccessDenied(
            "the certificate may not be used from this address",
            detail=f"of {claims.user}, from {source}, allowed {printable(claims.source_text)}",
            code="source",
        )


def _source_allowed(allowed: Iterable[Network], source: str | None) -> bool:
    address = _address(source)
    return address is not None and any(address.version == network.version and address in network for network in allowed)


def _address(source: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None when it is none. IPv4 in IPv6 is IPv4, whatever kind of socket it came through."""
    try:
        address = ipaddress.ip_address((source or "").partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _roles(names: tuple[str, ...], user: str, policy: Policy) -> tuple[Role, ...]:
    unknown = [name for name in names if name not in policy.roles]
    if unknown or not names:
        # An unknown role may have held a deny. Leaving it out could grant what it forbade.
        what = f"role {printable(unknown[0], 60)} does not exist" if unknown else "the certificate has no role"
        raise AccessDenied(what, detail=f"of {user}", code="role", hint='run "tsh login" again')
    return tuple(policy.roles[name] for name in names)


def check_locks(
    policy: Policy, now: float, targets: Iterable[tuple[str, str]], refuse: Callable[..., AccessDenied] | None = None
) -> None:
    """AccessDenied ``locked`` when an active lock names one of ``targets``, each a kind and a value."""
    found = [lock for target in targets for lock in policy.locks_on.get(target, ()) if lock.active(now)]
    if found:
        raise _locked(min(found, key=policy.locks.index), refuse)


def _locked(lock: Lock, refuse: Callable[..., AccessDenied] | None) -> AccessDenied:
    kind, value = next(iter(lock.target.items()))
    truth = f"{kind} {printable(value, 60)} is locked" + (f": {printable(lock.message)}" if lock.message else "")
    detail = f"lock {lock.id}"
    return AccessDenied(truth, detail=detail, code="locked") if refuse is None else refuse(truth, detail, "locked")
