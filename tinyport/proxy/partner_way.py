"""The way to another cluster's proxy: by the pins of its TLS CA, through the environment's HTTP proxy if it names one,
and inside HTTP where a load balancer ends TLS before it (docs/protocol/tunnel.md).
"""

from __future__ import annotations

import asyncio
import socket
import ssl

from tinyport.core.errors import PeerError, TinyportError
from tinyport.host.tls import client_context
from tinyport.link.api import fetch_hello
from tinyport.link.front_asyncio import go_inside
from tinyport.link.http_proxy import open_connection, proxy_for
from tinyport.link.known_auth import believed
from tinyport.proxy.sockets import connect
from tinyport.proxy.stream import Stream

Address = tuple[str, int]

CONNECT_LIMIT = 10.0


class Way:
    """``connect`` as often as one likes; what was found out about the way is remembered."""

    def __init__(self, server: Address, pins: tuple[str, ...]) -> None:
        self.server = server
        self._pins = pins
        #: the TLS CAs that the pins have led to; [] when they are to be asked for
        self._cas: list[str] = []
        #: does TLS end at a balancer there, so that ours goes inside HTTP?
        self._inside = False

    async def connect(self, alpn: str, address: Address | None = None) -> Stream:
        """TLS to a proxy by the cluster's CAs. ``address``: one that an earlier connection went to. OSError,
        TinyportError, TimeoutError.
        """
        if not self._cas:
            hello = await asyncio.to_thread(fetch_hello, self.server)
            self._cas = believed(hello, self._pins)
        try:
            return await self._by_either(alpn, address or self.server)
        except ssl.SSLCertVerificationError:
            # Its CA may have been rotated: ask again, and follow the chain from the pin.
            self._cas = []
            raise

    async def _by_either(self, alpn: str, address: Address) -> Stream:
        if self._inside:
            try:
                return await self._by(alpn, address, inside=True)
            except (OSError, TinyportError, asyncio.TimeoutError):
                # The balancer may be gone.
                self._inside = False
                raise
        try:
            return await self._by(alpn, address, inside=False)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise
        except (ssl.SSLError, PeerError) as error:
            try:
                stream = await self._by(alpn, address, inside=True)
            except (OSError, TinyportError, asyncio.TimeoutError):
                # There is no proxy behind it either: what was wrong at first is what is wrong.
                raise error from None
            self._inside = True
            return stream

    async def _by(self, alpn: str, address: Address, *, inside: bool) -> Stream:
        sock = await asyncio.wait_for(_opened(address), CONNECT_LIMIT)
        peer = address
        if inside:
            sock = await asyncio.wait_for(go_inside(sock, address), CONNECT_LIMIT)
        elif proxy_for(address[0]) is None:
            # Its own address, not its name: another one behind that may be another proxy.
            peer = sock.getpeername()[:2]
        stream = Stream(asyncio.get_running_loop(), sock, peer)
        try:
            tls = await asyncio.wait_for(
                stream.secure(client_context(self._cas, alpn=[alpn]), server_side=False), CONNECT_LIMIT
            )
            if tls.selected_alpn_protocol() != alpn:
                raise PeerError("the other proxy does not take tunnels of clusters; is it of an older version?")
        except BaseException:
            stream.abort()
            raise
        return stream


async def _opened(address: Address) -> socket.socket:
    """A connected socket, through the environment's HTTP proxy if it names one."""
    if proxy_for(address[0]) is None:
        return await connect(*address)
    opening = asyncio.get_running_loop().run_in_executor(None, open_connection, address, CONNECT_LIMIT)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda done: None if done.exception() else done.result().close())
        raise
