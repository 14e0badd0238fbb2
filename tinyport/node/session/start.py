"""Starting a session's process: its streams, a child, and what runs in it. The keeper's hands."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from typing import NoReturn

from tinyport.host import pty
from tinyport.node.session.process import run
from tinyport.node.session.spare import Order, Spare


@dataclass(frozen=True)
class Started:
    """``descriptors``: the pty's master, or standard input, output and error; the caller's to hand on and close.

    ``control``: the line to the process that holds a PAM session, whose ``pid`` this is then; None without PAM.
    """

    pid: int
    descriptors: tuple[int, ...]
    tty: str | None
    control: socket.socket | None = None


def start(order: Order, spare: Spare | None = None) -> Started:
    """Start it, in the spare process if there is one. OSError when there is no terminal, descriptor or process left."""
    if order.plan.terminal is not None:
        return _with_terminal(order, spare)
    ends: list[int] = []
    try:
        for _ in range(3):
            ends += os.pipe2(os.O_CLOEXEC)
        theirs = (ends[0], ends[3], ends[5])
        ours = (ends[1], ends[2], ends[4])
        pid, control = _child(order, theirs, spare)
    except BaseException:
        for end in ends:
            os.close(end)
        raise
    for end in theirs:
        os.close(end)
    return Started(pid, ours, None, control)


def _with_terminal(order: Order, spare: Spare | None) -> Started:
    asked = order.plan.terminal
    assert asked is not None
    master, slave, path = pty.open_pair(order.plan.account.uid if order.manner.privileged else None)
    try:
        pty.set_size(slave, asked.columns, asked.rows, asked.width, asked.height)
        pty.apply_modes(slave, asked.modes)
        pid, control = _child(replace(order, tty=path), (slave, slave, slave), spare)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    os.close(slave)
    return Started(pid, (master,), path, control)


def _child(order: Order, streams: tuple[int, int, int], spare: Spare | None) -> tuple[int, socket.socket | None]:
    """Its pid and, with PAM, the line to it."""
    taken = None if spare is None else spare.take(order, streams)
    if taken is not None:
        pid, line = taken
        if order.pam is not None:
            return pid, line
        # It reads what it was sent all the same.
        line.close()
        return pid, None
    if order.pam is None:
        pid = os.fork()
        if pid == 0:
            obey(order, streams, None)
        return pid, None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
    except BaseException:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        obey(order, streams, theirs)
    theirs.close()
    ours.setblocking(False)
    return pid, ours


def obey(order: Order, streams: tuple[int, int, int], control: socket.socket | None) -> NoReturn:
    """In a child of the keeper: become the session, or with PAM the process that holds it."""
    plan, pam = order.plan, order.pam
    environment = dict(plan.environment)
    if order.tty is not None:
        environment[b"SSH_TTY"] = os.fsencode(order.tty)
    if pam is not None and control is not None:
        from tinyport.node.session.holder import hold

        # "ssh" is what sshd tells modules that ask where a session without a terminal is.
        hold(
            plan,
            order.manner,
            streams,
            environment,
            service=pam.service,
            tty=order.tty or "ssh",
            host=pam.host,
            control=control,
        )
    run(plan, order.manner, streams, environment)
