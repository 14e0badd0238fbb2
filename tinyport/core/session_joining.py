"""Who may join whose session, and how: what roles say, and what it comes to.

``join_sessions`` of a role names roles whose people's sessions may be joined, and as what; a rule for ``sessions`` and
``join`` lets join all of them. Both are permissions: a union, of which a deny rule leaves nothing. Everybody may join
what they began themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.names import check_role

OBSERVER, PEER = "observer", "peer"
#: what each may: see; see and type
MODES = (OBSERVER, PEER)
OPTION = "join_sessions"
MAX_RULES = 64
_ANY = "*"
#: the subsystem of an SSH connection that joins: ``join:MODE:SESSION``
_PREFIX = "join:"


@dataclass(frozen=True)
class JoinRule:
    """Sessions of people with one of ``roles`` (``*``: all) may be joined in ``modes``."""

    roles: frozenset[str]
    modes: frozenset[str]


@dataclass(frozen=True)
class JoinRights:
    """``everything``: a rule allows all of it; ``denied``: a deny rule forbids all of it."""

    rules: frozenset[JoinRule] = frozenset()
    everything: bool = False
    denied: bool = False

    def may_join(self, mode: str, *, owner_roles: Iterable[str], own: bool) -> bool:
        """``owner_roles``: of whoever began the session; ``own``: it is the same user."""
        if self.denied or mode not in MODES:
            return False
        if self.everything or own:
            return True
        theirs = {*owner_roles, _ANY}
        return any(mode in rule.modes and not theirs.isdisjoint(rule.roles) for rule in self.rules)


NO_JOINS = JoinRights(denied=True)


def check_joins(value: object) -> frozenset[JoinRule]:
    """``[{ roles = ["access"], modes = ["observer"] }]`` → its rules. PeerError for anything else."""
    if not isinstance(value, (list, tuple)) or len(value) > MAX_RULES:
        raise PeerError('must be a list such as [{ roles = ["access"], modes = ["observer", "peer"] }]')
    return frozenset(_rule(item) for item in value)


def _rule(item: object) -> JoinRule:
    if not isinstance(item, Mapping) or set(item) != {"roles", "modes"}:
        raise PeerError("each entry has roles and modes, and nothing else")
    roles, modes = item["roles"], item["modes"]
    for texts in (roles, modes):
        if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(text, str) for text in texts):
            raise PeerError("roles and modes are lists of texts that are not empty")
    for name in roles:
        if name != _ANY:
            check_role(name)
    if unknown := sorted(set(modes) - set(MODES)):
        raise PeerError(f"unknown mode {unknown[0]!r:.40}, known are {', '.join(MODES)}")
    return JoinRule(frozenset(roles), frozenset(modes))


def join_rights(options: Sequence[Mapping[str, object]], *, everything: bool, denied: bool) -> JoinRights:
    """Of the options of all of somebody's roles, and what their rules say of ``sessions`` and ``join``."""
    rules = frozenset(rule for one in options if OPTION in one for rule in check_joins(one[OPTION]))
    return JoinRights(rules, everything, denied)


def join_subsystem(session: str, mode: str) -> str:
    """What the client asks the node for."""
    return f"{_PREFIX}{mode}:{session}"


def parse_join(subsystem: str) -> tuple[str, str] | None:
    """(mode, session) of such a subsystem; None when it is another one. AccessDenied when it is malformed: a person
    wrote it, and no worker is to blame."""
    if not subsystem.startswith(_PREFIX):
        return None
    mode, colon, session = subsystem.removeprefix(_PREFIX).partition(":")
    if not colon or mode not in MODES or not session.isalnum():
        raise AccessDenied("to join a session, ask for join:observer:ID or join:peer:ID", code="subsystem")
    return mode, session
