"""The keeper's live sessions by their names in the audit log: what ends one of them and no other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tinyport.core.access import Grant
from tinyport.core.errors import AccessDenied, TinyportError, Unavailable
from tinyport.core.names import printable
from tinyport.host.logging_line import Log
from tinyport.node.keeper.audit import Audit
from tinyport.node.keeper.connection import LATER, Answer, Connection, RunningSession
from tinyport.node.keeper.guests import Elsewhere, Guests, Neighbours
from tinyport.node.keeper.parties import Parties, Tell
from tinyport.node.loop import Loop

# What ignores SIGHUP has this many seconds: whoever ended it was told five.
KILL_AFTER = 3.0


class Ending(Protocol):
    """What is needed of a session: its name, where it is, and its end."""

    sid: str
    connection: int
    number: int
    owner: Grant
    has_terminal: bool
    ended_because: str | None

    def hang_up(self) -> None: ...

    def kill(self) -> None: ...


class AnswerLater(Protocol):
    """Answers a worker's request that was left for later."""

    def __call__(
        self,
        connection: int,
        request: int,
        answer: Mapping[str, object] | TinyportError,
        descriptors: Sequence[int] = (),
        /,
    ) -> None: ...


class Waiting:
    """A session that does not run yet, because somebody else is asked first."""

    def __init__(self) -> None:
        self.gone = False

    def signal(self, name: str) -> None:
        del name

    def hang_up(self) -> None:
        self.gone = True


class Live:
    """``parties`` are those who have joined one."""

    def __init__(
        self,
        loop: Loop,
        tell: Tell,
        log: Log,
        audit: Audit,
        exited: Callable[[Connection, int, int], None],
        place: tuple[int | None, str],
        answer: AnswerLater,
    ) -> None:
        """``place``: the node's folder, where other keepers meet us, and our name; ``answer`` is for what was left for
        later."""
        self._loop = loop
        self._answer = answer
        self._neighbours = Neighbours(loop, place[0], log)
        self._tell = tell
        self._log = log
        self.parties = Parties(audit, tell, exited)
        self._sessions: dict[str, Ending] = {}
        #: for keepers that come after us
        self.guests = Guests(loop, *place, self._sessions.get, self.parties, log)

    def add(self, session: Ending) -> None:
        self._sessions[session.sid] = session

    def discard(self, session: Ending) -> None:
        self._sessions.pop(session.sid, None)
        self.parties.session_over(session)

    def join(
        self, mode: str, sid: str, connection: Connection, channel: int, grant: Grant, request: int
    ) -> tuple[RunningSession, Answer]:
        """Join the session with this name. AccessDenied when there is none here, or roles do not allow it."""
        session = self._sessions.get(sid)
        if session is None:
            return self._join_elsewhere(mode, sid, connection, channel, request)
        try:
            party, descriptors = self.parties.join(session, mode, connection, channel, grant)
        except OSError as error:
            raise _busy(error) from None
        return party, ({}, descriptors)

    def _join_elsewhere(
        self, mode: str, sid: str, connection: Connection, channel: int, request: int
    ) -> tuple[RunningSession, Answer]:
        """Perhaps an earlier daemon's keeper has it."""
        waiting = Waiting()

        def found(session: Elsewhere | None, error: TinyportError | None) -> None:
            if connection.sessions.get(channel) is waiting:
                del connection.sessions[channel]
            grant = connection.grant
            try:
                if session is None:
                    raise error or _no_session(sid)
                if waiting.gone or connection.told_why or grant is None:
                    raise Unavailable("the session is gone")
                party, descriptors = self.parties.join(session, mode, connection, channel, grant, session.say)
            except (TinyportError, OSError) as refusal:
                if session is not None:
                    session.close()
                told = _busy(refusal) if isinstance(refusal, OSError) else refusal
                self._answer(connection.number, request, told)
                return
            connection.sessions[channel] = party
            session.watch(lambda why: self.parties.dismiss(party, why), lambda: self.parties.session_over(session))
            try:
                self._answer(connection.number, request, {}, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

        if not self._neighbours.find(sid, found):
            raise _no_session(sid)
        return waiting, LATER

    def end(self, ended: Mapping[str, str]) -> None:
        """``ended``: session → who ended it, as the node document has it."""
        for sid, by in ended.items():
            if sid in self._sessions:
                self.end_because(sid, f"ended by {printable(by, 64)}")

    def end_because(self, sid: str, text: str) -> None:
        """End one, and tell its person why."""
        session = self._sessions.get(sid)
        if session is None or session.ended_because is not None:
            return
        session.ended_because = text
        self._log.info("a session is ended", session=sid, reason=text)
        message = {"op": "close", "conn": session.connection, "session": session.number, "text": text}
        self._tell(session.connection, message)
        session.hang_up()
        self._loop.after(KILL_AFTER, session.kill)


def _no_session(sid: str) -> AccessDenied:
    return AccessDenied(f"there is no live session {printable(sid, 40)} on this node", code="no_session")


def _busy(error: Exception) -> Unavailable:
    return Unavailable("this node is too busy to join a session; try again later", detail=str(error))
