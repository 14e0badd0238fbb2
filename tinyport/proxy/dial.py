"""Dial-backs: one-time tickets, and the streams that nodes bring for them (docs/protocol/tunnel.md)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from tinyport.core.errors import PeerError, Unavailable
from tinyport.link.dial_notice import TICKET_LIFE
from tinyport.proxy.stream import Stream

# docs/protocol/tunnel.md: 64 hex digits and a newline.
TICKET_LINE = 65
_TICKET_BYTES = 32
# A silent client waits no longer than this for dial-backs of others. Who dials back has said something by then.
SETTLED_WITHIN = 10.0

_HEX = frozenset(b"0123456789abcdef")


def ticket_id(ticket: str) -> str:
    """The name under which a ticket may be spoken of: it does not open anything."""
    return hashlib.sha256(ticket.encode("ascii")).hexdigest()[:16]


class _Dial:
    __slots__ = ("node", "ticket", "waiter")

    def __init__(self, node: str, ticket: str, waiter: asyncio.Future[Stream]) -> None:
        self.node = node
        self.ticket = ticket
        self.waiter = waiter

    def fail(self, message: str) -> None:
        if not self.waiter.done():
            self.waiter.set_exception(
                Unavailable(message, code="offline", detail=f"dial-back of {self.node}", hint="try again")
            )


class Dials:
    """The open tickets of this proxy instance, each bound to the node it was sent to.

    Tickets are looked up by their SHA-256: how long a look-up takes says nothing about a ticket.
    """

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._open: dict[bytes, _Dial] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def dial(
        self, node: str, notify: Callable[[str], None], life: float = TICKET_LIFE, *, who: str = "the node"
    ) -> Stream:
        """Have a node dial back: the stream it brings, with an SSH server at its other end.

        ``node``: its UUID, or what else is bound to one tunnel; ``who``: in words. ``notify`` sends the notice with the
        ticket. Unavailable when it does not come within ``life`` seconds, or says why it cannot. However it ends, the
        ticket opens nothing afterwards.
        """
        loop = asyncio.get_running_loop()
        ticket = self._random_bytes(_TICKET_BYTES).hex()
        dial = _Dial(node, ticket, loop.create_future())
        self._open[_key(ticket)] = dial
        timer = loop.call_later(life, dial.fail, f"{who} did not dial back within {life:.0f} s")
        try:
            notify(ticket)
            return await dial.waiter
        except asyncio.CancelledError:
            if dial.waiter.done() and not dial.waiter.cancelled() and dial.waiter.exception() is None:
                # It came in the same moment as the client went.
                dial.waiter.result().abort()
            raise
        finally:
            timer.cancel()
            self._open.pop(_key(ticket), None)

    async def settled(self) -> None:
        """Wait until every ticket that is open now is used or void, but not for long. At once when there is none."""
        if self._open:
            await asyncio.wait([dial.waiter for dial in self._open.values()], timeout=SETTLED_WITHIN)

    def claim(self, line: bytes, stream: Stream) -> str:
        """A dialled-back connection said ``line`` first.

        Hand it to whoever waits for it, once. The node's UUID.

        PeerError when no open ticket reads so; the caller then closes the stream.
        """
        if len(line) != TICKET_LINE or line[-1:] != b"\n" or not _HEX.issuperset(line[:-1]):
            raise PeerError("not a ticket")
        dial = self._open.pop(_key(line[:-1].decode("ascii")), None)
        if dial is None or dial.waiter.done():
            raise PeerError("no such ticket", detail="unknown, used, or older than its life")
        dial.waiter.set_result(stream)
        return dial.node

    def failed(self, node: str, id: str, message: str) -> None:
        """A node says that its dial-back failed. It can speak only of tickets that were sent to it."""
        for dial in self._open.values():
            if dial.node == node and ticket_id(dial.ticket) == id:
                dial.fail(message)

    def fail_node(self, node: str, message: str) -> None:
        """The node's tunnel is gone: nobody will come with its tickets."""
        for dial in self._open.values():
            if dial.node == node:
                dial.fail(message)


def _key(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("ascii")).digest()
