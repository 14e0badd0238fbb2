"""The cluster's configuration (``cluster_config``): what an administrator changes while everything runs.

Auth keeps it, checks it here, and sends it within the signed policy. A key that is absent has its default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from tinyport.core import session_terms
from tinyport.core.durations import parse_duration, parse_size
from tinyport.core.errors import ConfigError, PeerError
from tinyport.core.labels import has_all
from tinyport.core.names import check_label, parse_address, printable
from tinyport.core.spelling import suggestion

#: does a login need a one-time code, too? ``optional``: of those who have set one up
SECOND_FACTORS = ("off", "optional", "required")
# Less would hold hardly a screen.
SMALLEST_SIZE = 64 * 1024
SHORTEST_RETENTION = 3600
# Whoever takes an administrator's account over must not be able to have their own traces removed.
SHORTEST_AUDIT_RETENTION = 30 * 86400
# NIST SP 800-63B section 5.1.1.2: at least 8 are asked for, and at least 64 must be allowed.
SHORTEST_PASSWORD, LONGEST_PASSWORD = 8, 64
MOST_ADDRESSES = 16
MOST_BUDGETS = 16
NODE_BUDGET = "500kB"
# Below that the beats of one tunnel would be farther apart than what lies between is patient; there is always one.
LEAST_BUDGET = 50_000


@dataclass(frozen=True)
class ClusterConfig:
    """A configuration, checked."""

    session_recording: str = "off"
    #: of recordings: how long they are kept, how large one may become, and all of them together
    recording_retention: str = "90d"
    recording_max_size: str = "64MB"
    recording_max_total: str = "10GB"
    #: how long events stay in the audit log; None: for ever
    audit_retention: str | None = None
    #: is somebody who gets a shell in a terminal told that it is recorded?
    recording_notice: bool = True
    second_factor: str = "off"
    password_min_length: int = SHORTEST_PASSWORD
    #: limits on everybody's sessions, see ``core.session_terms``
    client_idle_timeout: str | None = None
    disconnect_expired_cert: bool = False
    max_sessions: int | None = None
    max_connections: int | None = None
    #: where nodes look for proxies first; tunnels that stand elsewhere move there
    proxy_addresses: Sequence[str] = ()
    #: bytes a day that an idle node may send and receive on its tunnels
    node_budget: str = NODE_BUDGET
    #: budgets of nodes with certain labels, ``{"labels": {"uplink": "lte"}, "budget": "100kB"}``; the first that fits
    node_budgets: Sequence[Mapping[str, object]] = ()


def _one_of(*allowed: str) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        return None if value in allowed else f"must be one of {', '.join(allowed)}"

    return check


def _as_in_roles(check: Callable[[object], object]) -> Callable[[object], str | None]:
    def problem(value: object) -> str | None:
        try:
            check(value)
        except PeerError as error:
            return error.message
        return None

    return problem


def _or_none(check: Callable[[object], object]) -> Callable[[object], str | None]:
    return lambda value: None if value is None else _as_in_roles(check)(value)


def _number(low: int, high: int) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if right else f"must be a whole number from {low} to {high}"

    return check


def _measure(parse: Callable[[str], int], low: int, least: str) -> Callable[[object], int]:
    def check(value: object) -> int:
        found = parse(value if isinstance(value, str) else str(value))
        if found < low:
            raise PeerError(f"must be at least {least}")
        return found

    return check


_retention = _measure(parse_duration, SHORTEST_RETENTION, "1h")
_audit_retention = _measure(parse_duration, SHORTEST_AUDIT_RETENTION, "30d")
_size = _measure(parse_size, SMALLEST_SIZE, "64KiB")


def _addresses(value: object) -> str | None:
    if not isinstance(value, list) or len(value) > MOST_ADDRESSES:
        return f"must be a list of at most {MOST_ADDRESSES} addresses"
    try:
        for item in value:
            parse_address(item if isinstance(item, str) else "")
    except PeerError as error:
        return f"{error.message}; write host:port"
    return None


def _budget(value: object) -> str | None:
    try:
        bytes_a_day = parse_size(value if isinstance(value, str) else "")
    except PeerError:
        return 'must be a size, such as "500kB"'
    return None if bytes_a_day >= LEAST_BUDGET else f"must be {LEAST_BUDGET // 1000}kB or more"


def _budgets(value: object) -> str | None:
    if not isinstance(value, list) or len(value) > MOST_BUDGETS:
        return f"must be a list of at most {MOST_BUDGETS}"
    for number, item in enumerate(value, 1):
        if not isinstance(item, dict) or set(item) != {"labels", "budget"}:
            return f'number {number} must have "labels" and "budget"'
        problem = _budget(item["budget"])
        if problem is not None:
            return f"number {number}: budget: {problem}"
        wanted = item["labels"]
        if not isinstance(wanted, dict) or not 0 < len(wanted) <= MOST_BUDGETS:
            return f"number {number}: labels: must name some"
        try:
            for key, text in wanted.items():
                check_label(key, text)
        except PeerError as error:
            return f"number {number}: labels: {error.message}"
    return None


_CHECKS: Mapping[str, Callable[[object], str | None]] = {
    "session_recording": _one_of(*session_terms.RECORDINGS),
    "recording_retention": _as_in_roles(_retention),
    "recording_max_size": _as_in_roles(_size),
    "recording_max_total": _as_in_roles(_size),
    "audit_retention": _or_none(_audit_retention),
    "recording_notice": _as_in_roles(session_terms.check_flag),
    "second_factor": _one_of(*SECOND_FACTORS),
    "password_min_length": _number(SHORTEST_PASSWORD, LONGEST_PASSWORD),
    "proxy_addresses": _addresses,
    "node_budget": _budget,
    "node_budgets": _budgets,
    **{key: _as_in_roles(session_terms.CHECKS[key]) for key in session_terms.CONFIG_KEYS},
}
KEYS = tuple(sorted(field.name for field in fields(ClusterConfig)))


def parse_cluster_config(document: Mapping[str, object]) -> ClusterConfig:
    """A document (without ``kind`` and ``name``) → its values. ConfigError with every problem in it."""
    problems = []
    for key, value in document.items():
        if key not in _CHECKS:
            problems.append(f"cluster_config: unknown key {printable(str(key), 60)!r}; {suggestion(str(key), KEYS)}")
        elif (problem := _CHECKS[key](value)) is not None:
            problems.append(f"cluster_config: {key}: {problem}")
    if problems:
        raise ConfigError(problems)
    return ClusterConfig(**document)  # type: ignore[arg-type]


@dataclass(frozen=True)
class RecordingLimits:
    """``retention`` in seconds; ``size`` of one recording and ``total`` of all, in bytes."""

    retention: int
    size: int
    total: int


def recording_limits(config: Mapping[str, object]) -> RecordingLimits:
    """Of a policy's ``config``. What it does not say, or in a way that this version cannot read, is the default."""

    def value(key: str, check: Callable[[object], int]) -> int:
        try:
            return check(config.get(key, getattr(ClusterConfig, key)))
        except PeerError:
            return check(getattr(ClusterConfig, key))

    return RecordingLimits(
        value("recording_retention", _retention),
        value("recording_max_size", _size),
        value("recording_max_total", _size),
    )


def audit_retention(config: Mapping[str, object]) -> int | None:
    """Seconds; None: for ever, which is also what stands there in a way that this version cannot read."""
    value = config.get("audit_retention")
    try:
        return None if value is None else _audit_retention(value)
    except PeerError:
        return None


def node_budget(config: Mapping[str, object], labels: Mapping[str, str] | None) -> int:
    """Bytes a day of a node that has these labels from auth; None: the least that any node has. What a policy says in a
    way that this version cannot read is passed over."""
    default = _budget_of(config.get("node_budget")) or parse_size(NODE_BUDGET)
    found = config.get("node_budgets")
    least = default
    for item in found if isinstance(found, list) else ():
        budget = _budget_of(item.get("budget")) if isinstance(item, dict) else None
        wanted = item.get("labels") if isinstance(item, dict) else None
        if budget is None or not isinstance(wanted, dict) or not wanted:
            continue
        least = min(least, budget)
        if labels is not None and has_all({str(key): str(text) for key, text in wanted.items()}, labels):
            return budget
    return least if labels is None else default


def _budget_of(value: object) -> int | None:
    try:
        return parse_size(value) if isinstance(value, str) else None
    except PeerError:
        return None
