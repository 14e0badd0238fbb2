"""Whose connection it is, where load balancers pass it on: who is asked, who is believed (docs/load-balancers.md)."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

from tinyport.core.errors import PeerError
from tinyport.core.forwarded import client_of, is_in
from tinyport.core.names import format_address
from tinyport.host.logging_line import Log
from tinyport.link.peeking import take_header
from tinyport.proxy.settings import Address, ProxySettings

#: seconds between two lines of the log about the same trouble
SAY_AGAIN = 10.0


class Balancers:
    """Those that the settings list. Nobody else's word is taken."""

    def __init__(self, settings: ProxySettings, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._said = 0.0

    def use(self, settings: ProxySettings) -> None:
        """Other lists, for connections and requests from now on."""
        self._settings = settings

    def announce(self, address: str) -> bool:
        """Do connections from there begin with a PROXY header?"""
        return is_in(address, self._settings.proxy_protocol_from)

    async def client(self, sock: socket.socket, peer: Address) -> Address | None:
        """Whose connection it is that a balancer at ``peer`` announces; its own when it says so. The header is taken
        away. None for a connection that is not to be served: without a good header it would be everybody's.
        """
        sock.setblocking(False)
        try:
            return (await take_header(sock)).source or peer
        except asyncio.TimeoutError:
            self.say(peer, "no PROXY header came in time")
        except PeerError as error:
            if error.code == "no_header" and is_in(peer[0], self._settings.forwarded_from):
                # One that speaks HTTP, at the address of one that does not.
                return peer
            self.say(peer, error)
        except OSError as error:
            self._log.debug("connection broke", peer=format_address(*peer), reason=error)
        return None

    def say(self, peer: Address, reason: object) -> None:
        """A balancer is not set up as the configuration says: for its operator to read, once in a while."""
        now = time.monotonic()
        if now - self._said > SAY_AGAIN:
            self._said = now
            self._log.warning("connection of a balancer refused", peer=format_address(*peer), reason=reason)

    def forwarded(self, peer: Address, field: Callable[[str], str | None]) -> Address:
        """The client of a request whose connection comes from ``peer``. ``field`` gives a header field by its
        lower-case name, its lines joined by commas.
        """
        settings = self._settings
        if not settings.forwarded_from:
            return peer
        value = field(settings.forwarded_header.lower())
        return peer if value is None else client_of(peer, settings.forwarded_header, value, settings.forwarded_from)
