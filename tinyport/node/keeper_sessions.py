"""The keeper's sessions: started by Grant, waited for, reported to the worker and to the audit log."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tinyport.core.access import Grant
from tinyport.core.errors import Unavailable
from tinyport.host import accounts
from tinyport.host.accounts import Account
from tinyport.host.logging_line import Log
from tinyport.node import session_plan, session_start
from tinyport.node.keeper_audit import Audit
from tinyport.node.keeper_connection import Connection
from tinyport.node.loop import Loop
from tinyport.node.python_process import light_arguments
from tinyport.node.session_plan import Asked, Origin, Plan

# What ignores SIGHUP after its person was locked out gets this many seconds.
KILL_AFTER = 5.0
#: what a session inherits from the node's own environment; everything else is made for it
INHERITED = ("TZ", "LANG")


class ExitListener(Protocol):
    """Who is told that a session ended: (connection, session number, wait status)."""

    def __call__(self, connection: Connection, number: int, status: int, /) -> None: ...


class Session:
    """One running process with its own session and process group, both numbered like it."""

    def __init__(self, pid: int, kill: Callable[[int, int], None]) -> None:
        self.pid = pid
        self.running = True
        self._kill = kill

    def signal(self, name: str) -> None:
        if self.running:
            self._kill(-self.pid, getattr(signal, f"SIG{name}"))

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
        room: Callable[[], bool],
        exited: ExitListener,
    ) -> None:
        """``room``: is there memory for one more?"""
        self._loop = loop
        self._audit = audit
        self._log = log
        self._privileged = privileged
        self._sftp = light_arguments("tinyport.node.sftp", call="main()")
        self._now = now
        self._monotonic = monotonic
        self._room = room
        self._exited = exited
        self.running = 0

    def account(self, grant: Grant) -> Account:
        """The grant's account, if this node can become it. AccessDenied with the truth."""
        account = accounts.lookup(grant.login)
        if not self._privileged:
            accounts.check_ours(account)
        accounts.check_usable(account, self._now())
        return account

    def start(self, connection: Connection, number: int, grant: Grant, asked: Asked) -> tuple[Session, Sequence[int]]:
        account = self.account(grant)
        plan = self._plan(connection, grant, account, asked)
        if not self._room():
            raise Unavailable("this machine has no memory left for another session; try again later")
        peer = connection.endpoint.peer
        sid = secrets.token_hex(16)
        fields = {"kind": plan.kind, "command": plan.command or None}
        try:
            started = session_start.start(plan, privileged=self._privileged)
        except OSError as error:
            self._audit.session("exec.failed", grant, peer, sid, **fields, reason=os.strerror(error.errno or 0))
            raise Unavailable(f"the session could not be started: {error.strerror}", detail=str(error)) from None
        session = Session(started.pid, self._loop.kill)
        self.running += 1
        self._audit.session("session.start", grant, peer, sid, **fields, tty=started.tty)
        if plan.kind == "sftp":
            self._audit.session("sftp", grant, peer, sid)
        since = self._monotonic()

        def ended(status: int) -> None:
            session.running = False
            self.running -= 1
            connection.sessions.pop(number, None)
            self._record_end(plan, grant, peer, sid, status, self._monotonic() - since)
            self._exited(connection, number, status)

        self._loop.child(started.pid, ended)
        return session, started.descriptors

    def _plan(self, connection: Connection, grant: Grant, account: Account, asked: Asked) -> Plan:
        sftp = [*self._sftp, "--home", account.home]
        # Unprivileged, it is that user already; said all the same, since it serves nobody by default.
        groups = ",".join(str(group) for group in (account.groups if self._privileged else os.getgroups()))
        sftp += ["--become", f"{account.uid}:{account.gid if self._privileged else os.getgid()}:{groups}"]
        endpoint = connection.endpoint
        origin = Origin(peer=endpoint.peer, local=endpoint.local, node=connection.identity.name)
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return session_plan.plan(grant, account, asked, origin, sftp=tuple(sftp), inherited=inherited)

    def _record_end(
        self, plan: Plan, grant: Grant, peer: tuple[str, int], sid: str, status: int, seconds: float
    ) -> None:
        fields: dict[str, object] = dict(exit_fields(status))
        if plan.kind == "exec":
            self._audit.session("exec", grant, peer, sid, command=plan.command, **fields)
        elif plan.kind == "sftp":
            self._audit.session("sftp.end", grant, peer, sid, **fields)
        self._audit.session("session.end", grant, peer, sid, kind=plan.kind, seconds=round(seconds, 3), **fields)

    def end(self, connection: Connection) -> None:
        """Policy says no more: SIGHUP to all of a connection's sessions, then SIGKILL to what stays."""
        for session in list(connection.sessions.values()):
            session.hang_up()
            if isinstance(session, Session):
                self._loop.after(KILL_AFTER, session.kill)


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
