"""Opening TCP connections without waiting for them: names, several addresses, ``HTTPS_PROXY``. Light: link loads it."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket

from tinyport.core.errors import TinyportError, Unavailable
from tinyport.core.names import format_address
from tinyport.link.front_relay import Front
from tinyport.link.http_proxy import connect_request, connected_through
from tinyport.node.loop import READ, WRITE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Address = tuple[str, int]
    Done = Callable[[socket.socket | None, TinyportError | None], None]

RESOLVE_LIMIT = 15.0
CONNECT_LIMIT = 10.0
# Where no other address is left to be tried: the first packet is sent again after 1, 3, 7 and 15 s.
LAST_LIMIT = 20.0
MAX_TARGETS = 8
_MAX_ANSWER = 64 * 1024


class Connect:
    """One attempt to open a connection. Calls ``done(socket, None)`` or ``done(None, error)`` once, unless cancelled.

    Names are looked up in a forked child, because ``getaddrinfo`` blocks for as long as a broken network likes, and
    this loop also serves the people on the LAN meanwhile. ``inside``: TLS ends before the proxy there; the socket is
    one that leads to the proxy inside of it (link.front_relay).
    """

    def __init__(
        self, loop: Loop, address: Address, done: Done, *, via: Address | None = None, inside: bool = False
    ) -> None:
        self._loop = loop
        self._done: Done | None = done
        self._address = address
        self._via = via
        self._inside = inside
        self._front: Front | None = None
        self._socket: socket.socket | None = None
        self._answer = -1
        self._child = 0
        self._targets: list[Address] = []
        self._held = bytearray()
        self._reason = "no answer"
        self._timer = loop.after(RESOLVE_LIMIT, self._expired)
        host, port = via or address
        if _is_numeric(host):
            loop.after(0, lambda: self._resolved([(host, port)]))
        else:
            self._resolve(host, port)

    @property
    def _where(self) -> str:
        return format_address(*self._address)

    def cancel(self) -> None:
        """Stop; ``done`` is not called any more."""
        self._done = None
        self._clear()

    # ------------------------------------------------------------------ names

    def _resolve(self, host: str, port: int) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError as error:
            os.close(reading)
            os.close(writing)
            problem = Unavailable(f"cannot look up {host}", detail=str(error))
            self._loop.after(0, lambda: self._fail(problem))
            return
        if pid == 0:
            _look_up(host, port, writing)
        os.close(writing)
        self._answer, self._child = reading, pid
        self._loop.child(pid, lambda status: None)
        self._loop.add(reading, READ, self._hear)

    def _hear(self, events: int) -> None:
        piece = os.read(self._answer, 4096)
        self._held += piece
        if piece and len(self._held) <= _MAX_ANSWER:
            return
        self._close_answer()
        try:
            answer = json.loads(bytes(self._held))
        except ValueError:
            answer = "the look-up failed"
        self._held = bytearray()
        if isinstance(answer, list) and answer:
            self._resolved([(str(host), int(port)) for host, port in answer[:MAX_TARGETS]])
        else:
            self._fail(Unavailable(f"cannot reach {self._where}: no such host", detail=str(answer)))

    def _close_answer(self) -> None:
        if self._answer >= 0:
            self._loop.remove(self._answer)
            os.close(self._answer)
            self._answer = -1

    # ------------------------------------------------------------------ addresses

    def _resolved(self, targets: list[Address]) -> None:
        if self._done is not None:
            self._targets = targets
            self._next()

    def _next(self) -> None:
        self._drop_socket()
        if not self._targets:
            self._fail(Unavailable(f"cannot reach {self._where}: {self._reason}"))
            return
        host, port = self._targets.pop(0)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            self._refused(error.errno or 0)
            return
        self._socket = opened
        self._timer.cancel()
        self._timer = self._loop.after(CONNECT_LIMIT if self._targets else LAST_LIMIT, self._expired)
        code = opened.connect_ex((host, port))
        if code not in (0, errno.EINPROGRESS):
            self._refused(code)
            return
        self._loop.add(opened.fileno(), WRITE, self._connected)

    def _refused(self, code: int) -> None:
        self._reason = os.strerror(code).lower()
        self._next()

    def _expired(self) -> None:
        if self._socket is not None and self._targets:
            self._next()
        else:
            self._fail(Unavailable(f"cannot reach {self._where}: no answer"))

    def _connected(self, events: int) -> None:
        opened = self._socket
        assert opened is not None
        code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._refused(code)
            return
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._via is None:
            self._finish()
            return
        # 100 bytes fit the empty buffer of a new connection.
        opened.send(connect_request(self._where))
        self._loop.add(opened.fileno(), READ, self._proxied)

    def _proxied(self, events: int) -> None:
        opened = self._socket
        assert opened is not None
        try:
            piece = opened.recv(4096)
            self._held += piece
            if not connected_through(self._held, self._where):
                if not piece:
                    raise Unavailable("the HTTP proxy closed the connection")
                return
        except BlockingIOError:
            return
        except TinyportError as error:
            self._fail(error)
        except OSError as error:
            self._fail(Unavailable("the HTTP proxy closed the connection", detail=str(error)))
        else:
            self._finish()

    # ------------------------------------------------------------------ ends

    def _finish(self) -> None:
        opened, self._socket = self._socket, None
        assert opened is not None
        self._loop.remove(opened.fileno())
        if not self._inside:
            self._deliver(opened, None)
            return
        self._timer.cancel()
        self._timer = self._loop.after(CONNECT_LIMIT, self._expired)
        try:
            self._front = Front(self._loop, opened, self._address, self._deliver)
        except OSError as error:
            opened.close()
            self._fail(Unavailable("the connection broke", detail=str(error)))

    def _deliver(self, opened: socket.socket | None, error: TinyportError | None) -> None:
        # From here on it relays by itself.
        self._front = None
        done, self._done = self._done, None
        self._clear()
        if done is not None:
            done(opened, error)
        elif opened is not None:
            opened.close()

    def _fail(self, error: TinyportError) -> None:
        done, self._done = self._done, None
        self._clear()
        if done is not None:
            done(None, error)

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _clear(self) -> None:
        self._timer.cancel()
        if self._front is not None:
            self._front.cancel()
            self._front = None
        if self._answer >= 0:
            self._loop.kill(self._child, signal.SIGKILL)
        self._close_answer()
        self._drop_socket()


def _is_numeric(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return True
    return False


def _look_up(host: str, port: int, writing: int) -> None:
    """In the child: write what is found, and end."""
    answer: object = "the look-up failed"
    try:
        try:
            # As bytes: for text the idna codec would be imported, and link may not be able to read it any more.
            found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
            answer = list(dict.fromkeys((str(entry[4][0]), int(entry[4][1])) for entry in found))[:MAX_TARGETS]
        except (OSError, UnicodeError) as error:
            answer = str(error)
        os.write(writing, json.dumps(answer).encode())
    finally:
        # Whatever happens: a copy of link must not go on running.
        os._exit(0)
