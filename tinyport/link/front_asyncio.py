"""A connection to a proxy behind a load balancer that ends TLS, for asyncio (tunnel.md, "Inside HTTP")."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from tinyport.core.errors import TinyportError
from tinyport.link.front_relay import Front
from tinyport.link.tlsstream import READ, WRITE


class _Loop:
    """asyncio's, as a relay needs one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def add(self, source: int, events: int, call: Callable[[int], None]) -> None:
        if events & READ:
            self._loop.add_reader(source, call, READ)
        else:
            self._loop.remove_reader(source)
        if events & WRITE:
            self._loop.add_writer(source, call, WRITE)
        else:
            self._loop.remove_writer(source)

    def remove(self, source: int) -> None:
        self._loop.remove_reader(source)
        self._loop.remove_writer(source)


async def go_inside(plain: socket.socket, address: tuple[str, int]) -> socket.socket:
    """A connection in HTTP to the proxy behind ``address``, over ``plain``, which is connected there and is the relay's
    from now on. Unavailable when nobody answers, PeerError when no proxy is there; the caller sets the time limit.
    """
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[socket.socket] = loop.create_future()

    def done(stream: socket.socket | None, error: TinyportError | None) -> None:
        if stream is not None:
            opened.set_result(stream)
        elif error is not None:
            opened.set_exception(error)

    relay = Front(_Loop(loop), plain, address, done)
    try:
        return await opened
    except asyncio.CancelledError:
        if opened.done() and not opened.cancelled() and opened.exception() is None:
            # It came in the same moment.
            opened.result().close()
        relay.cancel()
        raise
