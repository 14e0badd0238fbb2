"""A connection to a proxy behind a load balancer that ends TLS, for who may block (tunnel.md, "Inside HTTP")."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable

from tinyport.core.errors import TinyportError, Unavailable
from tinyport.core.names import format_address
from tinyport.link.front_relay import Front
from tinyport.link.http_proxy import open_connection


class _Loop:
    """Waits for the two sockets of a relay, and ends with them."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, source: int, events: int, call: Callable[[int], None]) -> None:
        try:
            self._selector.modify(source, events, call)
        except KeyError:
            self._selector.register(source, events, call)

    def remove(self, source: int) -> None:
        try:
            self._selector.unregister(source)
        except (KeyError, ValueError):
            return

    def run(self) -> None:
        with self._selector as selector:
            while selector.get_map():
                for key, events in selector.select():
                    # The callback before may have ended it.
                    if key.fd in selector.get_map():
                        key.data(events)


def open_inside(address: tuple[str, int], timeout: float) -> socket.socket:
    """A connection to the proxy behind ``address``. OSError or Unavailable when nobody answers, PeerError when no proxy
    is there.
    """
    plain = open_connection(address, timeout)
    opened: list[socket.socket | TinyportError] = []
    ready = threading.Event()

    def done(stream: socket.socket | None, error: TinyportError | None) -> None:
        opened.append(stream if stream is not None else error or Unavailable("it broke"))
        ready.set()

    def relay() -> None:
        loop = _Loop()
        Front(loop, plain, address, done)
        loop.run()

    # It ends with the connection, and with the process.
    threading.Thread(target=relay, daemon=True).start()
    if not ready.wait(timeout):
        # Whatever it still waits for ends by that.
        plain.shutdown(socket.SHUT_RDWR)
        raise Unavailable(f"{format_address(*address)} does not answer", hint="try again in a moment")
    found = opened[0]
    if isinstance(found, TinyportError):
        raise found
    found.settimeout(timeout)
    return found
