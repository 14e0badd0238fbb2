"""Which sessions are recorded, and the pipes for it: the keeper decides, the worker writes, link reads (recording.md).

The keeper keeps the reading end, too, so that a link that ends loses nothing that waits in the pipe, and gives it to
the next one. When link says that auth does not take a recording, the pipe breaks, and the worker counts what follows.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tinyport.core import recording_frames as f
from tinyport.core.access import Grant
from tinyport.core.cluster_config import recording_limits
from tinyport.core.errors import PeerError, Unavailable
from tinyport.core.names import printable
from tinyport.core.session_terms import OFF
from tinyport.host.logging_line import Log
from tinyport.node.keeper import fields
from tinyport.node.keeper.audit import Audit
from tinyport.node.keeper.connection import Connection
from tinyport.node.loop import Loop, Timer
from tinyport.node.pipes import make_pipe
from tinyport.node.session.plan import Plan

# What waits while auth is away or restarted, and what a burst may be ahead of the way to auth; the kernel takes the
# memory only for what is there. (so many recordings at a time, room for each); beyond, pipes have the system's size.
PIPE_SIZES = ((4, 1024 * 1024), (16, 256 * 1024))
# Link asks auth whether it takes a recording, and has a person waiting.
BEGIN_LIMIT = 12.0
MAX_REASON = 200
# Of one connection: as many as it may have sessions, and as many whose end waits for room. A worker that never says
# that one is over must not have all descriptors of the keeper.
MOST_OF_ONE = 1024
NOT_NOW = "this session must be recorded, and its recording cannot be stored now"
# scp's old protocol and nothing else: a transfer of files, which the audit log tells of.
_TRANSFER = re.compile(r"scp (?:-[vrpdq]+ )*-[vrpdq]*[tf] (?:-- )?[\w./~@%+=:,-]+", re.ASCII)

Begun = Callable[["Recording | None", "Unavailable | None"], None]


@dataclass
class Recording:
    """``writing`` is the worker's, once it was taken; ``reading`` is -1 when link refused it."""

    sid: str
    head: Mapping[str, object]
    strict: bool
    most: int
    notice: bool
    reading: int
    writing: int
    grant: Grant
    peer: tuple[str, int]
    connection: int
    number: int
    begun: Begun | None = None
    #: link has it; its session is over
    told: bool = False
    finished: bool = False
    timer: Timer | None = field(default=None, repr=False)

    def take_writing(self) -> int:
        """The worker's end of the pipe, the caller's from here on."""
        descriptor, self.writing = self.writing, -1
        return descriptor

    @property
    def wish(self) -> dict[str, object]:
        """What the worker is told."""
        return {"strict": self.strict, "most": self.most, "notice": self.notice}


class Recordings:
    """By session. ``tell(message, descriptors)`` reaches link; ``now`` is cluster time; ``config`` the policy's."""

    def __init__(
        self,
        loop: Loop,
        tell: Callable[[Mapping[str, object], Sequence[int]], bool],
        audit: Audit,
        log: Log,
        now: Callable[[], float],
        config: Callable[[], Mapping[str, object]],
    ) -> None:
        self._loop = loop
        self._tell = tell
        self._audit = audit
        self._log = log
        self._now = now
        self._config = config
        self._all: dict[str, Recording] = {}

    def wanted(self, grant: Grant, plan: Plan) -> str:
        """``off``, ``node`` or ``strict``: what the policy says of this session."""
        transfer = plan.kind == "exec" and plan.terminal is None and _TRANSFER.fullmatch(plan.command) is not None
        return OFF if plan.kind == "sftp" or transfer else grant.terms.recording

    def begin(
        self, connection: Connection, number: int, sid: str, grant: Grant, plan: Plan, begun: Begun | None = None
    ) -> Recording | None:
        """Make the pipe, and have link send what comes out of it. None when that cannot be, which is audited.

        With ``begun`` the session must be recorded: that is called once auth has taken it, or with why not. Unavailable
        when it is known at once.
        """
        strict = begun is not None
        try:
            if sum(one.connection == connection.number for one in self._all.values()) >= MOST_OF_ONE:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            reading, writing = make_pipe(next((size for most, size in PIPE_SIZES if len(self._all) < most), 0))
        except OSError as error:
            if strict:
                raise Unavailable(NOT_NOW, detail=str(error)) from None
            reason = f"it was not recorded: {os.strerror(error.errno or 0)}"
            self._audit.session("session.data_lost", grant, connection.endpoint.peer, sid, reason=reason)
            return None
        terminal = plan.terminal
        head: dict[str, object] = {
            "user": grant.user,
            "login": grant.login,
            "node": connection.identity.name,
            "kind": plan.kind,
            "time": round(self._now(), 3),
            "mode": grant.terms.recording,
        }
        if plan.command:
            head["command"] = printable(plan.command, MAX_REASON)
        if terminal is not None:
            head.update(term=printable(terminal.term, 64), columns=terminal.columns, rows=terminal.rows)
        config = self._config()
        notice = plan.kind == "shell" and terminal is not None and config.get("recording_notice") is not False
        one = Recording(
            sid,
            head,
            strict,
            recording_limits(config).size,
            notice,
            reading,
            writing,
            grant,
            connection.endpoint.peer,
            connection.number,
            number,
            begun,
        )
        self._all[sid] = one
        there = self._say(one)
        if begun is not None:
            if not there:
                self.cancel(one)
                raise Unavailable(NOT_NOW, detail="there is no link")
            one.timer = self._loop.after(BEGIN_LIMIT, lambda: self._answered(one, "auth does not answer"))
        return one

    def _say(self, one: Recording) -> bool:
        message = {"op": "record", "sid": one.sid, "head": one.head, "must": one.begun is not None}
        one.told = self._tell(message, [one.reading])
        if one.told and one.finished:
            self._forget(one)
        return one.told

    # ------------------------------------------------------------------ link

    def again(self) -> None:
        """There is a new link."""
        for one in list(self._all.values()):
            if one.reading >= 0:
                self._say(one)

    def leave(self) -> None:
        """The keeper ends: what was not given to any link is lost."""
        for one in list(self._all.values()):
            if one.finished and not one.told:
                reason = "this machine had no link when it ended"
                self._audit.session("session.data_lost", one.grant, one.peer, one.sid, reason=reason)

    def heard(self, message: Mapping[str, object]) -> None:
        """Link's ``recording`` (auth has taken it) and ``unrecorded`` (it does not)."""
        one = self._all.get(str(message.get("sid")))
        if one is None:
            return
        if message.get("op") == "recording":
            self._answered(one, None)
            return
        reason = printable(str(message.get("message")), MAX_REASON)
        self._log.warning("a recording is not taken", session=one.sid, reason=reason)
        if one.begun is not None:
            self._answered(one, reason)
        elif one.reading >= 0:
            os.close(one.reading)
            one.reading = -1

    def _answered(self, one: Recording, refusal: str | None) -> None:
        begun, one.begun = one.begun, None
        if one.timer is not None:
            one.timer.cancel()
        if begun is None:
            return
        if refusal is None:
            begun(one, None)
        else:
            self.cancel(one)
            begun(None, Unavailable(f"{NOT_NOW}: {refusal}"))

    # ------------------------------------------------------------------ worker

    def over(self, connection: Connection, message: Mapping[str, object]) -> None:
        """The worker's ``recorded``."""
        number, lost = fields.number(message, "session", 2**53), fields.number(message, "lost", 2**53)
        one = self._of(connection, number)
        if one is None:
            return
        if lost:
            about: dict[str, object] = {"bytes": lost, "reason": "auth did not take the recording"}
            self._audit.session("session.data_lost", one.grant, one.peer, one.sid, **about)
        self._finish(one)

    def connection_over(self, connection: Connection) -> None:
        """Nobody is left to say anything of its recordings."""
        for one in [one for one in self._all.values() if one.connection == connection.number]:
            if one.begun is not None:
                # Nor to wait for it: whoever counts those that wait hears so.
                self._answered(one, "the client is gone")
            else:
                self._finish(one)

    def _finish(self, one: Recording) -> None:
        # Without a link just now, what waits in the pipe is the next one's.
        one.finished = True
        if one.told or one.reading < 0:
            self._forget(one)

    def cancel(self, one: Recording) -> None:
        """The session did not begin: nothing is missing."""
        if one.writing >= 0 and one.reading >= 0:
            os.write(one.writing, f.frame(f.END, 0, 0))
        self._forget(one)

    def _of(self, connection: Connection, number: int) -> Recording | None:
        for one in self._all.values():
            if (one.connection, one.number) == (connection.number, number):
                return one
        return None

    def failure(self, connection: Connection, message: Mapping[str, object]) -> tuple[str, str] | None:
        """The worker's ``unrecorded``: (session, why it is to end). PeerError when it need not be recorded."""
        one = self._of(connection, fields.number(message, "session", 2**53))
        why = fields.text(message, "message", MAX_REASON)
        if one is None:
            return None
        if not one.strict:
            raise PeerError("a session that need not be recorded")
        return one.sid, printable(why, MAX_REASON)

    def _forget(self, one: Recording) -> None:
        self._all.pop(one.sid, None)
        if one.timer is not None:
            one.timer.cancel()
        for name in ("reading", "writing"):
            if getattr(one, name) >= 0:
                os.close(getattr(one, name))
                setattr(one, name, -1)
