"""One process tree per role, kept running: the machine on the internet is never the CA's address space.

A role's life::

    started --ready line--> serving --ends--> waiting --(back-off)--> started
    started --ends with a status--> fatal: its own words are on standard error, and everything stops

A role that has served before is started again whatever it ended with: what worked once may work again. A role that a
signal ended is always started again.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyport.admin.role_process import Task, adopt_orphans, spawn_role
from tinyport.core.errors import OperatorError
from tinyport.host.logging_line import Log
from tinyport.host.sd_notify import notify, watchdog_period

#: Seconds before a role that ended is started again: the first, and the most.
FIRST_WAIT, LONGEST_WAIT = 0.2, 30.0
#: A role that ran for this long did not die of its start: the next wait is the first again.
STEADY = 60.0
#: How long a role may take to end after SIGTERM before it is killed.
STOP_LIMIT = 15.0
#: How long what roles left behind may take, all together.
ADOPTED_LIMIT = 2.0
_MAX_LINE = 64 * 1024
# Whatever happens wakes us; this is only what poll() is given.
_FOR_EVER = 3600.0

#: (role, task) → (pid, descriptor on which the ready line comes)
Spawn = Callable[[str, Task], "tuple[int, int]"]


class Stopped(Exception):
    """SIGTERM or SIGINT came while something was waited for."""


@dataclass
class Role:
    """One supervised role. Owned by the supervisor; ``pid`` is 0 while it waits to be started again."""

    name: str
    task: Task
    pid: int = 0
    ready_fd: int = -1
    #: its first ready line
    answer: dict[str, Any] = field(default_factory=dict)
    served: bool = False
    started_at: float = 0.0
    wait: float = FIRST_WAIT / 2
    next_start: float = 0.0
    heard: bytes = b""


class Supervisor:
    """Order: ``install_signals``, ``start`` for each role, ``watch``, and ``stop`` however that ended.

    ``adopts``: what roles leave behind becomes ours instead of init's, and ends with us: sessions that would outlive a
    node's daemon, too. For whoever promised to stop everything.
    """

    def __init__(
        self, log: Log, spawn: Spawn = spawn_role, *, first_wait: float = FIRST_WAIT, adopts: bool = False
    ) -> None:
        self._log = log
        self._spawn = spawn
        self._first_wait = first_wait
        self._adopts = adopts
        if adopts:
            adopt_orphans()
        self.roles: dict[str, Role] = {}
        self._stopping = False
        self._reload = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def install_signals(self) -> None:
        """SIGTERM and SIGINT stop, SIGHUP is handed on, SIGCHLD wakes."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _on_reload(self, *_: object) -> None:
        self._reload = True

    def start(self, name: str, task: Task, *, limit: float | None = None) -> dict[str, Any]:
        """Start a role and wait until it serves. Its ready line.

        ``limit``: seconds to wait; None waits as long as it takes. OperatorError when the role ends instead, or does
        not serve in time; Stopped when we are told to stop.
        """
        role = Role(name, dict(task), wait=self._first_wait / 2)
        self.roles[name] = role
        self._launch(role)
        end = None if limit is None else time.monotonic() + limit
        while not role.served:
            left = _FOR_EVER if end is None else end - time.monotonic()
            if left <= 0:
                raise OperatorError(f"{name} did not start to serve within {limit:.0f} s")
            self.pause(left)
        return role.answer

    def retask(self, name: str, task: Task) -> None:
        """What a role is told when it is started again."""
        self.roles[name].task = dict(task)

    def pause(self, limit: float) -> None:
        """See to the roles for at most ``limit`` seconds, or until something happened. Stopped when we are to stop."""
        if not self._stopping:
            self._turn(limit)
        if self._stopping:
            raise Stopped

    def watch(self) -> None:
        """Keep the roles running until SIGTERM or SIGINT."""
        period = watchdog_period()
        while not self._stopping:
            if period is not None:
                notify("WATCHDOG=1")
            self._turn(period or _FOR_EVER)

    def _launch(self, role: Role) -> None:
        role.pid, role.ready_fd = self._spawn(role.name, role.task)
        os.set_blocking(role.ready_fd, False)
        role.started_at = time.monotonic()
        role.heard = b""
        self._log.info("started", role=role.name, pid=role.pid)

    def _turn(self, limit: float) -> None:
        """Wait for something to happen, for ``limit`` seconds at most, and see to it."""
        now = time.monotonic()
        for role in self.roles.values():
            if not role.pid and not self._stopping:
                limit = min(limit, max(0.0, role.next_start - now))
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        by_descriptor = {role.ready_fd: role for role in self.roles.values() if role.ready_fd >= 0}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(int(limit * 1000) + 1):
            if descriptor == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            else:
                self._hear(by_descriptor[descriptor])
        if self._reload:
            self._reload = False
            self._signal_all(signal.SIGHUP)
        self._reap()
        for role in self.roles.values():
            if not role.pid and not self._stopping and time.monotonic() >= role.next_start:
                self._launch(role)

    def _hear(self, role: Role) -> None:
        """Take what a role says on its ready descriptor: one line, then nothing more is read."""
        try:
            piece = os.read(role.ready_fd, _MAX_LINE)
        except BlockingIOError:
            return
        role.heard += piece
        line, newline, _ = role.heard.partition(b"\n")
        if piece and not newline and len(role.heard) <= _MAX_LINE:
            return
        os.close(role.ready_fd)
        role.ready_fd = -1
        if not newline:
            return
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise OperatorError(f"{role.name} said something else than that it is ready", detail=repr(line[:200]))
        if not role.served:
            role.answer, role.served = answer, True

    def _reap(self) -> None:
        if self._adopts:
            self._reap_everybody()
            return
        for role in self.roles.values():
            if role.pid and (status := _ended_with(role.pid)) is not None:
                self._ended(role, status)

    def _reap_everybody(self) -> None:
        by_pid = {role.pid: role for role in self.roles.values() if role.pid}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in by_pid:
                self._ended(by_pid[pid], os.waitstatus_to_exitcode(status))

    def _ended(self, role: Role, code: int) -> None:
        role.pid = 0
        if role.ready_fd >= 0:
            # What it said last may still be in the pipe.
            self._hear(role)
        if role.ready_fd >= 0:
            os.close(role.ready_fd)
            role.ready_fd = -1
        if self._stopping:
            return
        if not role.served and code >= 0:
            raise OperatorError(f"{role.name} could not start", hint="its own message is above", code="role")
        now = time.monotonic()
        steady = now - role.started_at > STEADY
        role.wait = self._first_wait if steady else min(role.wait * 2, LONGEST_WAIT)
        role.next_start = now + role.wait
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
        self._log.error("ended, will be started again", role=role.name, with_=how, wait=f"{role.wait:.1f}s")

    def _signal_all(self, number: int) -> None:
        for role in self.roles.values():
            _signal(role.pid, number)

    def stop(self) -> None:
        """End all roles, the last started first; kill what does not end in time."""
        self._stopping = True
        for role in reversed(self.roles.values()):
            _signal(role.pid, signal.SIGTERM)
            end = time.monotonic() + STOP_LIMIT
            while role.pid and time.monotonic() < end:
                self._turn(0.2)
            if role.pid:
                self._log.error("did not end on SIGTERM and is killed", role=role.name, pid=role.pid)
                _signal(role.pid, signal.SIGKILL)
                os.waitpid(role.pid, 0)
                role.pid = 0
        if self._adopts:
            self._end_adopted()

    def _end_adopted(self) -> None:
        """End what the roles left behind, and what that leaves behind."""
        asked: set[int] = set()
        patience = time.monotonic() + ADOPTED_LIMIT
        while left := children():
            late = time.monotonic() > patience
            for pid in left if late else left - asked:
                _signal(pid, signal.SIGKILL if late else signal.SIGTERM)
            asked |= left
            self._turn(0.05)


def _ended_with(pid: int) -> int | None:
    """The exit status of a child, negative for a signal; None while it runs."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        # Somebody else has reaped it; how it ended is lost.
        return 0
    return os.waitstatus_to_exitcode(status) if ended else None


def children() -> set[int]:
    """Our children, those that have ended and were not waited for among them."""
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:
        # A kernel without that list. What is left then belongs to init, as it would without us.
        return set()
    return {int(word) for word in text.split()}


def _signal(pid: int, number: int) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def pids(roles: Mapping[str, Role]) -> dict[str, int]:
    """Role → the process that it is at this moment."""
    return {name: role.pid for name, role in roles.items()}
