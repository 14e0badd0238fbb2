"""Strangers who connect to the node's own port, until they said ``SSH-``. Light: link loads it.

Nothing of theirs is parsed. Scanners, TLS and garbage wake nothing: a connection goes on only after ``SSH-``, or after
a second of silence (RFC 4253 section 4.2 lets a client wait for the server's version first).
"""

from __future__ import annotations

import errno
import socket

from tinyport.core.sources import source_of
from tinyport.node.link.penalties import REFUSAL_LINE
from tinyport.node.loop import READ, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyport.host.logging_line import Log
    from tinyport.node.link.penalties import Penalties
    from tinyport.node.loop import Timer

SILENCE = 1.0
# OpenSSH's MaxStartups is 10:30:100. These wait for a second at most, so the numbers bound a burst, not a service.
MAX_WAITING = 64
MAX_PER_SOURCE = 16
# Accepted in one turn of the loop: a burst must not wait in the kernel, nor everybody else for it.
ACCEPTS_PER_TURN = 16
_HELLO = b"SSH-"
#: no more descriptors or memory: leave the queue to the kernel for a while
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def _refuse(stream: socket.socket) -> None:
    try:
        stream.send(REFUSAL_LINE)
    except OSError:
        # It has gone already.
        pass
    stream.close()


class _Waiting:
    __slots__ = ("source", "stream", "timer")

    def __init__(self, stream: socket.socket, source: str, timer: Timer) -> None:
        self.stream = stream
        self.source = source
        self.timer = timer


class Doorway:
    """Accepts, waits for ``SSH-``, and calls ``pass_on(socket)``, which then owns the socket."""

    def __init__(
        self,
        loop: Loop,
        listeners: list[socket.socket],
        pass_on: Callable[[socket.socket], None],
        penalties: Penalties,
        log: Log,
    ) -> None:
        self._loop = loop
        self._listeners = listeners
        self._pass_on = pass_on
        self._penalties = penalties
        self._log = log
        #: descriptor → who waits; in the order of arrival
        self._waiting: dict[int, _Waiting] = {}

    def open(self) -> None:
        for listener in self._listeners:
            listener.setblocking(False)
            self._listen(listener)

    def close(self) -> None:
        for listener in self._listeners:
            self._loop.remove(listener.fileno())
            listener.close()
        for number in list(self._waiting):
            self._drop(number)

    def _listen(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add(listener.fileno(), READ, lambda events: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if not self._accept_one(listener):
                return

    def _accept_one(self, listener: socket.socket) -> bool:
        """Is there perhaps another?"""
        try:
            stream, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return False
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                # accept(2): errors of the new connection come out here, too, and are no matter of the listener's.
                return False
            self._log.warning("cannot accept connections for a second", reason=error)
            self._loop.remove(listener.fileno())
            self._loop.after(1.0, lambda: self._listen(listener))
            return False
        stream.setblocking(False)
        if self._penalties.refuses(str(address[0])):
            _refuse(stream)
            return True
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        source = source_of(str(address[0]))
        self._make_room(source)
        number = stream.fileno()
        timer = self._loop.after(SILENCE, lambda: self._silent(number))
        self._waiting[number] = _Waiting(stream, source, timer)
        self._loop.add(number, READ, lambda events: self._spoke(number))
        return True

    def _make_room(self, source: str) -> None:
        """The oldest goes: a newcomer who is honest speaks within milliseconds."""
        same = [number for number, waiting in self._waiting.items() if waiting.source == source]
        if len(same) >= MAX_PER_SOURCE:
            self._drop(same[0])
        elif len(self._waiting) >= MAX_WAITING:
            self._drop(next(iter(self._waiting)))

    def _spoke(self, number: int) -> None:
        first = self._peek(number)
        if first == _HELLO:
            self._pass(number)
        elif not first or not _HELLO.startswith(first):
            self._drop(number)
        else:
            # A part of it. Readable already, so the selector would not tell when more comes: look again at the end.
            self._loop.remove(number)

    def _silent(self, number: int) -> None:
        waiting = self._waiting[number]
        try:
            first = waiting.stream.recv(len(_HELLO), socket.MSG_PEEK)
        except BlockingIOError:
            self._pass(number)
            return
        except OSError:
            first = b""
        if first == _HELLO:
            self._pass(number)
        else:
            self._drop(number)

    def _peek(self, number: int) -> bytes:
        try:
            return self._waiting[number].stream.recv(len(_HELLO), socket.MSG_PEEK)
        except OSError:
            return b""

    def _take(self, number: int) -> socket.socket:
        waiting = self._waiting.pop(number)
        waiting.timer.cancel()
        self._loop.remove(number)
        return waiting.stream

    def _pass(self, number: int) -> None:
        self._pass_on(self._take(number))

    def _drop(self, number: int) -> None:
        self._take(number).close()

    def __len__(self) -> int:
        return len(self._waiting)
