"""The keeper's waiting room: who signs in now, who waits for a place, who makes room. Decides by ``core.startups``."""

from __future__ import annotations

import time
from collections.abc import Callable

from tinyport.core.startups import Startups
from tinyport.host.logging_line import Log
from tinyport.node.keeper.connection import Connection
from tinyport.node.loop import Loop, Timer

# sshd_config(5) MaxStartups has 100 as its hard end.
MAX_STARTUPS = 100
# Of them in a worker and before the end of their key exchange. A worker makes some 300 key exchanges a second, so this
# is a queue of a fifth of a second; those beyond it cost the keeper a socket each and the worker nothing.
PLACES = 64
# With a process for each connection (9 MB) a place is dear: sshd_config(5) MaxStartups begins to refuse at 10.
PLACES_OF_PROCESSES = 10
# A key exchange takes one round trip and a few milliseconds. Who needs longer than that keeps the place until
# somebody else wants it.
PATIENCE = 0.4
# Once in a while, not once for each: a flood must not fill the log.
SAY_EVERY = 10.0
# The worker's clock, which ends late ones, and ours do not start in the same moment.
_NEARLY = 0.95

# RFC 4253 section 4.2: lines before the identification. OpenSSH has "Exceeded MaxStartups" here.
_FULL = b"tinyport: too many connections are signing in; try again\r\n"


class SigningIn:
    """``serve`` gives a connection to a worker; ``turned_away`` is told of each that has to go, whose client has been
    told if no worker had it. ``ended(connection, how)`` says how signing in ended, for link's penalties; who made room
    for another counts for nothing. ``grace``: seconds that signing in may take.
    """

    def __init__(
        self,
        loop: Loop,
        most: int,
        per_source: int,
        places: int,
        serve: Callable[[Connection], None],
        turned_away: Callable[[Connection], None],
        ended: Callable[[Connection, str], None],
        grace: float,
        log: Log,
    ) -> None:
        self._loop = loop
        self._startups: Startups[Connection] = Startups(most, per_source, places, PATIENCE)
        self._give = serve
        self._turned_away = turned_away
        self._ended = ended
        self._grace = grace
        self._log = log
        self._timer: Timer | None = None
        self._said = -SAY_EVERY
        self._count = 0

    def __len__(self) -> int:
        return len(self._startups)

    def arrived(self, connection: Connection) -> None:
        """A new one: served now, or when there is a place."""
        loser = self._startups.enter(connection, connection.endpoint.peer[0], time.monotonic())
        self._startups.ask(connection)
        if loser is not None:
            self._turn_away(loser)
        self._serve()

    def keyed(self, connection: Connection) -> None:
        """Its key exchange is done."""
        self._startups.keyed(connection)
        self._serve()

    def proved(self, connection: Connection) -> None:
        """It has signed in."""
        self._startups.leave(connection)
        self._ended(connection, "proved")
        self._serve()

    def over(self, connection: Connection) -> None:
        """It is gone. When it had signed in, or was turned away, this was known before."""
        since = self._startups.served_at(connection)
        self._startups.leave(connection)
        if since is not None:
            late = time.monotonic() - since >= self._grace * _NEARLY
            how = "crash" if connection.crashed else "grace" if late else "authfail" if connection.failed else "noauth"
            self._ended(connection, how)
        self._serve()

    def _serve(self) -> None:
        if not self._startups.waiting:
            return
        chosen, losers = self._startups.serve(time.monotonic())
        for loser in losers:
            self._turn_away(loser)
        for connection in chosen:
            if connection.alive():
                self._give(connection)
            else:
                self._startups.leave(connection)
                self._turned_away(connection)
        if self._startups.waiting and self._timer is None:
            # Somebody's patience ends, and nothing else tells.
            self._timer = self._loop.after(PATIENCE / 4, self._due)

    def _due(self) -> None:
        self._timer = None
        self._serve()

    def _turn_away(self, connection: Connection) -> None:
        served = self._startups.served_at(connection) is not None
        self._startups.leave(connection)
        self._count += 1
        now = time.monotonic()
        if now - self._said >= SAY_EVERY:
            self._said = now
            latest = connection.endpoint.peer[0]
            self._log.warning("too many connections are signing in; some are closed", count=self._count, latest=latest)
            self._count = 0
        if not served and connection.endpoint.kind == "direct":
            connection.say_before_ssh(_FULL)
        self._turned_away(connection)
