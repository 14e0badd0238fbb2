"""The keeper's live sessions by their names in the audit log: what ends one of them and no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tinyport.core.access import Grant
from tinyport.core.errors import AccessDenied, Unavailable
from tinyport.core.names import printable
from tinyport.host.logging_line import Log
from tinyport.node.keeper_audit import Audit
from tinyport.node.keeper_connection import Connection, RunningSession
from tinyport.node.keeper_parties import Parties, Tell
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


class Live:
    """``parties`` are those who have joined one."""

    def __init__(
        self, loop: Loop, tell: Tell, log: Log, audit: Audit, exited: Callable[[Connection, int, int], None]
    ) -> None:
        self._loop = loop
        self._tell = tell
        self._log = log
        self.parties = Parties(audit, tell, exited)
        self._sessions: dict[str, Ending] = {}

    def add(self, session: Ending) -> None:
        self._sessions[session.sid] = session

    def discard(self, session: Ending) -> None:
        self._sessions.pop(session.sid, None)
        self.parties.session_over(session)

    def join(
        self, mode: str, sid: str, connection: Connection, channel: int, grant: Grant
    ) -> tuple[RunningSession, Sequence[int]]:
        """Join the session with this name. AccessDenied when there is none here, or roles do not allow it."""
        session = self._sessions.get(sid)
        if session is None:
            # One that an earlier daemon's keeper has lives on, and is out of reach for what is new.
            message = f"there is no live session {printable(sid, 40)} on this node that can be joined"
            raise AccessDenied(message, code="no_session")
        try:
            return self.parties.join(session, mode, connection, channel, grant)
        except OSError as error:
            raise Unavailable("this node is too busy to join a session; try again later", detail=str(error)) from None

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
