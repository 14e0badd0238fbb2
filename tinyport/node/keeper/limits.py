"""Limits of roles and of the cluster's configuration, held by the keeper: how long, how many (core.session_terms).

Counted is what this keeper has; connections that an earlier daemon's keeper still serves are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tinyport.core.access import Grant
from tinyport.core.durations import format_duration
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.session_terms import Limit
from tinyport.node.keeper import fields
from tinyport.node.keeper.connection import PROVED, Connection
from tinyport.node.loop import Loop, Timer

# The cluster's clock may be set while a timer runs, and a timer may be years long.
LONGEST_WAIT = 3600.0


class Limits:
    """``connections``: those that are there; ``running(user)``: how many sessions a user has; ``now``: cluster time;
    ``tell(connection number, message)`` reaches its worker; ``end(connection, text)`` ends one.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        connections: Callable[[], Iterable[Connection]],
        running: Callable[[str], int],
        now: Callable[[], float],
        tell: Callable[[int, Mapping[str, object]], None],
        end: Callable[[Connection, str], None],
    ) -> None:
        self._loop = loop
        self._connections = connections
        self._running = running
        self._now = now
        self._tell = tell
        self._end = end
        #: by connection: its certificate's end, and the idle time that its worker was told
        self._ends: dict[int, Timer] = {}
        self._idle: dict[int, int | None] = {}

    def check_connection(self, connection: Connection, grant: Grant) -> None:
        """AccessDenied ``limit`` when the user has as many connections as they may."""
        limit = grant.terms.connections
        if limit is None:
            return
        others = (one for one in self._connections() if one is not connection and one.state == PROVED)
        _check(limit, sum(one.grant is not None and one.grant.user == grant.user for one in others), "connections")

    def check_session(self, grant: Grant) -> None:
        """The same for sessions."""
        if grant.terms.sessions is not None:
            _check(grant.terms.sessions, self._running(grant.user), "sessions")

    def watch(self, connection: Connection) -> None:
        """After sign-in, and after a new document: limits of time, as they are now."""
        grant = connection.grant
        if grant is None:
            return
        idle = grant.terms.idle.value if grant.terms.idle is not None else None
        if self._idle.get(connection.number) != idle:
            self._idle[connection.number] = idle
            self._tell(connection.number, {"op": "idle", "conn": connection.number, "after": idle})
        self._until_expired(connection, grant)

    def _until_expired(self, connection: Connection, grant: Grant) -> None:
        earlier = self._ends.pop(connection.number, None)
        if earlier is not None:
            earlier.cancel()
        by = grant.terms.ends_with_certificate
        if by is None:
            return
        left = grant.expires - self._now()
        if left <= 0:
            self._end(connection, f"the certificate has expired: closed by {by}")
            return
        wait = min(left, LONGEST_WAIT)
        self._ends[connection.number] = self._loop.after(wait, lambda: self.watch(connection))

    def quiet(self, connection: Connection, message: Mapping[str, object]) -> None:
        """A worker says that a connection was silent for so many seconds. PeerError when it was told no limit."""
        seconds = fields.number(message, "seconds", 2**31)
        if self._idle.get(connection.number) is None or connection.grant is None:
            if connection.number in self._idle:
                # The limit was lifted while the word was on its way.
                return
            raise PeerError("nobody asked how silent the connection is")
        limit = connection.grant.terms.idle
        if limit is not None and seconds >= limit.value:
            self._end(connection, f"idle for {format_duration(limit.value)}: closed by {limit.by}")

    def forget(self, connection: Connection) -> None:
        self._idle.pop(connection.number, None)
        timer = self._ends.pop(connection.number, None)
        if timer is not None:
            timer.cancel()


def _check(limit: Limit, found: int, what: str) -> None:
    if found >= limit.value:
        have = what if found != 1 else what.removesuffix("s")
        raise AccessDenied(f"you have {found} {have} on this node, and {limit.by} allows {limit.value}", code="limit")
