"""Dial-backs: a notice from the tunnel becomes a connection that the keeper is given (docs/protocol/tunnel.md).

Light: link loads it.
"""

from __future__ import annotations

import socket
import time

from tinyport.core.errors import TinyportError, Unavailable
from tinyport.core.names import format_address
from tinyport.link.dial_notice import TICKET_LIFE, Bucket, Notice
from tinyport.link.http_proxy import proxy_for
from tinyport.node.link.connect import Connect
from tinyport.node.link.penalties import REFUSAL
from tinyport.node.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyport.host.logging_line import Log
    from tinyport.node.link.penalties import Penalties
    from tinyport.node.link.tunnel import Tunnel

# A taken-over proxy must not exhaust the node. People come one by one, ``tsh run`` once per node, Ansible with a few
# forks: a burst of 64 and 10 a second for ever are far above that.
MAX_IN_FLIGHT = 32
BURST = 64.0
PER_SECOND = 10.0


class Dials:
    """``warm``: a worker is about to be needed. ``give(message, socket)``: a connection for the keeper."""

    def __init__(
        self,
        loop: Loop,
        warm: Callable[[], None],
        give: Callable[[dict[str, object], socket.socket], None],
        penalties: Penalties,
        log: Log,
    ) -> None:
        self._loop = loop
        self._warm = warm
        self._give = give
        self._penalties = penalties
        self._log = log
        self._bucket = Bucket(BURST, PER_SECOND, time.monotonic())
        self._in_flight: set[_Dial] = set()

    def notice(self, message: dict[str, object], tunnel: Tunnel) -> None:
        """A proxy asks through this tunnel: its ticket is good there and nowhere else. PeerError when the notice is
        malformed.
        """
        notice = Notice(message)
        if self._penalties.refuses(notice.client[0]):
            tunnel.send({"op": "dialed", "ticket_id": notice.id, "error": REFUSAL})
            return
        if len(self._in_flight) >= MAX_IN_FLIGHT or not self._bucket.take(time.monotonic()):
            self._log.warning("too many dial notices; one is refused", client=format_address(*notice.client))
            tunnel.send({"op": "dialed", "ticket_id": notice.id, "error": "the node is busy"})
            return
        self._warm()
        self._in_flight.add(_Dial(self, notice, tunnel))

    def arrived(self, dial: _Dial, stream: socket.socket) -> None:
        self._in_flight.discard(dial)
        try:
            local = ("", 0) if stream.family == socket.AF_UNIX else stream.getsockname()[:2]
            peer = dial.notice.client
        except OSError as error:
            stream.close()
            self.failed(dial, Unavailable("the connection broke", detail=str(error)))
            return
        message: dict[str, object] = {
            "op": "conn",
            "kind": "dial",
            "peer": list(peer),
            "local": list(local),
            "ticket": dial.notice.ticket,
            "proxy": dial.proxy,
            "server": format_address(*dial.server),
        }
        self._give(message, stream)

    def failed(self, dial: _Dial, error: TinyportError) -> None:
        self._in_flight.discard(dial)
        self._log.warning("dial-back failed", server=format_address(*dial.server), reason=error)
        dial.tunnel.send({"op": "dialed", "ticket_id": dial.notice.id, "error": error.message})

    def cancel(self, tunnel: Tunnel | None = None) -> None:
        """A tunnel is gone (None: all of them), and its tickets with it."""
        for dial in [dial for dial in self._in_flight if tunnel is None or dial.tunnel is tunnel]:
            self._in_flight.discard(dial)
            dial.cancel()

    @property
    def loop(self) -> Loop:
        return self._loop

    def __len__(self) -> int:
        return len(self._in_flight)


class _Dial:
    __slots__ = ("_connect", "_timer", "notice", "owner", "proxy", "server", "tunnel")

    def __init__(self, owner: Dials, notice: Notice, tunnel: Tunnel) -> None:
        self.owner = owner
        self.notice = notice
        self.tunnel = tunnel
        self.server = tunnel.server
        self.proxy = tunnel.proxy
        via = proxy_for(self.server[0])
        # The tunnel's own address, not its name: another address behind the name may be another proxy.
        # (Inside HTTP both are the balancer's.)
        target = tunnel.peer if via is None else self.server
        self._timer = owner.loop.after(TICKET_LIFE, self._expired)
        self._connect = Connect(owner.loop, target, self._connected, via=via, inside=tunnel.front)

    def _connected(self, stream: socket.socket | None, error: TinyportError | None) -> None:
        self._timer.cancel()
        if stream is None:
            self.owner.failed(self, error or Unavailable("cannot connect"))
        else:
            self.owner.arrived(self, stream)

    def _expired(self) -> None:
        self.cancel()
        self.owner.failed(self, Unavailable("no connection within the life of the ticket"))

    def cancel(self) -> None:
        self._timer.cancel()
        self._connect.cancel()
