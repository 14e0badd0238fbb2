"""Dial-back: TLS to the proxy on a socket that link connected, the ticket, and then SSH with us as the server.

docs/protocol/tunnel.md, "Dial-back". The ticket goes only to the proxy that asked for it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence

from tinyport.core.errors import PeerError
from tinyport.core.identity import Identity, from_peer_certificate
from tinyport.host.tls import client_context
from tinyport.link.tls_transport import SocketTransport

ALPN = "tinyport-dial"
# A ticket is good for ten seconds.
HANDSHAKE_LIMIT = 20.0


async def dial(
    protocol: asyncio.Protocol, stream: socket.socket, *, tls_cas: Sequence[str], proxy: Identity, ticket: str
) -> None:
    """Hand ``stream`` to ``protocol`` once the proxy at its other end is ``proxy`` and has the ticket.

    PeerError when it is somebody else; OSError (ssl.SSLError is one) and TimeoutError when it does not answer. The
    socket is closed then.
    """
    loop = asyncio.get_running_loop()
    stream.setblocking(False)
    # Identity is in the certificate's URI, checked below; there is no host name to compare.
    secure = client_context(tls_cas, alpn=[ALPN]).wrap_socket(stream, do_handshake_on_connect=False)
    try:
        await asyncio.wait_for(_handshake(loop, secure), HANDSHAKE_LIMIT)
        found = from_peer_certificate(secure.getpeercert())
        if found != proxy:
            raise PeerError("another proxy answered than the one that asked", detail=f"{found.uri}, not {proxy.uri}")
        # 65 bytes into an empty socket: they are taken whole or the connection is broken.
        secure.send(f"{ticket}\n".encode("ascii"))
    except BaseException:
        secure.close()
        raise
    # Not asyncio's own TLS transport: it keeps a buffer of 256 kB for each connection.
    SocketTransport(loop, secure, protocol).start()


async def _handshake(loop: asyncio.AbstractEventLoop, secure: ssl.SSLSocket) -> None:
    while True:
        try:
            secure.do_handshake()
            return
        except ssl.SSLWantReadError:
            await _ready(loop.add_reader, loop.remove_reader, secure)
        except ssl.SSLWantWriteError:
            await _ready(loop.add_writer, loop.remove_writer, secure)


async def _ready(
    watch: Callable[..., object], unwatch: Callable[[ssl.SSLSocket], object], secure: ssl.SSLSocket
) -> None:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    watch(secure, _wake, waiter)
    try:
        await waiter
    finally:
        unwatch(secure)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
