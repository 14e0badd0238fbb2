"""Processes of the keeper's that are forked before somebody wants a session, and become one then.

Copying the keeper's page tables and the pages that both then write to is half of what it costs to start a command; so
that is done after a session's start, while nobody waits. A spare one is the keeper's own child, as others are: it is
waited for, signalled and reported in the same way. It hears one message, the order, and ends when the keeper does.
"""

from __future__ import annotations

import array
import marshal
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from tinyport.host.accounts import Account
from tinyport.host.logging_line import Log
from tinyport.host.login_records import LastLogin
from tinyport.node.loop import Loop
from tinyport.node.session.plan import Plan, Terminal
from tinyport.node.session.process import CANNOT_RUN, Manner, apart, plain_process, say

#: seconds after a session's start: the command has the processor first, and most have ended by then
PAUSE = 0.025
# The pages that keeper and children both write to are copied once for all of them.
AT_ONCE = 3
# They cost 1 MB each, so they are for those who start one command after the other, and as long as they do. A slow board
# needs two seconds for each connection.
HURRY = 10.0
# What does not fit (a command has up to 128 KiB) is started by a fork of its own.
MAX_ORDER = 64 * 1024
_INT = array.array("i").itemsize


@dataclass(frozen=True)
class PamWish:
    """``host``: the peer's address."""

    service: str
    host: str


@dataclass(frozen=True)
class Order:
    """What a session's process is told. ``tty``: the path of its terminal, if it has one."""

    plan: Plan
    manner: Manner
    tty: str | None
    pam: PamWish | None


_NOTHING = Order(
    Plan(Account("", 0, 0, (), "", ""), "", (), {}, None, "", ""), Manner(privileged=False), tty=None, pam=None
)
#: in the child: (order, its three streams, the line to the keeper)
Obey = Callable[[Order, tuple[int, int, int], socket.socket], NoReturn]


class Spare:
    """``take`` uses one; ``started`` tells that there was use for one; ``drop`` lets all go."""

    def __init__(self, loop: Loop, obey: Obey, log: Log) -> None:
        self._loop = loop
        self._obey = obey
        self._log = log
        #: pid → the line to it
        self._ready: dict[int, socket.socket] = {}
        #: monotonic time of the last session's start
        self._last = -HURRY
        self._coming = False
        self._looking = False

    def take(self, order: Order, streams: tuple[int, int, int]) -> tuple[int, socket.socket] | None:
        """The order's process and the line to it, both the caller's from now on; None when there is no spare one, or
        it cannot have this order. ``streams`` stay the caller's.
        """
        if not self._ready:
            return None
        data = packed(order)
        if len(data) > MAX_ORDER:
            return None
        pid, line = self._ready.popitem()
        try:
            _tell(line, data, streams)
        except OSError as error:
            # Somebody has killed it.
            self._log.debug("a spare process is gone", reason=error)
            line.close()
            return None
        return pid, line

    def started(self) -> None:
        """A session was: if the one before it was not long ago, another may follow soon."""
        hurry = time.monotonic() - self._last < HURRY
        self._last = time.monotonic()
        if hurry and not self._ready and not self._coming:
            self._coming = True
            self._loop.after(PAUSE, self._fork)

    def drop(self) -> None:
        """End those that wait: what they are copies of has changed."""
        for line in self._ready.values():
            line.close()
        self._ready.clear()

    def _look(self) -> None:
        rest = self._last + HURRY - time.monotonic()
        if rest <= 0:
            self._looking = False
            self.drop()
        else:
            self._loop.after(rest, self._look)

    def _fork(self) -> None:
        self._coming = False
        try:
            while len(self._ready) < AT_ONCE:
                self._fork_one()
        except OSError as error:
            self._log.debug("no spare process", reason=error)
        if self._ready and not self._looking:
            self._looking = True
            self._loop.after(HURRY, self._look)

    def _fork_one(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                _wait(theirs, self._obey)
        ours.setblocking(False)
        self._ready[pid] = ours
        self._loop.child(pid, lambda status: self._ended(pid))

    def _ended(self, pid: int) -> None:
        # Whoever has taken it waits for it instead.
        line = self._ready.pop(pid, None)
        if line is not None:
            line.close()


def _wait(line: socket.socket, obey: Obey) -> NoReturn:
    """In the child: until there is an order, or no keeper."""
    status = CANNOT_RUN
    try:
        _rehearse()
        apart({line.fileno()}, "tinyport-spare")
        heard = _hear(line)
        if heard is not None:
            obey(*heard, line)
        status = 0
    except BaseException as error:
        say(f"error: a session could not be started: {type(error).__name__}: {error}")
    finally:
        os._exit(status)


def _hear(line: socket.socket) -> tuple[Order, tuple[int, int, int]] | None:
    """The order and its streams; None when there is no keeper any more."""
    data, ancillary, _, _ = line.recvmsg(MAX_ORDER, socket.CMSG_SPACE(3 * _INT), socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    streams = array.array("i")
    for _, _, rights in ancillary:
        streams.frombytes(rights)
    first, second, third = streams
    return unpacked(data), (first, second, third)


def _rehearse() -> None:
    """Take an order that means nothing. What is written to for the first time after a fork is a page to be copied, 70
    of them for this: now nobody waits for them.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        _tell(ours, packed(_NOTHING), (ours.fileno(),) * 3)
        heard = _hear(theirs)
    assert heard is not None
    for stream in heard[1]:
        os.close(stream)
    plain_process(keeps_umask=True)


def _tell(line: socket.socket, data: bytes, streams: tuple[int, int, int]) -> None:
    line.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))])


def packed(order: Order) -> bytes:
    """An order for the same program's other process: never for anybody else."""
    plan, manner, pam = order.plan, order.manner, order.pam
    terminal, last = plan.terminal, manner.last
    told = (
        {
            **vars(plan),
            "account": vars(plan.account),
            "environment": dict(plan.environment),
            "terminal": None if terminal is None else {**vars(terminal), "modes": dict(terminal.modes)},
        },
        {
            **vars(manner),
            "last": None if last is None else vars(last),
            "groups": None if manner.groups is None else tuple(manner.groups),
        },
        order.tty,
        None if pam is None else vars(pam),
    )
    return marshal.dumps(told)


def unpacked(data: bytes) -> Order:
    """What ``packed`` made."""
    plan, manner, tty, pam = marshal.loads(data)  # noqa: S302 - the keeper's own word
    plan.update(account=Account(**plan["account"]), terminal=_made(Terminal, plan["terminal"]))
    manner["last"] = _made(LastLogin, manner["last"])
    return Order(Plan(**plan), Manner(**manner), tty, _made(PamWish, pam))


def _made(kind: Callable[..., Any], fields: dict[str, Any] | None) -> Any:
    return None if fields is None else kind(**fields)
