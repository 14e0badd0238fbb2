"""Starting a session's process: its streams, a fork, and what runs in the child. The keeper's hands."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import NoReturn

from tinyport.host import pty
from tinyport.node.session_plan import Plan
from tinyport.node.session_process import Manner, run


@dataclass(frozen=True)
class Started:
    """``descriptors``: the pty's master, or standard input, output and error; the caller's to hand on and close.

    ``control``: the line to the process that holds a PAM session, whose ``pid`` this is then; None without PAM.
    """

    pid: int
    descriptors: tuple[int, ...]
    tty: str | None
    control: socket.socket | None = None


@dataclass(frozen=True)
class PamWish:
    """``host``: the peer's address."""

    service: str
    host: str


def start(plan: Plan, manner: Manner, pam: PamWish | None = None) -> Started:
    """Start it. OSError when there is no terminal, descriptor or process left."""
    if plan.terminal is not None:
        return _with_terminal(plan, manner, pam)
    ends: list[int] = []
    try:
        for _ in range(3):
            ends += os.pipe2(os.O_CLOEXEC)
        theirs = (ends[0], ends[3], ends[5])
        ours = (ends[1], ends[2], ends[4])
        pid, control = _fork(plan, manner, theirs, None, pam)
    except BaseException:
        for end in ends:
            os.close(end)
        raise
    for end in theirs:
        os.close(end)
    return Started(pid, ours, None, control)


def _with_terminal(plan: Plan, manner: Manner, pam: PamWish | None) -> Started:
    asked = plan.terminal
    assert asked is not None
    master, slave, path = pty.open_pair(plan.account.uid if manner.privileged else None)
    try:
        pty.set_size(slave, asked.columns, asked.rows, asked.width, asked.height)
        pty.apply_modes(slave, asked.modes)
        pid, control = _fork(plan, manner, (slave, slave, slave), path, pam)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    os.close(slave)
    return Started(pid, (master,), path, control)


def _fork(
    plan: Plan, manner: Manner, streams: tuple[int, int, int], tty: str | None, pam: PamWish | None
) -> tuple[int, socket.socket | None]:
    if pam is None:
        pid = os.fork()
        if pid == 0:
            _child(plan, manner, streams, tty, None, None)
        return pid, None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
    except BaseException:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        _child(plan, manner, streams, tty, pam, theirs)
    theirs.close()
    ours.setblocking(False)
    return pid, ours


def _child(
    plan: Plan,
    manner: Manner,
    streams: tuple[int, int, int],
    tty: str | None,
    pam: PamWish | None,
    control: socket.socket | None,
) -> NoReturn:
    environment = dict(plan.environment)
    if tty is not None:
        environment[b"SSH_TTY"] = os.fsencode(tty)
    if pam is not None and control is not None:
        from tinyport.node.session_holder import hold

        # "ssh" is what sshd tells modules that ask where a session without a terminal is.
        hold(
            plan,
            manner,
            streams,
            environment,
            service=pam.service,
            tty=tty or "ssh",
            host=pam.host,
            control=control,
        )
    run(plan, manner, streams, environment)
