"""Roles: what a user may do, parsed from documents and merged.

The merge is a table: permissions are the union of what any role allows, less what any role denies; of limits the
tightest counts; an option that is absent denies what it would permit, but for the four that every SSH user expects
(``_DEFAULT_PERMITS``), which a role takes away by saying ``false``. ``port_forwarding`` may say more than that, see
``core.forwarding``. Order of roles never matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tinyport.core import labels as label_rules
from tinyport.core.durations import format_duration, parse_duration
from tinyport.core.errors import ConfigError, PeerError
from tinyport.core.forwarding import ForwardRule, merge, parse_forwarding
from tinyport.core.names import check_login, check_role, printable
from tinyport.core.role_templates import template_source, values_of
from tinyport.core.sftp_terms import READ_ONLY, SftpTerms, check_root, check_sftp
from tinyport.core.sftp_terms import merge as merge_sftp

RESOURCES = frozenset(
    (
        "audit",
        "cas",
        "certificates",
        "cluster_config",
        "locks",
        "nodes",
        "roles",
        "sessions",
        "status",
        "tokens",
        "users",
    )
)
VERBS = frozenset(("read", "create", "update", "delete", "sign", "join"))

#: option of a role → permit of a grant
PERMIT_OPTIONS = {
    "pty": "pty",
    "exec": "exec",
    "sftp": "sftp",
    "port_forwarding": "port_forwarding",
    "forward_agent": "agent",
    "x11": "x11",
}
_DEFAULT_PERMITS = frozenset(("pty", "exec", "sftp", "port_forwarding"))
#: options that are durations, and the shortest that makes sense, in seconds
_DURATIONS = {"max_session_ttl": 60, "extend_login": 60}
#: options with rules of their own, which say what is wrong with a value
_CHECKS: Mapping[str, Callable[[object], object]] = {
    "port_forwarding": parse_forwarding,
    "sftp": check_sftp,
    "sftp_root": check_root,
}
_OPTIONS = frozenset(PERMIT_OPTIONS) | frozenset(_DURATIONS) | frozenset(_CHECKS) | {"require_mfa"}
_MAX_ITEMS = 256


@dataclass(frozen=True)
class Rule:
    """Which verbs on which resources of the auth API. ``*`` is every one."""

    resources: tuple[str, ...]
    verbs: tuple[str, ...]


@dataclass(frozen=True)
class Conditions:
    """One side of a role, ``allow`` or ``deny``."""

    logins: tuple[str, ...] = ()
    node_labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Role:
    """A role, checked. ``options`` holds only known keys with values of the right type."""

    name: str
    allow: Conditions
    deny: Conditions
    options: Mapping[str, object] = field(default_factory=dict)


BUILTIN_ROLES: dict[str, dict[str, object]] = {
    "admin": {
        "name": "admin",
        "allow": {"rules": [{"resources": ["*"], "verbs": ["*"]}]},
        "options": {"max_session_ttl": "12h"},
    },
    "access": {
        "name": "access",
        "allow": {
            "logins": ["{{internal.logins}}"],
            "node_labels": {"*": ["*"]},
            "rules": [{"resources": ["nodes", "status"], "verbs": ["read"]}],
        },
        "options": {"forward_agent": True, "x11": True, "max_session_ttl": "12h"},
    },
    "auditor": {
        "name": "auditor",
        "allow": {"rules": [{"resources": ["audit", "sessions", "nodes", "status"], "verbs": ["read"]}]},
        "options": {"max_session_ttl": "12h"},
    },
}


class _Problems:
    """Collects everything that is wrong with a document, each with the place where it is."""

    def __init__(self, what: str) -> None:
        self.found: list[str] = []
        self._what = what

    def add(self, place: str, text: str) -> None:
        if len(self.found) < 50:
            self.found.append(f"{self._what}: {place}: {text}")

    def table(self, value: object, place: str, keys: Iterable[str]) -> dict[str, object]:
        """A map whose keys are all known; empty when it is absent or wrong."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.add(place, "must be a table")
            return {}
        known = sorted(keys)
        for key in value:
            if key not in known:
                self.add(place, f"unknown key {printable(str(key), 40)!r}, known are {', '.join(known)}")
        return {str(key): item for key, item in value.items() if key in known}

    def texts(self, value: object, place: str) -> tuple[str, ...]:
        """A list of texts (or one text); empty when it is absent or wrong."""
        if value is None:
            return ()
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and item for item in value):
            self.add(place, "must be a list of texts")
            return ()
        if len(value) > _MAX_ITEMS or any(len(item) > 256 for item in value):
            self.add(place, f"at most {_MAX_ITEMS} items of 256 characters")
            return ()
        return tuple(value)


def _logins(value: object, place: str, problems: _Problems) -> tuple[str, ...]:
    kept = []
    for login in problems.texts(value, place):
        try:
            if login != "*" and not login.startswith("{{"):
                check_login(login)
            elif login.startswith("{{"):
                template_source(login)
            kept.append(login)
        except PeerError as error:
            problems.add(place, error.message)
    return tuple(kept)


def _selector(value: object, place: str, problems: _Problems) -> dict[str, tuple[str, ...]]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > _MAX_ITEMS:
        problems.add(place, "must be a table of label to value or list of values")
        return {}
    selector = {}
    for key, patterns in value.items():
        texts = problems.texts(patterns, f"{place}.{printable(str(key), 64)}")
        for text in texts:
            try:
                label_rules.compile_pattern(text)
            except PeerError as error:
                problems.add(place, error.message)
        if key == label_rules.WILDCARD and texts != (label_rules.WILDCARD,):
            problems.add(place, 'the key "*" goes with the value "*" only')
        selector[str(key)] = texts
    return selector


def _rules(value: object, place: str, problems: _Problems) -> tuple[Rule, ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or len(value) > _MAX_ITEMS:
        problems.add(place, "must be a list of tables with resources and verbs")
        return ()
    rules = []
    for index, item in enumerate(value):
        here = f"{place}[{index}]"
        table = problems.table(item, here, ("resources", "verbs"))
        resources = problems.texts(table.get("resources"), f"{here}.resources")
        verbs = problems.texts(table.get("verbs"), f"{here}.verbs")
        for name in resources:
            if name != "*" and name not in RESOURCES:
                problems.add(
                    here, f"unknown resource {printable(name, 40)!r}, known are {', '.join(sorted(RESOURCES))}"
                )
        for name in verbs:
            if name != "*" and name not in VERBS:
                problems.add(here, f"unknown verb {printable(name, 40)!r}, known are {', '.join(sorted(VERBS))}")
        rules.append(Rule(resources, verbs))
    return tuple(rules)


def _conditions(value: object, place: str, problems: _Problems) -> Conditions:
    table = problems.table(value, place, ("logins", "node_labels", "rules"))
    return Conditions(
        logins=_logins(table.get("logins"), f"{place}.logins", problems),
        node_labels=_selector(table.get("node_labels"), f"{place}.node_labels", problems),
        rules=_rules(table.get("rules"), f"{place}.rules", problems),
    )


def parse_role(document: object) -> Role:
    """A role document (a mapping, from TOML or JSON) → Role. ConfigError with every problem that it has."""
    name = document.get("name") if isinstance(document, Mapping) else None
    problems = _Problems(f"role {printable(str(name), 64)}")
    table = problems.table(document, "document", ("kind", "name", "description", "allow", "deny", "options"))
    if not table:
        problems.add("document", "must be a table with name, allow, deny and options")
    try:
        checked_name = check_role(name)
    except PeerError as error:
        problems.add("name", error.message)
        checked_name = ""
    options = problems.table(table.get("options"), "options", _OPTIONS)
    for key, value in options.items():
        if key in _DURATIONS:
            try:
                if parse_duration(str(value)) < _DURATIONS[key]:
                    problems.add(f"options.{key}", f"must be at least {format_duration(_DURATIONS[key])}")
            except PeerError as error:
                problems.add(f"options.{key}", error.message)
        elif key in _CHECKS:
            try:
                _CHECKS[key](value)
            except PeerError as error:
                problems.add(f"options.{key}", error.message)
        elif not isinstance(value, bool):
            problems.add(f"options.{key}", "must be true or false")
    role = Role(
        name=checked_name,
        allow=_conditions(table.get("allow"), "allow", problems),
        deny=_conditions(table.get("deny"), "deny", problems),
        options=options,
    )
    if problems.found:
        raise ConfigError(problems.found)
    return role


def _conditions_document(side: Conditions) -> dict[str, object]:
    document: dict[str, object] = {}
    if side.logins:
        document["logins"] = list(side.logins)
    if side.node_labels:
        document["node_labels"] = {key: list(values) for key, values in side.node_labels.items()}
    if side.rules:
        document["rules"] = [{"resources": list(r.resources), "verbs": list(r.verbs)} for r in side.rules]
    return document


def role_document(role: Role) -> dict[str, object]:
    """The document that ``parse_role`` turns into the same role again."""
    document: dict[str, object] = {"name": role.name}
    for side, conditions in (("allow", role.allow), ("deny", role.deny)):
        if inner := _conditions_document(conditions):
            document[side] = inner
    if role.options:
        document["options"] = dict(role.options)
    return document


# ---------------------------------------------------------------------------- what several roles come to


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


def role_allows(
    role: Role, login: str, user: str, traits: Mapping[str, Sequence[str]], labels: Mapping[str, str]
) -> bool:
    """Does this one role let the user be ``login`` on a node with these labels?"""
    logins = _expand(role.allow.logins, user, traits)
    return (login in logins or "*" in logins) and label_rules.matches(role.allow.node_labels, labels)


def role_denies(
    role: Role, login: str, user: str, traits: Mapping[str, Sequence[str]], labels: Mapping[str, str]
) -> bool:
    """Does this one role forbid it? A deny with labels and no logins denies the nodes, with logins and no labels the
    logins everywhere, with both only the two together."""
    deny = role.deny
    if not deny.logins and not deny.node_labels:
        return False
    logins = _expand(deny.logins, user, traits)
    login_hit = not deny.logins or login in logins or "*" in logins
    labels_hit = not deny.node_labels or label_rules.matches(deny.node_labels, labels)
    return login_hit and labels_hit


def can_see(
    roles: Iterable[Role], user: str, traits: Mapping[str, Sequence[str]], node_labels: Mapping[str, str]
) -> bool:
    """May the user know that a node with these labels exists? True when a role selects it and none denies it whole."""
    roles = list(roles)
    if any(not r.deny.logins and label_rules.matches(r.deny.node_labels, node_labels) for r in roles):
        return False
    return any(label_rules.matches(r.allow.node_labels, node_labels) for r in roles)


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


def describe_ttl(role: Role) -> str:
    """The role's longest certificate life as text, for tables."""
    limit = max_session_ttl([role])
    return format_duration(limit) if limit is not None else "-"
