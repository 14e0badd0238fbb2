"""One process tree per role, kept running: the machine on the internet is never the CA's address space.

Each role is a fresh Python process that is told its configuration through an inherited descriptor (never in argv, which
everybody can read). A role's life:

    started --ready line--> serving --ends--> waiting --(back-off)--> started
    started --ends with 1--> fatal (its own words say why; everything stops)

A role that has served before is started again whatever it ended with: what worked once may work again. All roles get
SIGTERM when this process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tinyport.core.errors import OperatorError
from tinyport.host.logging_line import Log

#: Seconds before a role that ended is started again: the first, and the most.
FIRST_WAIT, LONGEST_WAIT = 0.2, 30.0
#: A role that served for this long starts again without having to wait for longer each time.
STEADY = 60.0
#: How long a role may take to end after SIGTERM before it is killed.
STOP_LIMIT = 15.0
#: How long a role may take until it serves. A node's may wait for its server without end, so this is for a cluster
# of one machine.
READY_LIMIT = 120.0

_PR_SET_PDEATHSIG = 1
_MAX_LINE = 64 * 1024

Spawn = Callable[[str, Mapping[str, Any]], "tuple[int, int]"]


def spawn_role(role: str, task: Mapping[str, Any]) -> tuple[int, int]:
    """Start a role's process. Returns its pid and the descriptor on which its ready line will come."""
    ready, ready_child = os.pipe()
    configuration = os.memfd_create(f"tinyport-{role}", 0)
    os.pwrite(configuration, json.dumps({**task, "role": role, "parent": os.getpid()}).encode(), 0)
    command = f"from tinyport.admin.supervisor import role_main; role_main({configuration}, {ready_child})"
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", command],
            stdin=subprocess.DEVNULL,
            pass_fds=(configuration, ready_child),
            # A Ctrl-C at the terminal is for us; we then stop the roles in order.
            start_new_session=True,
        )
    finally:
        os.close(ready_child)
        os.close(configuration)
    # Reaped by pid below; Popen must not warn about a child that it no longer watches.
    process.returncode = 0
    return process.pid, ready


def role_main(configuration: int, ready_fd: int) -> None:
    """The first thing a role's process does."""
    from tinyport.admin import config_file
    from tinyport.host.console import report
    from tinyport.start import run_role

    task = json.loads(os.pread(configuration, 4 * 1024 * 1024, 0))
    os.close(configuration)
    end_with_parent(task["parent"])
    try:
        config = config_file.check(task["document"], task["source"])
        status = run_role(task["role"], config, ready_fd, insecure_no_ca_pin=bool(task.get("insecure_no_ca_pin")))
    except Exception as error:
        status = report(f"tinyport {task['role']}", error)
    raise SystemExit(status)


def end_with_parent(parent: int) -> None:
    """Have the kernel send us SIGTERM when our parent dies, however it dies. It lasts through exec."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        # It died before we asked.
        raise SystemExit(1)


@dataclass
class Role:
    """One supervised role. Owned by the supervisor; ``pid`` is 0 while it waits to be started again."""

    name: str
    task: dict[str, Any]
    pid: int = 0
    ready_fd: int = -1
    #: its ready line, once it served
    answer: dict[str, Any] = field(default_factory=dict)
    served: bool = False
    started_at: float = 0.0
    wait: float = FIRST_WAIT
    next_start: float = 0.0
    buffer: bytes = b""


class Supervisor:
    """Starts roles one after the other, keeps them running, stops them in the opposite order."""

    def __init__(self, log: Log, spawn: Spawn = spawn_role) -> None:
        self._log = log
        self._spawn = spawn
        self.roles: dict[str, Role] = {}
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._reload = False

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

    @property
    def stopping(self) -> bool:
        return self._stopping

    def start(self, name: str, task: Mapping[str, Any], *, limit: float | None = READY_LIMIT) -> dict[str, Any]:
        """Start a role and wait until it serves. Its ready line.

        ``limit``: seconds to wait; None waits as long as it takes. OperatorError when the role ends instead, or
        does not serve in
        time; its own words are on standard error already.
        """
        role = Role(name, dict(task))
        self.roles[name] = role
        self._launch(role)
        end = None if limit is None else time.monotonic() + limit
        while not role.served:
            if self._stopping:
                raise KeyboardInterrupt
            if end is not None and time.monotonic() > end:
                raise OperatorError(f"{name} did not start to serve within {limit:.0f} s")
            self._turn(1.0)
        return role.answer

    def watch(self) -> None:
        """Keep the roles running until SIGTERM or SIGINT."""
        while not self._stopping:
            self._turn(60.0)

    def _launch(self, role: Role) -> None:
        role.pid, role.ready_fd = self._spawn(role.name, role.task)
        os.set_blocking(role.ready_fd, False)
        role.started_at = time.monotonic()
        role.buffer = b""
        self._log.info("started", role=role.name, pid=role.pid)

    def _turn(self, limit: float) -> None:
        """Wait for something to happen, for ``limit`` seconds at most, and see to it."""
        now = time.monotonic()
        waiting = [role for role in self.roles.values() if not role.pid]
        for role in waiting:
            limit = min(limit, max(0.0, role.next_start - now))
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        by_descriptor = {role.ready_fd: role for role in self.roles.values() if role.ready_fd >= 0}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(limit * 1000):
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
        """Take what a role says on its ready descriptor: one line, then the end."""
        try:
            piece = os.read(role.ready_fd, _MAX_LINE)
        except BlockingIOError:
            return
        role.buffer += piece
        line, newline, _ = role.buffer.partition(b"\n")
        if newline or (not piece and role.buffer):
            role.answer = json.loads(line)
            role.served = True
        if newline or not piece or len(role.buffer) > _MAX_LINE:
            os.close(role.ready_fd)
            role.ready_fd = -1

    def _reap(self) -> None:
        for role in self.roles.values():
            if not role.pid:
                continue
            try:
                pid, status = os.waitpid(role.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = role.pid, 0
            if pid:
                self._ended(role, os.waitstatus_to_exitcode(status))

    def _ended(self, role: Role, code: int) -> None:
        role.pid = 0
        if role.ready_fd >= 0:
            self._hear(role)
        if role.ready_fd >= 0:
            os.close(role.ready_fd)
            role.ready_fd = -1
        if self._stopping:
            return
        if not role.served:
            raise OperatorError(f"{role.name} could not start", hint="its own message is above", code="role")
        now = time.monotonic()
        role.wait = FIRST_WAIT if now - role.started_at > STEADY else min(role.wait * 2, LONGEST_WAIT)
        role.next_start = now + role.wait
        self._log.error("ended and will be started again", role=role.name, status=code, wait=f"{role.wait:.1f}s")

    def _signal_all(self, number: int) -> None:
        for role in self.roles.values():
            if role.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(role.pid, number)

    def stop(self) -> None:
        """End all roles, the last started first; kill what does not end in time."""
        self._stopping = True
        for role in reversed(self.roles.values()):
            if not role.pid:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(role.pid, signal.SIGTERM)
            end = time.monotonic() + STOP_LIMIT
            while role.pid and time.monotonic() < end:
                self._turn(0.2)
            if role.pid:
                self._log.error("did not end on SIGTERM and is killed", role=role.name, pid=role.pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(role.pid, signal.SIGKILL)
                os.waitpid(role.pid, 0)
                role.pid = 0
