"""Starting a session's process: fork, become the user, a session and terminal of its own, exec. The keeper's hands.

Between fork and exec the child is still us: whatever fails there is said on its standard error and ends it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from tinyport.host import pty
from tinyport.host.privileges import become
from tinyport.node.session_plan import Plan

# env(1), sh(1): found but could not be run.
CANNOT_RUN = 126


@dataclass(frozen=True)
class Started:
    """``descriptors``: the pty's master, or standard input, output and error; the caller's to hand on and close."""

    pid: int
    descriptors: tuple[int, ...]
    tty: str | None


def start(plan: Plan, *, privileged: bool) -> Started:
    """Start it. OSError when there is no terminal, descriptor or process left."""
    if plan.terminal is not None:
        return _with_terminal(plan, privileged)
    ends: list[int] = []
    try:
        for _ in range(3):
            ends += os.pipe2(os.O_CLOEXEC)
        theirs = (ends[0], ends[3], ends[5])
        ours = (ends[1], ends[2], ends[4])
        pid = os.fork()
    except BaseException:
        for end in ends:
            os.close(end)
        raise
    if pid == 0:
        _child(plan, theirs, plan.environment, privileged, terminal=False)
    for end in theirs:
        os.close(end)
    return Started(pid, ours, None)


def _with_terminal(plan: Plan, privileged: bool) -> Started:
    asked = plan.terminal
    assert asked is not None
    master, slave, path = pty.open_pair(plan.account.uid if privileged else None)
    try:
        pty.set_size(slave, asked.columns, asked.rows, asked.width, asked.height)
        pty.apply_modes(slave, asked.modes)
        pid = os.fork()
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    if pid == 0:
        environment = {**plan.environment, b"SSH_TTY": os.fsencode(path)}
        _child(plan, (slave, slave, slave), environment, privileged, terminal=True)
    os.close(slave)
    return Started(pid, (master,), path)


def _child(
    plan: Plan, streams: tuple[int, int, int], environment: Mapping[bytes, bytes], privileged: bool, *, terminal: bool
) -> NoReturn:
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        if terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        _plain_process()
        if privileged and not plan.drops_itself:
            become(plan.account.uid, plan.account.gid, plan.account.groups)
        try:
            # What becomes the user on its own goes there on its own, too: as root it may be another place (NFS).
            os.chdir("/" if plan.drops_itself else plan.account.home)
        except OSError as error:
            # sshd goes on, too: somebody must be able to repair the home.
            _say(f"could not change to the home directory: {error.strerror}")
            os.chdir("/")
        os.execve(plan.path, plan.argv, environment)
    except BaseException as error:
        _say(f"cannot start {plan.path}: {error}")
    finally:
        os._exit(CANNOT_RUN)


def _plain_process() -> None:
    """Undo what an interpreter and a daemon have set and exec would hand on."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            try:
                signal.signal(number, signal.SIG_DFL)
            except OSError:
                # The C library keeps two of the real-time signals to itself.
                continue
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o022)


def _say(text: str) -> None:
    try:
        os.write(2, f"tinyport: {text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        # Nobody listens; the exit status says it, too.
        return
