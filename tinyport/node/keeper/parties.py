"""Parties: people who have joined somebody else's session. The keeper decides, and hands out pipes.

The worker that serves the session copies what the terminal says into a pipe for each party; a peer's pipe back leads to
the terminal. An observer has none: there is nothing that it could write to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from tinyport.core.access import Grant
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.session_joining import PEER
from tinyport.node.keeper import fields
from tinyport.node.keeper.audit import Audit
from tinyport.node.keeper.connection import Connection
from tinyport.node.pipes import make_pipe

# What a party may be behind before it is dropped: some screens full.
PIPE_SIZE = 256 * 1024
MAX_PARTIES = 16
TOO_SLOW = "dropped from the session: your connection is slower than what it shows"


class Owner(Protocol):
    """Whose session it is, as far as roles care."""

    @property
    def user(self) -> str: ...

    @property
    def role_names(self) -> Sequence[str]: ...


class Joined(Protocol):
    """What is needed of the session that is joined, wherever it is."""

    sid: str
    has_terminal: bool

    @property
    def owner(self) -> Owner: ...


class Joinable(Joined, Protocol):
    """One of this keeper: where it is."""

    connection: int
    number: int


class Tell(Protocol):
    """Reaches the worker of a connection."""

    def __call__(self, number: int, message: Mapping[str, object], descriptors: Sequence[int] = (), /) -> None: ...


class Say(Protocol):
    """Tells whoever serves the session of a party: ``party`` and ``part``. Unavailable when nobody hears it."""

    def __call__(self, op: str, fields: Mapping[str, object], descriptors: Sequence[int], /) -> None: ...


class Guest:
    """A party that another keeper answers for. ``over(why)`` tells it that it has to leave; None: the session ends."""

    def __init__(
        self, number: int, session: Joinable, mode: str, user: str, say: Say, over: Callable[[str | None], None]
    ) -> None:
        self.number = number
        self.session: Joined = session
        #: the connection whose worker serves the session; None: another keeper's
        self.at: int | None = session.connection
        self.mode = mode
        self.user = user
        self.say = say
        self.end = over


class Party:
    """Somebody's part in a session: a session of their own connection, which runs nothing."""

    def __init__(
        self,
        number: int,
        session: Joined,
        at: int | None,
        mode: str,
        connection: Connection,
        channel: int,
        say: Say,
        leave: Callable[[Party], None],
        end: Callable[[Party, str | None], None],
    ) -> None:
        self.number = number
        self.session = session
        self.at = at
        self.mode = mode
        self.connection = connection
        self.channel = channel
        self.user = connection.grant.user if connection.grant is not None else ""
        self.say = say
        self._leave = leave
        self._end = end

    def signal(self, name: str) -> None:
        # A party's signals are not the session's.
        del name

    def hang_up(self) -> None:
        self._leave(self)

    def end(self, why: str | None) -> None:
        """Tell its worker that it has to leave; None: the session ends."""
        self._end(self, why)


class Parties:
    """``exited(connection, channel, wait status)`` ends a party's own channel."""

    def __init__(self, audit: Audit, tell: Tell, exited: Callable[[Connection, int, int], None]) -> None:
        self._audit = audit
        self._tell = tell
        self._exited = exited
        self._last = 0
        self._all: dict[int, Party | Guest] = {}

    def join(
        self,
        session: Joinable | Joined,
        mode: str,
        connection: Connection,
        channel: int,
        grant: Grant,
        elsewhere: Say | None = None,
    ) -> tuple[Party, Sequence[int]]:
        """The party, and standard input, output and error for its worker. AccessDenied when roles do not allow it.
        ``elsewhere``: who is told instead of a worker of ours.
        """
        self._check(session, mode, grant)
        if not self.has_room(session):
            raise AccessDenied(f"{MAX_PARTIES} people have joined this session already", code="limit")
        self._last += 1
        at = None if elsewhere is not None else cast(Joinable, session).connection
        say = elsewhere or self._here(cast(Joinable, session))
        party = Party(self._last, session, at, mode, connection, channel, say, self.leave, self._end)
        ours, theirs = _pipes(mode)
        try:
            self._say(party, "party", f"{party.user} joins as {mode}", ours)
        except BaseException:
            for descriptor in theirs:
                os.close(descriptor)
            raise
        finally:
            for descriptor in ours:
                os.close(descriptor)
        self._all[party.number] = party
        self._record("session.join", party, grant)
        return party, theirs

    def host(
        self,
        session: Joinable,
        mode: str,
        user: str,
        text: str,
        over: Callable[[str | None], None],
        descriptors: Sequence[int],
    ) -> Guest:
        """A party of another keeper's, which has judged it. The descriptors, of its pipes, stay the caller's."""
        self._last += 1
        guest = Guest(self._last, session, mode, user, self._here(session), over)
        self._say(guest, "party", text, descriptors)
        self._all[guest.number] = guest
        return guest

    def has_room(self, session: Joined) -> bool:
        """May another one join?"""
        return sum(party.session is session for party in self._all.values()) < MAX_PARTIES

    def _check(self, session: Joined, mode: str, grant: Grant) -> None:
        own = grant.user == session.owner.user
        if not grant.joins.may_join(mode, owner_roles=session.owner.role_names, own=own):
            raise AccessDenied(f"your roles do not let you join this session as {mode}", code="denied")
        if grant.force_command is not None or "pty" not in grant.permits:
            # Whoever may run one command alone must not find a shell in somebody else's session.
            raise AccessDenied("you may have no terminal on this node, and so join none", code="denied")
        if not session.has_terminal:
            raise AccessDenied("this session has no terminal; there is nothing to join", code="denied")

    def judge_again(self) -> None:
        """After a new document: who may not be there any more, leaves. Guests are judged where they are."""
        for party in [party for party in self._all.values() if isinstance(party, Party)]:
            grant = party.connection.grant
            try:
                if grant is not None:
                    self._check(party.session, party.mode, grant)
            except AccessDenied as error:
                self.dismiss(party, f"access revoked: {error.message}")

    def session_over(self, session: Joined) -> None:
        for party in [party for party in self._all.values() if party.session is session]:
            self._forget(party)
            party.end(None)

    def dropped(self, connection: Connection, message: Mapping[str, object]) -> None:
        """The worker of a session says that a party did not keep up."""
        party = self._all.get(fields.number(message, "party", 2**53))
        if party is None:
            return
        if party.at != connection.number:
            raise PeerError("a party of another connection's session")
        self.dismiss(party, TOO_SLOW)

    def dismiss(self, party: Party | Guest, text: str) -> None:
        """It has to leave."""
        self.leave(party, text)
        party.end(text)

    def leave(self, party: Party | Guest, why: str | None = None) -> None:
        """It leaves."""
        if party.number in self._all:
            self._forget(party, why)
            self._say(party, "part", f"{party.user} leaves")

    def _end(self, party: Party, why: str | None) -> None:
        if why is None:
            self._exited(party.connection, party.channel, 0)
        else:
            message = {"op": "close", "conn": party.connection.number, "session": party.channel, "text": why}
            self._tell(party.connection.number, message)

    def _forget(self, party: Party | Guest, why: str | None = None) -> None:
        del self._all[party.number]
        if isinstance(party, Guest):
            # Who has let it in tells of it.
            return
        party.connection.sessions.pop(party.channel, None)
        if party.connection.grant is not None:
            self._record("session.leave", party, party.connection.grant, why)

    def _say(self, party: Party | Guest, op: str, text: str, descriptors: Sequence[int] = ()) -> None:
        about = {"party": party.number, "mode": party.mode, "user": party.user, "text": text}
        party.say(op, about, descriptors)

    def _here(self, session: Joinable) -> Say:
        def say(op: str, fields: Mapping[str, object], descriptors: Sequence[int]) -> None:
            message = {"op": op, "conn": session.connection, "session": session.number}
            message.update(party=fields["party"], text=fields["text"])
            self._tell(session.connection, message, descriptors)

        return say

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
