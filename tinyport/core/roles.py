"""Roles: what a user may do, as documents that are parsed and checked. ``core.rights`` says what several come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tinyport.core import labels as label_rules
from tinyport.core import session_joining, session_terms
from tinyport.core.durations import format_duration, parse_duration
from tinyport.core.errors import ConfigError, PeerError
from tinyport.core.forwarding import parse_forwarding
from tinyport.core.names import check_login, check_role, printable
from tinyport.core.role_templates import template_source
from tinyport.core.sftp_terms import check_root, check_sftp
from tinyport.core.spelling import suggestion

RESOURCES = frozenset(
    (
        "audit",
        "cas",
        "certificates",
        "cluster_config",
        "locks",
        "nodes",
        "recordings",
        "roles",
        "sessions",
        "status",
        "tokens",
        "trusted_clusters",
        "users",
    )
)
VERBS = frozenset(("read", "list", "read_own", "create", "update", "delete", "sign", "join"))

#: option of a role → permit of a grant
PERMIT_OPTIONS = {
    "pty": "pty",
    "exec": "exec",
    "sftp": "sftp",
    "port_forwarding": "port_forwarding",
    "forward_agent": "agent",
    "x11": "x11",
}
#: options that are durations, and the shortest that makes sense, in seconds
_DURATIONS = {"max_session_ttl": 60, "extend_login": 60}
#: options with rules of their own, which say what is wrong with a value
_CHECKS: Mapping[str, Callable[[object], object]] = {
    "port_forwarding": parse_forwarding,
    "sftp": check_sftp,
    "sftp_root": check_root,
    **session_terms.CHECKS,
    session_joining.OPTION: session_joining.check_joins,
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

    @cached_property
    def plain_logins(self) -> frozenset[str] | None:
        """The logins, where they are the same for everybody; None when there are templates among them."""
        return None if any(login.startswith("{{") for login in self.logins) else frozenset(self.logins)


@dataclass(frozen=True)
class Role:
    """A role, checked. ``options`` holds only known keys with values of the right type."""

    name: str
    allow: Conditions
    deny: Conditions
    options: Mapping[str, object] = field(default_factory=dict)

    @cached_property
    def session_terms(self) -> session_terms.SessionTerms:
        """What the options say of how long, how many and from where: the same for everybody who has the role."""
        return session_terms.said_by(f"role {self.name}", self.options)


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
        "allow": {"rules": [{"resources": ["audit", "sessions", "recordings", "nodes", "status"], "verbs": ["read"]}]},
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
                self.add(place, f"unknown key {printable(str(key), 40)!r}; {suggestion(str(key), known)}")
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
