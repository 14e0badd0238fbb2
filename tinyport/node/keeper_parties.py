"""Parties: people who have joined somebody else's session. The keeper decides, and hands out pipes.

The worker that serves the session copies what the terminal says into a pipe for each party; a peer's pipe back leads to
the terminal. An observer has none: there is nothing that it could write to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tinyport.core.access import Grant
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.session_joining import PEER
from tinyport.node import keeper_fields as fields
from tinyport.node.keeper_audit import Audit
from tinyport.node.keeper_connection import Connection
from tinyport.node.pipes import make_pipe

# What a party may be behind before it is dropped: some screens full.
PIPE_SIZE = 256 * 1024
MAX_PARTIES = 16
TOO_SLOW = "dropped from the session: your connection is slower than what it shows"


class Joinable(Protocol):
    """What is needed of the session that is joined."""

    sid: str
    connection: int
    number: int
    owner: Grant
    has_terminal: bool


class Tell(Protocol):
    """Reaches the worker of a connection."""

    def __call__(self, number: int, message: Mapping[str, object], descriptors: Sequence[int] = (), /) -> None: ...


class Party:
    """Somebody's part in a session: a session of their own connection, which runs nothing."""

    def __init__(
        self,
        number: int,
        session: Joinable,
        mode: str,
        connection: Connection,
        channel: int,
        leave: Callable[[Party], None],
    ) -> None:
        self.number = number
        self.session = session
        self.mode = mode
        self.connection = connection
        self.channel = channel
        self.user = connection.grant.user if connection.grant is not None else ""
        self._leave = leave

    def signal(self, name: str) -> None:
        # A party's signals are not the session's.
        del name

    def hang_up(self) -> None:
        self._leave(self)


class Parties:
    """``exited(connection, channel, wait status)`` ends a party's own channel."""

    def __init__(self, audit: Audit, tell: Tell, exited: Callable[[Connection, int, int], None]) -> None:
        self._audit = audit
        self._tell = tell
        self._exited = exited
        self._last = 0
        self._all: dict[int, Party] = {}

    def join(
        self, session: Joinable, mode: str, connection: Connection, channel: int, grant: Grant
    ) -> tuple[Party, Sequence[int]]:
        """The party, and standard input, output and error for its worker. AccessDenied when roles do not allow it."""
        self._check(session, mode, grant)
        if sum(party.session is session for party in self._all.values()) >= MAX_PARTIES:
            raise AccessDenied(f"{MAX_PARTIES} people have joined this session already", code="limit")
        self._last += 1
        party = Party(self._last, session, mode, connection, channel, self._left)
        ours, theirs = _pipes(mode)
        try:
            self._say(party, "party", f"{party.user} joins as {mode}", ours)
        finally:
            for descriptor in ours:
                os.close(descriptor)
        self._all[party.number] = party
        self._record("session.join", party, grant)
        return party, theirs

    def _check(self, session: Joinable, mode: str, grant: Grant) -> None:
        own = grant.user == session.owner.user
        if not grant.joins.may_join(mode, owner_roles=session.owner.role_names, own=own):
            raise AccessDenied(f"your roles do not let you join this session as {mode}", code="denied")
        if grant.force_command is not None or "pty" not in grant.permits:
            # Whoever may run one command alone must not find a shell in somebody else's session.
            raise AccessDenied("you may have no terminal on this node, and so join none", code="denied")
        if not session.has_terminal:
            raise AccessDenied("this session has no terminal; there is nothing to join", code="denied")

    def judge_again(self) -> None:
        """After a new document: who may not be there any more, leaves."""
        for party in list(self._all.values()):
            grant = party.connection.grant
            try:
                if grant is not None:
                    self._check(party.session, party.mode, grant)
            except AccessDenied as error:
                self._dismiss(party, f"access revoked: {error.message}")

    def session_over(self, session: Joinable) -> None:
        for party in [party for party in self._all.values() if party.session is session]:
            self._forget(party)
            self._exited(party.connection, party.channel, 0)

    def dropped(self, connection: Connection, message: Mapping[str, object]) -> None:
        """The worker of a session says that a party did not keep up."""
        party = self._all.get(fields.number(message, "party", 2**53))
        if party is None:
            return
        if party.session.connection != connection.number:
            raise PeerError("a party of another connection's session")
        self._dismiss(party, TOO_SLOW)

    def _dismiss(self, party: Party, text: str) -> None:
        self._left(party, text)
        message = {"op": "close", "conn": party.connection.number, "session": party.channel, "text": text}
        self._tell(party.connection.number, message)

    def _left(self, party: Party, why: str | None = None) -> None:
        if party.number in self._all:
            self._forget(party, why)
            self._say(party, "part", f"{party.user} leaves")

    def _forget(self, party: Party, why: str | None = None) -> None:
        del self._all[party.number]
        party.connection.sessions.pop(party.channel, None)
        if party.connection.grant is not None:
            self._record("session.leave", party, party.connection.grant, why)

    def _say(self, party: Party, op: str, text: str, descriptors: Sequence[int] = ()) -> None:
        session = party.session
        message = {"op": op, "conn": session.connection, "session": session.number, "party": party.number, "text": text}
        self._tell(session.connection, message, descriptors)

    def _record(self, name: str, party: Party, grant: Grant, why: str | None = None) -> None:
        about = {"mode": party.mode, "party": party.number, "owner": party.session.owner.user, "reason": why}
        self._audit.session(name, grant, party.connection.endpoint.peer, party.session.sid, **about)


def _pipes(mode: str) -> tuple[list[int], list[int]]:
    """(ends of the session's worker: what the party sees, and what a peer types; ends of the party's worker: standard
    input, output, error)."""
    made: list[int] = []
    try:
        made += make_pipe(PIPE_SIZE)
        for _ in range(2):
            made += make_pipe()
    except OSError:
        for descriptor in made:
            os.close(descriptor)
        raise
    shown, show, typed, type_into, error, nothing = made
    # Nothing is ever said on standard error.
    os.close(nothing)
    if mode == PEER:
        return [show, typed], [type_into, shown, error]
    # A pipe that nobody reads: what an observer types goes nowhere, by the kernel's word.
    os.close(typed)
    return [show], [type_into, shown, error]
