"""The keeper's sessions: started by Grant, waited for, reported to the worker and to the audit log."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Protocol

from tinyport.core.access import Grant
from tinyport.core.errors import AccessDenied, TinyportError, Unavailable
from tinyport.core.session_joining import parse_join
from tinyport.core.session_terms import NODE, STRICT
from tinyport.host import accounts, system_environment
from tinyport.host.accounts import Account
from tinyport.host.logging_line import Log
from tinyport.host.login_records import Login, LoginRecords
from tinyport.node.keeper.accounts import Accounts
from tinyport.node.keeper.audit import Audit
from tinyport.node.keeper.connection import LATER, Answer, Connection, RunningSession
from tinyport.node.keeper.held import Held
from tinyport.node.keeper.live import AnswerLater, Live, Waiting
from tinyport.node.keeper.recordings import Recording, Recordings
from tinyport.node.loop import Loop
from tinyport.node.python_process import light_arguments
from tinyport.node.session import plan as session_plan
from tinyport.node.session import start as session_start
from tinyport.node.session.plan import Asked, Origin, Plan
from tinyport.node.session.process import Manner
from tinyport.node.session.spare import Order, PamWish, Spare
from tinyport.node.session.start import Started
from tinyport.node.sftp import confine

# What ignores SIGHUP after its person was locked out gets this many seconds.
KILL_AFTER = 5.0
#: what a session inherits from the node's own environment; everything else is made for it
INHERITED = ("TZ", "LANG")


class ExitListener(Protocol):
    """Who is told that a session ended: (connection, session number, wait status)."""

    def __call__(self, connection: Connection, number: int, status: int, /) -> None: ...


class Session:
    """One running process with its own session and process group. ``send(signal number)`` reaches the group."""

    def __init__(
        self, pid: int, send: Callable[[int], None], owner: Grant, sid: str, at: tuple[int, int], *, has_terminal: bool
    ) -> None:
        """``at``: the numbers of its connection and in it."""
        self.pid = pid
        self.owner = owner
        self.has_terminal = has_terminal
        #: its name in the audit log, and where it is
        self.sid = sid
        self.connection, self.number = at
        #: why somebody ended it, and nothing else that runs in its connection
        self.ended_because: str | None = None
        self.running = True
        self.send = send

    def signal(self, name: str) -> None:
        if self.running:
            self.send(getattr(signal, f"SIG{name}"))

    def hang_up(self) -> None:
        self.signal("HUP")
        # Whoever was stopped cannot hear it.
        self.signal("CONT")

    def kill(self) -> None:
        self.signal("KILL")


class Sessions:
    """Starts and counts them. ``exited`` is called after a session's end was recorded."""

    def __init__(
        self,
        loop: Loop,
        audit: Audit,
        log: Log,
        *,
        privileged: bool,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        missing: Callable[[], str],
        exited: ExitListener,
        live: Live,
        recordings: Recordings,
        answer: AnswerLater,
        pam: str | None = None,
    ) -> None:
        """``missing``: what there is not enough of for one more, or "". ``pam``: the service whose stacks sessions go
        through, if any.
        """
        self._loop = loop
        self._audit = audit
        self._log = log
        self._privileged = privileged
        self._sftp = light_arguments("tinyport.node.sftp.sftp", call="main()")
        self._now = now
        self._monotonic = monotonic
        self._missing = missing
        self._exited = exited
        self.pam = pam if privileged else None
        self._greets = self.pam is None or _load_pam(self.pam)
        self._records = LoginRecords()
        self._all: set[Session] = set()
        self._live = live
        self._recordings = recordings
        self._answer = answer
        #: whose sessions wait for their recordings, once for each
        self._waiting: list[str] = []
        self._spare = Spare(loop, session_start.obey, log)
        self.accounts = Accounts(loop, log)

    @property
    def running(self) -> int:
        return len(self._all)

    def party_dropped(self, connection: Connection, message: Mapping[str, object]) -> None:
        self._live.parties.dropped(connection, message)

    def recording_over(self, connection: Connection, message: Mapping[str, object]) -> None:
        self._recordings.over(connection, message)

    def recording_failed(self, connection: Connection, message: Mapping[str, object]) -> None:
        found = self._recordings.failure(connection, message)
        if found is not None:
            self._live.end_because(*found)

    def changed(self) -> None:
        """Documents have: what copies of us have in their memory is of the past."""
        self._spare.drop()

    def running_of(self, user: str) -> int:
        return sum(session.owner.user == user for session in self._all) + self._waiting.count(user)

    def account(self, grant: Grant) -> Account:
        """The grant's account, if this node can become it. AccessDenied with the truth; NotFoundYet."""
        account = self.accounts.find(grant.login)
        self.check_usable(account)
        return account

    def check_usable(self, account: Account) -> None:
        """AccessDenied when nobody may be that here, or not any more."""
        if not self._privileged:
            accounts.check_ours(account)
        accounts.check_usable(account, self._now())

    def start(
        self, connection: Connection, number: int, grant: Grant, asked: Asked, request: int
    ) -> tuple[RunningSession, Answer]:
        join = parse_join(asked.subsystem)
        if join is not None:
            return self._live.join(*join, connection, number, grant, request)
        sid = os.urandom(16).hex()
        plan = self._planned(connection, grant, asked, sid)
        wanted = self._recordings.wanted(grant, plan)
        if wanted == STRICT:
            waiting = Waiting()
            self._waiting.append(grant.user)

            def begun(recording: Recording | None, error: Unavailable | None) -> None:
                self._waiting.remove(grant.user)
                self._begun(connection, number, asked, request, waiting, recording, error)

            try:
                self._recordings.begin(connection, number, sid, grant, plan, begun)
            except Unavailable:
                self._waiting.remove(grant.user)
                raise
            return waiting, LATER
        recording = self._recordings.begin(connection, number, sid, grant, plan) if wanted == NODE else None
        return self._begin(connection, number, grant, plan, sid, recording)

    def _planned(self, connection: Connection, grant: Grant, asked: Asked, sid: str) -> Plan:
        account = connection.account
        assert account is not None
        self.check_usable(account)
        plan = self._plan(connection, grant, account, asked, sid)
        missing = self._missing()
        if missing:
            raise Unavailable(f"this machine has no {missing} left for another session; try again later")
        return plan

    def _begun(
        self,
        connection: Connection,
        number: int,
        asked: Asked,
        request: int,
        waiting: Waiting,
        recording: Recording | None,
        error: Unavailable | None,
    ) -> None:
        """Auth has taken a recording without which there is no session, or not."""
        grant = connection.grant
        if connection.sessions.get(number) is waiting:
            del connection.sessions[number]
        if recording is None or waiting.gone or connection.told_why or grant is None:
            if recording is not None:
                self._recordings.cancel(recording)
            self._answer(connection.number, request, error or Unavailable("the session is gone"))
            return
        try:
            # Roles may have changed meanwhile.
            plan = self._planned(connection, grant, asked, recording.sid)
            session, (answer, descriptors) = self._begin(connection, number, grant, plan, recording.sid, recording)
        except TinyportError as refusal:
            self._recordings.cancel(recording)
            self._answer(connection.number, request, refusal)
            return
        connection.sessions[number] = session
        try:
            self._answer(connection.number, request, answer, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _begin(
        self, connection: Connection, number: int, grant: Grant, plan: Plan, sid: str, recording: Recording | None
    ) -> tuple[RunningSession, Answer]:
        """Start it, and tell that it began."""
        peer = connection.endpoint.peer
        fields = {"kind": plan.kind, "command": plan.command or None}
        pam = None if self.pam is None else PamWish(self.pam, peer[0])
        try:
            started = session_start.start(Order(plan, self._manner(plan), None, pam), self._spare)
        except OSError as error:
            if recording is not None:
                self._recordings.cancel(recording)
            self._audit.session("exec.failed", grant, peer, sid, **fields, reason=os.strerror(error.errno or 0))
            raise Unavailable(f"the session could not be started: {error.strerror}", detail=str(error)) from None
        session = Session(
            started.pid,
            lambda sign: self._loop.kill(-started.pid, sign),
            grant,
            sid,
            (connection.number, number),
            has_terminal=started.tty is not None,
        )
        self._all.add(session)
        self._live.add(session)
        self._spare.started()
        recorded = None if recording is None else grant.terms.recording
        self._audit.session("session.start", grant, peer, sid, **fields, tty=started.tty, recording=recorded)
        if plan.kind == "sftp":
            self._audit.session("sftp", grant, peer, sid)
        since = self._monotonic()
        login = self._begin_record(plan, started, peer)

        def ended(status: int) -> None:
            session.running = False
            self._all.discard(session)
            self._live.discard(session)
            connection.sessions.pop(number, None)
            self._end_record(login, status)
            why = session.ended_because or connection.ended_because
            self._record_end(plan, grant, peer, sid, status, self._monotonic() - since, why)
            self._exited(connection, number, status)

        if started.control is None:
            self._loop.child(started.pid, ended)
        else:
            session.send = Held(self._loop, started.control, started.pid, ended, self._log).send
        if recording is None:
            return session, ({}, started.descriptors)
        return session, ({"recording": recording.wish}, (*started.descriptors, recording.take_writing()))

    def _manner(self, plan: Plan) -> Manner:
        greets = self._greets and plan.kind == "shell" and plan.terminal is not None
        last = self._records.last(plan.account.uid) if greets else None
        return Manner(privileged=self._privileged, greets=greets, last=last)

    def _begin_record(self, plan: Plan, started: Started, peer: tuple[str, int]) -> Login | None:
        """utmp and its like, for what has a terminal. They are a courtesy: a session goes on without them."""
        if started.tty is None or not self._privileged:
            return None
        line = started.tty.removeprefix("/dev/")
        login = Login(plan.account.name, plan.account.uid, started.pid, line, peer[0])
        try:
            self._records.begin(login, self._now())
        except OSError as error:
            self._log.debug("a login is not recorded", reason=error)
        return login

    def _end_record(self, login: Login | None, status: int) -> None:
        if login is None:
            return
        try:
            self._records.end(login, self._now(), status)
        except OSError as error:
            self._log.debug("a logout is not recorded", reason=error)

    def _plan(self, connection: Connection, grant: Grant, account: Account, asked: Asked, sid: str) -> Plan:
        sftp = [*self._sftp, "--home", account.home]
        # Unprivileged, it is that user already; said all the same, since it serves nobody by default.
        sftp += ["--become", f"{account.uid}:{account.gid if self._privileged else os.getgid()}"]
        endpoint = connection.endpoint
        identity = connection.identity
        origin = Origin(endpoint.peer, endpoint.local, node=identity.name, cluster=identity.cluster, session=sid)
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        if self._privileged and self.pam is None:
            # With PAM it is pam_env's.
            inherited.update(system_environment.clean(system_environment.read_environment()))
        try:
            plan = session_plan.plan(grant, account, asked, origin, sftp=tuple(sftp), inherited=inherited)
            if plan.kind == "sftp" and grant.sftp.root is not None:
                confine.check(grant.sftp.root, privileged=self._privileged)
        except AccessDenied as error:
            if error.detail:
                # Something is wrong with this machine or with what it was told: its administrator wants to know.
                self._log.warning("a session is refused", user=grant.user, login=grant.login, reason=error)
            raise
        return plan

    def _record_end(
        self, plan: Plan, grant: Grant, peer: tuple[str, int], sid: str, status: int, seconds: float, why: str | None
    ) -> None:
        fields: dict[str, object] = dict(exit_fields(status))
        if plan.kind == "exec":
            self._audit.session("exec", grant, peer, sid, command=plan.command, **fields)
        elif plan.kind == "sftp":
            self._audit.session("sftp.end", grant, peer, sid, **fields)
        fields.update(kind=plan.kind, seconds=round(seconds, 3), reason=why)
        self._audit.session("session.end", grant, peer, sid, **fields)

    def end(self, connection: Connection) -> None:
        """Policy says no more: SIGHUP to all of a connection's sessions, then SIGKILL to what stays."""
        for session in list(connection.sessions.values()):
            session.hang_up()
            if isinstance(session, Session):
                self._loop.after(KILL_AFTER, session.kill)

    def end_all(self) -> None:
        """The same for every session, those whose connection is gone among them."""
        for session in list(self._all):
            session.hang_up()
            self._loop.after(KILL_AFTER, session.kill)


def _load_pam(service: str) -> bool:
    """Load what the processes that hold sessions need: here, once, so that they share it. → is the message of the day
    ours to show?"""
    from tinyport.host import pam
    from tinyport.node.session import holder

    del holder
    pam.load()
    return not pam.mentions(service, "pam_motd")


def exit_fields(status: int) -> Mapping[str, object]:
    """A wait status as {"status": n} or {"signal": name, "core": bool} (RFC 4254 section 6.10)."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name.removeprefix("SIG")
        except ValueError:
            name = f"{number}"
        return {"signal": name, "core": os.WCOREDUMP(status)}
    return {"status": os.waitstatus_to_exitcode(status)}
