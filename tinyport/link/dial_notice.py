"""A notice that asks for a dial-back, as it comes through a tunnel (docs/protocol/tunnel.md), and how many may come.

Light: link loads it.
"""

from __future__ import annotations

import hashlib

from tinyport.core.errors import PeerError
from tinyport.core.names import parse_address

TICKET_DIGITS = 64
TICKET_LIFE = 30.0

_HEX = frozenset("0123456789abcdef")


class Bucket:
    """A token bucket: ``take`` says whether one more is allowed now."""

    __slots__ = ("_left", "_most", "_rate", "_when")

    def __init__(self, most: float, rate: float, now: float) -> None:
        self._most = self._left = most
        self._rate = rate
        self._when = now

    def take(self, now: float) -> bool:
        self._left = min(self._most, self._left + (now - self._when) * self._rate)
        self._when = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Notice:
    """A dial notice, checked. ``client``: the address that the proxy says the user comes from."""

    __slots__ = ("client", "ticket")

    def __init__(self, message: dict[str, object]) -> None:
        ticket, client = message.get("ticket"), message.get("client")
        if not isinstance(ticket, str) or len(ticket) != TICKET_DIGITS or not _HEX.issuperset(ticket):
            raise PeerError("malformed dial notice: ticket")
        if not isinstance(client, str):
            raise PeerError("malformed dial notice: client")
        self.ticket = ticket
        self.client = parse_address(client)

    @property
    def id(self) -> str:
        """The name under which the ticket may be spoken of; as the proxy's ``dial.ticket_id``."""
        return hashlib.sha256(self.ticket.encode("ascii")).hexdigest()[:16]
