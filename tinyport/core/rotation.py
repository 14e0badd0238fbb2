"""Replacing a CA by another one without anybody being cut off: which phase comes when, and who signs in it.

During a rotation a CA type has two keys, *active* and *new*. Both are trusted from ``init`` on, so that what either of
them signed is good everywhere; the phases only move the signing from one to the other, clients first:

    standby → init → update_clients → update_servers → standby, and from each step rollback → standby

A compromise has no phases: see docs/rotation.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyport.core.durations import format_duration
from tinyport.core.errors import PeerError

TYPES = ("user", "host", "tls")

STANDBY, INIT, UPDATE_CLIENTS, UPDATE_SERVERS, ROLLBACK = (
    "standby",
    "init",
    "update_clients",
    "update_servers",
    "rollback",
)
PHASES = (STANDBY, INIT, UPDATE_CLIENTS, UPDATE_SERVERS, ROLLBACK)

#: (phase, the phase that is asked for) → what happens to the keys: "make" a new one, "take" the new one in the place of
#: the active one, "drop" the new one, "keep" both. What is not here is refused.
TRANSITIONS: dict[tuple[str, str], str] = {
    (STANDBY, INIT): "make",
    (INIT, UPDATE_CLIENTS): "keep",
    (UPDATE_CLIENTS, UPDATE_SERVERS): "keep",
    (UPDATE_SERVERS, STANDBY): "take",
    (INIT, ROLLBACK): "keep",
    (UPDATE_CLIENTS, ROLLBACK): "keep",
    (UPDATE_SERVERS, ROLLBACK): "keep",
    (ROLLBACK, STANDBY): "drop",
}
#: the way forward, by which a rotation with a grace period goes by itself
FORWARD = {INIT: UPDATE_CLIENTS, UPDATE_CLIENTS: UPDATE_SERVERS, UPDATE_SERVERS: STANDBY}

#: whose certificates are signed by the new key, in which phases (docs/rotation.md has the reasons)
_CLIENTS = frozenset(("user", "node"))
_SERVERS = frozenset(("proxy", "auth"))

# Shorter than a certificate's life nobody can follow who is not connected at that moment; tests are.
LEAST_GRACE = 10
MOST_GRACE = 90 * 86400
#: so many machines may renew within a second
RENEWALS_PER_SECOND = 50.0


@dataclass(frozen=True)
class Rotation:
    """Where one CA type is. ``started`` and ``changed``: Unix seconds, 0 before the first rotation; ``grace``: seconds
    from init to the end when it goes by itself, None by hand."""

    type: str
    phase: str = STANDBY
    started: float = 0.0
    changed: float = 0.0
    grace: float | None = None

    @property
    def next_at(self) -> float | None:
        """When it goes on by itself. Counted from the last step: an auth that was off for days does not hurry through
        what it missed, for nobody could have followed meanwhile."""
        if self.grace is None or self.phase not in FORWARD:
            return None
        return self.changed + self.grace / len(FORWARD)


def step(rotation: Rotation, wanted: str, now: float, grace: float | None = None) -> tuple[Rotation, str]:
    """The rotation after the step to the phase ``wanted``, and what happens to the keys (``TRANSITIONS``).

    PeerError when that phase cannot follow.
    """
    action = TRANSITIONS.get((rotation.phase, wanted))
    if action is None:
        after = [phase for before, phase in TRANSITIONS if before == rotation.phase]
        raise PeerError(
            f"the {rotation.type} CA is in phase {rotation.phase}, and {wanted} does not follow it",
            hint=f"possible now: {', '.join(after)}",
            code="in_use",
        )
    started = now if rotation.phase == STANDBY else rotation.started
    kept = grace if rotation.phase == STANDBY else rotation.grace
    # Somebody who rolls back looks at what is wrong first, and ends it by hand.
    return Rotation(rotation.type, wanted, started, now, None if wanted in (ROLLBACK, STANDBY) else kept), action


def due(rotation: Rotation, now: float) -> str | None:
    """The phase that follows by itself at ``now``; None when it is not time."""
    at = rotation.next_at
    return FORWARD[rotation.phase] if at is not None and now >= at else None


def signs_new(type: str, phase: str, kind: str) -> bool:
    """Does the new key of ``type`` sign certificates of ``kind`` (user, node, proxy, auth) in this phase?

    Clients change first: whoever has a certificate of the new CA learnt of it when they got that, so once all clients
    have one, servers may show theirs. An SSH host certificate is a server's.
    """
    if phase == UPDATE_SERVERS:
        return True
    return phase == UPDATE_CLIENTS and type != "host" and kind in _CLIENTS


def check_grace(grace: int) -> int:
    """PeerError unless it is a time in which a cluster can rotate. Seconds."""
    if not LEAST_GRACE <= grace <= MOST_GRACE:
        least, most = format_duration(LEAST_GRACE), format_duration(MOST_GRACE)
        raise PeerError(f"grace: from {least} to {most}")
    return grace


def spread_over(machines: int) -> float:
    """Seconds over which so many machines renew, so that auth is not flooded by its own word."""
    return machines / RENEWALS_PER_SECOND
