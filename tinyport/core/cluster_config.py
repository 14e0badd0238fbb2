"""The cluster's configuration (``cluster_config``): what an administrator changes while everything runs.

Auth keeps it, checks it here, and sends it within the signed policy. A key that is absent has its default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from tinyport.core import session_terms
from tinyport.core.errors import ConfigError, PeerError
from tinyport.core.names import printable

#: does a login need a one-time code, too? ``optional``: of those who have set one up
SECOND_FACTORS = ("off", "optional", "required")
RECORDINGS = ("off", "node", "strict")
# NIST SP 800-63B section 5.1.1.2: at least 8 are asked for, and at least 64 must be allowed.
SHORTEST_PASSWORD, LONGEST_PASSWORD = 8, 64


@dataclass(frozen=True)
class ClusterConfig:
    """A configuration, checked."""

    session_recording: str = "off"
    second_factor: str = "off"
    password_min_length: int = SHORTEST_PASSWORD
    #: limits on everybody's sessions, see ``core.session_terms``
    client_idle_timeout: str | None = None
    disconnect_expired_cert: bool = False
    max_sessions: int | None = None
    max_connections: int | None = None


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


def _number(low: int, high: int) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if right else f"must be a whole number from {low} to {high}"

    return check


_CHECKS: Mapping[str, Callable[[object], str | None]] = {
    "session_recording": _one_of(*RECORDINGS),
    "second_factor": _one_of(*SECOND_FACTORS),
    "password_min_length": _number(SHORTEST_PASSWORD, LONGEST_PASSWORD),
    **{key: _as_in_roles(session_terms.CHECKS[key]) for key in session_terms.CONFIG_KEYS},
}
KEYS = tuple(sorted(field.name for field in fields(ClusterConfig)))


def parse_cluster_config(document: Mapping[str, object]) -> ClusterConfig:
    """A document (without ``kind`` and ``name``) → its values. ConfigError with every problem in it."""
    problems = []
    for key, value in document.items():
        if key not in _CHECKS:
            problems.append(f"cluster_config: unknown key {printable(str(key), 60)!r}, known are {', '.join(KEYS)}")
        elif (problem := _CHECKS[key](value)) is not None:
            problems.append(f"cluster_config: {key}: {problem}")
    if problems:
        raise ConfigError(problems)
    return ClusterConfig(**document)  # type: ignore[arg-type]
