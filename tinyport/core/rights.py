"""What several roles come to for one user.

The merge is a table: permissions are the union of what any role allows, less what any role denies; of limits the
tightest counts; an option that is absent denies what it would permit, but for the four that every SSH user expects
(``_DEFAULT_PERMITS``), which a role takes away by saying ``false``. ``port_forwarding`` may say more than that, see
``core.forwarding``. Order of roles never matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tinyport.core import labels as label_rules
from tinyport.core import session_terms
from tinyport.core.durations import parse_duration
from tinyport.core.errors import PeerError
from tinyport.core.forwarding import ForwardRule, merge, parse_forwarding
from tinyport.core.names import check_login
from tinyport.core.role_templates import values_of
from tinyport.core.roles import PERMIT_OPTIONS, Conditions, Role, Rule
from tinyport.core.session_joining import JoinRights, join_rights
from tinyport.core.session_terms import SessionTerms
from tinyport.core.sftp_terms import READ_ONLY, SftpTerms
from tinyport.core.sftp_terms import merge as merge_sftp

_DEFAULT_PERMITS = frozenset(("pty", "exec", "sftp", "port_forwarding"))
_ANY = "*"
# Nodes whose answer is kept: a proxy's user looks at a fleet, a node at itself.
_MOST_NODES = 1024


@dataclass(frozen=True)
class Side:
    """A role's ``allow`` or ``deny`` for one user: ``logins`` with templates filled in, ``any_login`` for ``*``."""

    role: str
    conditions: Conditions
    logins: frozenset[str]
    any_login: bool

    @classmethod
    def of(cls, role: str, conditions: Conditions, user: str, traits: Mapping[str, Sequence[str]]) -> Side:
        logins = conditions.plain_logins
        if logins is None:
            logins = frozenset(_expand(conditions.logins, user, traits))
        return cls(role, conditions, logins, _ANY in logins)

    def names(self, login: str) -> bool:
        return self.any_login or login in self.logins

    def selects(self, labels: Mapping[str, str]) -> bool:
        return label_rules.matches(self.conditions.node_labels, labels)


@dataclass(frozen=True)
class OnNode:
    """What the roles say about nodes with certain labels: who selects them, who denies logins or all of them.

    ``hidden``: a role denies them whole. ``seen``: the user may know that they exist, as a role selects them and none
    denies them whole.
    """

    hidden: bool
    seen: bool
    allows: tuple[Side, ...]
    denies: tuple[Side, ...]

    def allowing(self, login: str) -> str | None:
        """The first role that lets the user be ``login`` there."""
        return next((side.role for side in self.allows if side.names(login)), None)

    def denying(self, login: str) -> str | None:
        """The first role that forbids it. A deny with labels and no logins denies the nodes, with logins and no labels
        the logins everywhere, with both only the two together.
        """
        return next((side.role for side in self.denies if not side.conditions.logins or side.names(login)), None)


class Rights:
    """Worked out once for a user with certain roles, asked often. ``roles`` and ``traits`` do not change."""

    def __init__(self, roles: Iterable[Role], user: str, traits: Mapping[str, Sequence[str]]) -> None:
        self.roles = tuple(roles)
        self._user, self._traits = user, traits
        self._nodes: dict[frozenset[tuple[str, str]], OnNode] = {}

    @cached_property
    def _allows(self) -> tuple[Side, ...]:
        return tuple(Side.of(role.name, role.allow, self._user, self._traits) for role in self.roles)

    @cached_property
    def _denies(self) -> tuple[Side, ...]:
        return tuple(
            Side.of(role.name, role.deny, self._user, self._traits)
            for role in self.roles
            if role.deny.logins or role.deny.node_labels
        )

    def on(self, labels: Mapping[str, str], key: frozenset[tuple[str, str]] | None = None) -> OnNode:
        """``key``: the labels' items, where the caller has them at hand."""
        if key is None:
            key = frozenset(labels.items())
        found = self._nodes.get(key)
        if found is None:
            if len(self._nodes) >= _MOST_NODES:
                self._nodes.clear()
            found = self._nodes[key] = self._on(labels)
        return found

    def _on(self, labels: Mapping[str, str]) -> OnNode:
        allows = tuple(side for side in self._allows if side.selects(labels))
        denies = tuple(side for side in self._denies if not side.conditions.node_labels or side.selects(labels))
        hidden = any(not side.conditions.logins for side in denies)
        return OnNode(hidden, bool(allows) and not hidden, allows, denies)

    @cached_property
    def permits(self) -> frozenset[str]:
        return permits(self.roles)

    @cached_property
    def forwarding(self) -> ForwardRule:
        return forwarding(self.roles)

    @cached_property
    def sftp(self) -> SftpTerms:
        return sftp_terms(self.roles, self._user, self._traits)

    @cached_property
    def session_terms(self) -> SessionTerms:
        return session_terms.of_all(role.session_terms for role in self.roles)

    @cached_property
    def joins(self) -> JoinRights:
        denied = any(_rule_hits(role.deny.rules, "sessions", "join") for role in self.roles)
        everything = may(self.roles, "sessions", "join")
        return join_rights([role.options for role in self.roles], everything=everything, denied=denied)

    @cached_property
    def requires_mfa(self) -> bool:
        return requires_mfa(self.roles)


def _expand(values: Iterable[str], user: str, traits: Mapping[str, Sequence[str]]) -> set[str]:
    """Logins with their templates filled in. A template without a value gives nothing; a bad login is left out."""
    found: set[str] = set()
    for value in values:
        if not value.startswith("{{"):
            found.add(value)
            continue
        for candidate in values_of(value, user, traits):
            try:
                found.add(check_login(candidate))
            except PeerError:
                # A trait is not the administrator's text: what is no login is not one here, and must not
                # become the wildcard either.
                continue
    return found


def allowed_logins(roles: Iterable[Role], user: str, traits: Mapping[str, Sequence[str]]) -> list[str]:
    """Every login that some role allows and none denies on all nodes; what goes into a certificate as principals.

    A role's ``*`` stands for "any login" in a decision on a node, but a certificate must name its logins: the
    wildcard is left out.
    """
    roles = list(roles)
    allowed: set[str] = set()
    denied: set[str] = set()
    for role in roles:
        allowed |= _expand(role.allow.logins, user, traits)
        if not role.deny.node_labels:
            denied |= _expand(role.deny.logins, user, traits)
    if "*" in denied:
        return []
    return sorted(allowed - denied - {"*"})


def permits(roles: Iterable[Role]) -> frozenset[str]:
    """What sessions may do: the union of what roles permit, less what any role forbids by ``false``.

    A role that confines file transfer to a folder gives nothing else unless it says so: a shell sees everything.
    """
    roles = list(roles)
    granted: set[str] = set()
    refused: set[str] = set()
    for role in roles:
        for option, permit in PERMIT_OPTIONS.items():
            value = role.options.get(option)
            expected = permit in _DEFAULT_PERMITS and (permit == "sftp" or "sftp_root" not in role.options)
            if value is True or (value is None and expected) or (permit == "sftp" and value == READ_ONLY):
                granted.add(permit)
            elif value is False:
                refused.add(permit)
    if forwarding(roles):
        granted.add("port_forwarding")
    else:
        refused.add("port_forwarding")
    return frozenset(granted - refused)


def forwarding(roles: Iterable[Role]) -> ForwardRule:
    """What may be forwarded: ``core.forwarding.merge`` of what the roles say. Without roles: nothing."""
    said = [
        parse_forwarding(role.options["port_forwarding"]) if "port_forwarding" in role.options else None
        for role in roles
        # Confined to a folder, it gives nothing by saying nothing.
        if "port_forwarding" in role.options or "sftp_root" not in role.options
    ]
    return merge(said) if said else ForwardRule()


def sftp_terms(roles: Iterable[Role], user: str, traits: Mapping[str, Sequence[str]]) -> SftpTerms:
    """How files may be moved, where ``sftp`` is among the permits: ``core.sftp_terms.merge`` of what the roles say."""
    return merge_sftp([role.options for role in roles], user, traits)


def max_session_ttl(roles: Iterable[Role]) -> int | None:
    """The shortest of the roles' longest certificate lives, in seconds; None when no role says one."""
    limits = [
        parse_duration(str(role.options["max_session_ttl"])) for role in roles if "max_session_ttl" in role.options
    ]
    return min(limits) if limits else None


def login_extension(roles: Iterable[Role]) -> int | None:
    """For how many seconds after a password a login may be extended without one; None, when a role does not let it."""
    limits = [role.options.get("extend_login") for role in roles]
    if not limits or None in limits:
        return None
    return min(parse_duration(str(limit)) for limit in limits)


def requires_mfa(roles: Iterable[Role]) -> bool:
    """Does a role ask for a one-time code for each session?"""
    return any(role.options.get("require_mfa") is True for role in roles)


def _rule_hits(rules: Iterable[Rule], resource: str, verb: str) -> bool:
    return any(
        (resource in rule.resources or "*" in rule.resources) and (verb in rule.verbs or "*" in rule.verbs)
        for rule in rules
    )


def may(roles: Iterable[Role], resource: str, verb: str) -> bool:
    """May somebody with these roles do this with the auth API? A deny anywhere wins."""
    roles = list(roles)
    if any(_rule_hits(role.deny.rules, resource, verb) for role in roles):
        return False
    return any(_rule_hits(role.allow.rules, resource, verb) for role in roles)
