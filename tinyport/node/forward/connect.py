"""Opening connections without waiting for any: names are looked up in threads, addresses tried in turn. Light."""

from __future__ import annotations

import _thread
import errno
import os
import socket
from collections import deque

from tinyport.node.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinyport.node.loop import Loop, Timer

# A thread for each name that is being looked up; resolvers take seconds to give up.
MAX_LOOKUPS = 8
# Of each address. Linux itself would try for two minutes, and a person has given up by then.
CONNECT_LIMIT = 20.0
# A unix listener whose backlog is full says so at once.
BUSY_PAUSE, BUSY_TRIES = 0.1, 50

#: family, socket address
Address = tuple[int, object]


class Connector:
    """``connected(request, socket)`` or ``failed(request, words)`` is called once for each request, maybe at once."""

    def __init__(
        self, loop: Loop, connected: Callable[[int, socket.socket], None], failed: Callable[[int, str], None]
    ) -> None:
        self._loop = loop
        self._connected = connected
        self._failed = failed
        self._names: deque[tuple[int, bytes, int]] = deque()
        self._lookups = 0
        #: what the threads found: (request, addresses or words)
        self._found: deque[tuple[int, Sequence[Address] | str]] = deque()
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        loop.add(self._wake_in, READ, self._looked_up)

    def connect(self, request: int, host: str, port: int) -> None:
        # As bytes: for a text, Python would load its IDNA code.
        name = host.encode("utf-8", "surrogateescape")
        try:
            addresses = _addresses(name, port, socket.AI_NUMERICHOST)
        except OSError:
            self._names.append((request, name, port))
            self._look_up()
            return
        self._try(request, addresses)

    def connect_path(self, request: int, path: str) -> None:
        self._try_path(request, path, BUSY_TRIES)

    # ------------------------------------------------------------------ names

    def _look_up(self) -> None:
        while self._names and self._lookups < MAX_LOOKUPS:
            request, name, port = self._names.popleft()
            self._lookups += 1
            try:
                _thread.start_new_thread(self._resolve, (request, name, port))
            except RuntimeError:
                self._lookups -= 1
                self._failed(request, "no thread is left to look a name up")

    def _resolve(self, request: int, name: bytes, port: int) -> None:
        """In a thread of its own."""
        try:
            self._found.append((request, _addresses(name, port, 0)))
        except (OSError, ValueError) as error:
            self._found.append((request, words(error) if isinstance(error, OSError) else "not a host name"))
        try:
            os.write(self._wake_out, b"x")
        except BlockingIOError:
            # Full: it will be read anyway.
            return

    def _looked_up(self, events: int) -> None:
        os.read(self._wake_in, 512)
        while self._found:
            request, found = self._found.popleft()
            self._lookups -= 1
            if isinstance(found, str):
                self._failed(request, found)
            else:
                self._try(request, found)
        self._look_up()

    # ------------------------------------------------------------------ addresses

    def _try(self, request: int, addresses: Sequence[Address]) -> None:
        """Connect to the first of these that answers; what the last one said otherwise."""
        problem = "no address"
        for number, (family, address) in enumerate(addresses):
            try:
                stream = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError as error:
                problem = words(error)
                continue
            code = stream.connect_ex(address)  # type: ignore[arg-type]
            if code == 0:
                self._done(request, stream)
                return
            if code == errno.EINPROGRESS:
                self._wait(request, stream, addresses[number + 1 :])
                return
            stream.close()
            problem = os.strerror(code)
        self._failed(request, problem)

    def _wait(self, request: int, stream: socket.socket, rest: Sequence[Address]) -> None:
        def settled(problem: str) -> None:
            timer.cancel()
            self._loop.remove(stream.fileno())
            if not problem:
                self._done(request, stream)
                return
            stream.close()
            if rest:
                self._try(request, rest)
            else:
                self._failed(request, problem)

        def ready(events: int) -> None:
            code = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            settled(os.strerror(code) if code else "")

        timer: Timer = self._loop.after(CONNECT_LIMIT, lambda: settled(os.strerror(errno.ETIMEDOUT)))
        self._loop.add(stream.fileno(), WRITE, ready)

    def _done(self, request: int, stream: socket.socket) -> None:
        if stream.family != socket.AF_UNIX:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connected(request, stream)

    def _try_path(self, request: int, path: str, tries: int) -> None:
        try:
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self._failed(request, words(error))
            return
        try:
            stream.connect(path)
        except BlockingIOError:
            stream.close()
            if not tries:
                self._failed(request, os.strerror(errno.ETIMEDOUT))
            else:
                self._loop.after(BUSY_PAUSE, lambda: self._try_path(request, path, tries - 1))
        except OSError as error:
            stream.close()
            self._failed(request, words(error))
        else:
            self._done(request, stream)


def _addresses(name: bytes, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def words(error: OSError) -> str:
    """What went wrong, as strerror or getaddrinfo say it."""
    return str(error.strerror or error)
