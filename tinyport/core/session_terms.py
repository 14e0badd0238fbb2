"""How long, how many and from where: the limits that roles and the cluster's configuration put on sessions.

Of several words about the same thing the tightest counts, whoever said it; so the order never matters, and one more
role never loosens a limit. Who said it stays with the limit, because the person is told.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tinyport.core.durations import format_duration, parse_duration
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.names import printable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

IDLE, EXPIRED = "client_idle_timeout", "disconnect_expired_cert"
RECORD = "record"
SESSIONS, CONNECTIONS, SOURCES = "max_sessions", "max_connections", "source_networks"
# A whole second is what durations can say.
SHORTEST_IDLE = 1
MOST_SESSIONS = 65_536
MAX_NETWORKS = 256
#: how sessions are recorded, the tightest last: not; as far as it goes; or there is no session
OFF, NODE, STRICT = RECORDINGS = ("off", "node", "strict")
RECORDED = (NODE, STRICT)
#: as ``record`` calls it in the cluster's configuration
RECORD_KEY = "session_recording"
#: whose word the cluster's configuration is
CONFIG = "cluster_config"


@dataclass(frozen=True, order=True)
class Limit:
    """``value`` in seconds or a count; ``by``: "role NAME" or "cluster_config"."""

    value: int
    by: str


@dataclass(frozen=True)
class SessionTerms:
    """``idle``: seconds without a byte in either direction; ``sessions`` and ``connections``: of one user on one node;
    ``ends_with_certificate``: who says that connections end when the certificate does; ``sources``: who names networks,
    and which: an address must be in one of each. ``record``: an index into ``RECORDINGS``, None for off.
    """

    idle: Limit | None = None
    sessions: Limit | None = None
    connections: Limit | None = None
    ends_with_certificate: str | None = None
    sources: tuple[tuple[str, tuple[Network, ...]], ...] = ()
    record: Limit | None = None

    @property
    def recording(self) -> str:
        """One of ``RECORDINGS``."""
        return OFF if self.record is None else RECORDINGS[self.record.value]

    def and_also(self, other: SessionTerms) -> SessionTerms:
        """Both: of each the tighter."""
        if other == NO_TERMS:
            return self
        ends = [by for by in (self.ends_with_certificate, other.ends_with_certificate) if by is not None]
        return SessionTerms(
            idle=_tighter(self.idle, other.idle),
            sessions=_tighter(self.sessions, other.sessions),
            connections=_tighter(self.connections, other.connections),
            ends_with_certificate=min(ends, default=None),
            sources=tuple(sorted({*self.sources, *other.sources}, key=str)),
            record=_stricter(self.record, other.record),
        )

    def check_source(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> None:
        """AccessDenied ``source`` when somebody does not let this address in. None: not known, so in no network."""
        for by, networks in self.sources:
            if address is None or not any(address.version == one.version and address in one for one in networks):
                shown = address or "an address that is not known"
                raise AccessDenied(f"{by} does not let you in from {shown}", code="source")


NO_TERMS = SessionTerms()


def _tighter(one: Limit | None, other: Limit | None) -> Limit | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)


def _stricter(one: Limit | None, other: Limit | None) -> Limit | None:
    # Of two who say the same, the one that comes first, as with the other limits.
    said = [limit for limit in (one, other) if limit is not None]
    return min(said, key=lambda limit: (-limit.value, limit.by), default=None)


def check_record(value: object) -> int:
    """``"off"``, ``"node"`` or ``"strict"`` → its index. PeerError for anything else."""
    if not isinstance(value, str) or value not in RECORDINGS:
        raise PeerError(f"must be one of {', '.join(RECORDINGS)}")
    return RECORDINGS.index(value)


def check_count(value: object) -> int:
    """A number of sessions or connections. PeerError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_SESSIONS:
        raise PeerError(f"must be a whole number from 1 to {MOST_SESSIONS}")
    return value


def check_idle(value: object) -> int:
    """A time-out as a duration → seconds. PeerError for anything else."""
    seconds = parse_duration(value if isinstance(value, str) else str(value))
    if seconds < SHORTEST_IDLE:
        raise PeerError(f"must be at least {format_duration(SHORTEST_IDLE)}")
    return seconds


def check_flag(value: object) -> bool:
    """PeerError unless it is true or false."""
    if not isinstance(value, bool):
        raise PeerError("must be true or false")
    return value


def check_networks(value: object) -> tuple[Network, ...]:
    """A list of networks in CIDR form, or one. PeerError for anything else; an empty list would let nobody in, and is
    refused as a mistake."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not 1 <= len(texts) <= MAX_NETWORKS:
        raise PeerError('must be a list of networks, such as ["10.0.0.0/8", "2001:db8::/32"]')
    networks = []
    for text in texts:
        try:
            # Strict: 10.0.0.7/8 is a mistake that would let in 16 million machines.
            networks.append(ipaddress.ip_network(text if isinstance(text, str) else ""))
        except ValueError as error:
            raise PeerError(f"{printable(str(text), 60)!r} is no network: {error}") from None
    return tuple(networks)


#: option → its check, whose answer is the option's value
CHECKS: Mapping[str, Callable[[object], object]] = {
    IDLE: check_idle,
    SESSIONS: check_count,
    CONNECTIONS: check_count,
    EXPIRED: check_flag,
    SOURCES: check_networks,
    RECORD: check_record,
}
#: those that the cluster's configuration may say, too
CONFIG_KEYS = (IDLE, SESSIONS, CONNECTIONS, EXPIRED)


def said_by(who: str, options: Mapping[str, object]) -> SessionTerms:
    """What one role's options, or the cluster's configuration, say. PeerError when ``CHECKS`` refuse a value."""
    if CHECKS.keys().isdisjoint(options):
        return NO_TERMS

    def limit(key: str, check: Callable[[object], int]) -> Limit | None:
        return Limit(check(options[key]), who) if key in options else None

    return SessionTerms(
        idle=limit(IDLE, check_idle),
        sessions=limit(SESSIONS, check_count),
        connections=limit(CONNECTIONS, check_count),
        ends_with_certificate=who if check_flag(options.get(EXPIRED, False)) else None,
        sources=((who, check_networks(options[SOURCES])),) if SOURCES in options else (),
        record=Limit(found, who) if (found := check_record(options.get(RECORD, OFF))) else None,
    )


def of_roles(roles: Iterable[tuple[str, Mapping[str, object]]]) -> SessionTerms:
    """Of the (name, options) of all of somebody's roles."""
    return of_all(said_by(f"role {name}", options) for name, options in roles)


def of_all(said: Iterable[SessionTerms]) -> SessionTerms:
    """What several come to: of each limit the tightest."""
    whole = NO_TERMS
    for terms in said:
        if terms is not NO_TERMS:
            whole = terms.and_also(whole)
    return whole


def of_config(config: Mapping[str, object]) -> SessionTerms:
    """What a policy's ``config`` says. PeerError when it is malformed."""
    said = {key: config[key] for key in CONFIG_KEYS if key in config}
    return said_by(CONFIG, said).and_also(record_of_config(config))


def record_of_config(config: Mapping[str, object]) -> SessionTerms:
    """What it says of recording alone. Absent is off; a word of a later version counts as the strictest of ours."""
    said = config.get(RECORD_KEY, OFF)
    return said_by(CONFIG, {RECORD: said if said in RECORDINGS else STRICT})


def in_emergency(terms: SessionTerms) -> SessionTerms:
    """What of it counts on the day when auth is gone: sessions are recorded as far as that goes, and never refused."""
    if terms.record is None:
        return NO_TERMS
    return SessionTerms(record=Limit(RECORDINGS.index(NODE), terms.record.by))


_RECORDED_HOW = {NODE: "as far as that goes", STRICT: "or refused"}


def describe(terms: SessionTerms) -> Sequence[str]:
    """A line for each limit, for ``tctl explain``."""
    lines = []
    if terms.idle is not None:
        lines.append(f"closed when idle for {format_duration(terms.idle.value)} ({terms.idle.by})")
    for limit, what in ((terms.sessions, "sessions"), (terms.connections, "connections")):
        if limit is not None:
            lines.append(f"at most {limit.value} {what} at a time on a node ({limit.by})")
    if terms.ends_with_certificate is not None:
        lines.append(f"closed when the certificate expires ({terms.ends_with_certificate})")
    for by, networks in terms.sources:
        lines.append(f"only from {', '.join(map(str, networks))} ({by})")
    if terms.record is not None:
        lines.append(f"recorded, {_RECORDED_HOW[terms.recording]} ({terms.record.by})")
    return lines
