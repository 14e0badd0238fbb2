"""The keeper's line to link: connections and documents come in, audit events go out. See docs/protocol/node.md."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tinyport.core.errors import PeerError
from tinyport.host.logging_line import Log
from tinyport.node.ipc import Channel
from tinyport.node.keeper import fields
from tinyport.node.keeper.connection import Endpoint
from tinyport.node.loop import READ, WRITE, Loop

# Events of a busy minute; link spools them, so they wait here only while it is busy itself.
MAX_QUEUED = 4096


class LinkLine:
    """Owns the channel. ``heard`` gets each message with its descriptors, which are closed afterwards unless it took
    them out of the list; ``lost`` is called when the other end has ended.
    """

    def __init__(
        self,
        loop: Loop,
        channel: Channel,
        heard: Callable[[dict[str, object], list[int]], None],
        lost: Callable[[], None],
        log: Log,
    ) -> None:
        self._loop = loop
        self._channel: Channel | None = channel
        self._heard = heard
        self._lost = lost
        self._log = log
        self._watch()

    def tell(self, message: Mapping[str, object], descriptors: Sequence[int] = ()) -> bool:
        """Send, with copies of descriptors, or say that it could not be sent."""
        if self._channel is None:
            return False
        try:
            self._channel.send(message, descriptors)
        except OSError:
            return False
        self._watch()
        return True

    def replace(self, channel: Channel) -> None:
        """Another link's line, after the one before was lost."""
        self.close()
        self._channel = channel
        self._watch()

    def close(self) -> None:
        """Close our end, so that the monitor knows that we are leaving."""
        if self._channel is None:
            return
        channel, self._channel = self._channel, None
        try:
            channel.flush()
        except OSError as error:
            self._log.warning("link did not hear everything", reason=error)
        self._loop.remove(channel.fileno())
        channel.close()

    def _watch(self) -> None:
        if self._channel is not None:
            events = READ | (WRITE if self._channel.wants_write else 0)
            self._loop.add(self._channel.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            if events & WRITE:
                channel.flush()
            received = channel.receive() if events & READ else ({}, [])
        except BlockingIOError:
            return
        except (PeerError, OSError) as error:
            self._log.error("the line to link broke", reason=error)
            received = None
        if received is None:
            self.close()
            self._lost()
            return
        message, descriptors = received
        try:
            if message:
                self._heard(message, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._watch()


@dataclass(frozen=True)
class Arrival:
    """A ``conn`` message. ``dial``: what a dial needs besides, by name (ticket, proxy, server)."""

    endpoint: Endpoint
    dial: Mapping[str, str]


def parse_arrival(message: Mapping[str, object], stream: socket.socket) -> Arrival:
    """PeerError when link sent nonsense, OSError when the client has left.

    Who came straight to us came from where the kernel says, whatever a link that was taken over would say.
    """
    kind = fields.text(message, "kind", 16)
    if kind not in ("direct", "dial"):
        raise PeerError(f"connections of kind {kind!r} are not known")
    families = {socket.AF_INET, socket.AF_INET6}
    if kind == "dial":
        # link takes the TLS of a balancer off itself, and hands over an end of a pair.
        families.add(socket.AF_UNIX)
    if stream.type != socket.SOCK_STREAM or stream.family not in families:
        raise PeerError("a connection of another kind of socket")
    # Of another socket, one that listens, there is no peer.
    peer, local = stream.getpeername(), stream.getsockname()
    if kind == "direct":
        return Arrival(Endpoint(kind, _address(list(peer), "peer"), _address(list(local), "local")), {})
    endpoint = Endpoint(kind, _address(message.get("peer"), "peer"), _address(message.get("local"), "local"))
    return Arrival(endpoint, {name: fields.text(message, name) for name in ("ticket", "proxy", "server")})


def _address(value: object, name: str) -> tuple[str, int]:
    if not isinstance(value, list) or len(value) < 2 or not isinstance(value[0], str) or len(value[0]) > 64:
        raise PeerError(f"a connection with a wrong {name}")
    # A v4 client of a v6 listener: people and source-address mean its v4 address.
    address = value[0].removeprefix("::ffff:") if "." in value[0] else value[0]
    return address, fields.number({"port": value[1]}, "port", 65536)
