"""Accepting connections, so many and no more, and closing those that say nothing.

What a proxy of the cluster passes on begins with whose connection it is (docs/protocol/api.md, "Introductions").

asyncio's own servers accept without end and wait for a first request for ever. Here a connection takes one of
``most`` places before its handshake, which has ten seconds, and has fifteen more for its first request.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from tinyport.auth.callers import peer_uid
from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.proxy_protocol import SIGNATURE, Announced
from tinyport.host.logging_line import Log
from tinyport.link.peeking import readable, take_header

HANDSHAKE_SECONDS = 10.0
FIRST_REQUEST_SECONDS = 15.0
_FULL_WAIT = 0.1
_BACKLOG = 512


class Listener:
    """Serves accepted connections by ``server`` until ``close``. ``heard`` is to be told of each request's protocol.
    ``sources`` is told where introduced connections come from: ``introduced`` is the address that a header is believed
    for; PeerError when it is not."""

    def __init__(
        self,
        server: web.Server,
        most: int,
        sources: dict[int, str],
        introduced: Callable[[Announced], str],
        log: Log,
    ) -> None:
        self._server = server
        self._most = most
        self._sources = sources
        self._introduced = introduced
        self._log = log
        self._shaking: set[asyncio.Task[None]] = set()
        self._accepting: list[asyncio.Task[None]] = []
        #: connections that have not asked anything yet
        self._silent: set[object] = set()

    def heard(self, protocol: object) -> None:
        self._silent.discard(protocol)

    def listen_tls(self, listening: socket.socket, context: Callable[[], ssl.SSLContext]) -> None:
        """Accept on a listening TCP socket; ``context`` is asked for each connection, as leafs are renewed."""
        self._accepting.append(asyncio.ensure_future(self._accept(listening, context)))

    def listen_unix(self, listening: socket.socket) -> None:
        """Accept on a listening unix socket: us and root, nobody else."""
        self._accepting.append(asyncio.ensure_future(self._accept(listening, None)))

    async def _accept(self, listening: socket.socket, context: Callable[[], ssl.SSLContext] | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if len(self._server.connections) + len(self._shaking) >= self._most:
                await asyncio.sleep(_FULL_WAIT)
                continue
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED):
                    raise
                self._log.warning("cannot accept a connection", error=error)
                await asyncio.sleep(_FULL_WAIT)
                continue
            connection.setblocking(False)
            task = asyncio.ensure_future(self._start(connection, context))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def _start(self, connection: socket.socket, context: Callable[[], ssl.SSLContext] | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            if context is None:
                uid = peer_uid(connection)
                if uid not in (0, os.geteuid()):
                    self._log.warning("refused a process of another user on the unix socket", uid=uid)
                    connection.close()
                    return
                transport, protocol = await loop.connect_accepted_socket(self._server, connection)
            else:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await self._learn_source(connection)
                transport, protocol = await loop.connect_accepted_socket(
                    self._server, connection, ssl=context(), ssl_handshake_timeout=HANDSHAKE_SECONDS
                )
        except (OSError, PeerError, asyncio.TimeoutError) as error:
            # ssl.SSLError is an OSError. Scanners do this all day.
            self._log.debug("a connection was not made", error=error)
            connection.close()
            return
        self._silent.add(protocol)
        loop.call_later(FIRST_REQUEST_SECONDS, self._still_silent, transport, protocol)

    async def _learn_source(self, connection: socket.socket) -> None:
        """Take the introduction away that stands before the TLS of what a proxy passes on.

        One that proves nothing changes nothing: whoever sends it is where the kernel says, as if it were not there. So
        a proxy that still has the key of an earlier run of auth is served, too.
        """
        number = connection.fileno()
        self._sources.pop(number, None)
        if not await readable(connection, HANDSHAKE_SECONDS):
            raise PeerError("said nothing")
        if connection.recv(1, socket.MSG_PEEK) != SIGNATURE[:1]:
            return
        said = await take_header(connection)
        try:
            self._sources[number] = self._introduced(said)
        except PeerError as error:
            self._log.info("an introduction is not believed", reason=error)

    def _still_silent(self, transport: asyncio.BaseTransport, protocol: object) -> None:
        if protocol in self._silent:
            self._silent.discard(protocol)
            if isinstance(transport, asyncio.Transport):
                transport.abort()

    def cut(self) -> None:
        """Close every connection that came by TLS, whatever it waits for."""
        for protocol in list(self._server.connections):
            transport = protocol.transport
            if isinstance(transport, asyncio.Transport) and transport.get_extra_info("sslcontext") is not None:
                transport.abort()

    async def close(self) -> None:
        """Accept nothing more. Connections that are open are the server's to close."""
        tasks = [*self._accepting, *self._shaking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def bind_tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket. OperatorError when the port is taken or not ours to have."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OperatorError(f"auth cannot listen on {host}:{port}: {error.strerror or error}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "[::]" is meant as "everywhere".
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        hint = ""
        if error.errno == errno.EADDRINUSE:
            hint = f'another program has the port: see "ss -ltnp sport = {port}", or change auth.listen'
        raise OperatorError(f"auth cannot listen on {host}:{port}: {error.strerror}", hint=hint) from None
    return listening


def bind_unix(path: Path) -> socket.socket:
    """A listening unix socket of mode 0600, in place of one that a killed server left. The folder is 0700."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if path.exists():
            path.unlink()
        # sun_path has 108 bytes; by way of the folder's descriptor a data_dir may be as deep as it likes.
        listening.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.chmod(path, 0o600)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise OperatorError(f"auth cannot make its socket {path}: {error.strerror}") from None
    finally:
        os.close(folder)
    return listening
