"""Tunnels of copies: devices that have a node's identity and are not it. They beat and hear documents, and are never
dialled (docs/protocol/tunnel.md, "Copies").
"""

from __future__ import annotations

from collections.abc import Iterable

from tinyport.core.names import format_address
from tinyport.link import websocket as ws

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyport.proxy.tunnels import Tunnel

#: of one node
MOST = 8


class Aside:
    """UUID → the tunnels of copies of that node, by their instance."""

    def __init__(self) -> None:
        self._tunnels: dict[str, dict[str, Tunnel]] = {}

    def put(self, tunnel: Tunnel) -> None:
        """One for each instance: a newer takes the place of the older. The oldest leaves when there are too many."""
        held = self._tunnels.setdefault(tunnel.uuid, {})
        old = held.pop(tunnel.hello.instance, None)
        if old is None and len(held) >= MOST:
            old = held.pop(next(iter(held)))
        held[tunnel.hello.instance] = tunnel
        if old is not None and old is not tunnel:
            old.end(ws.CLOSE_GOING_AWAY, "replaced by a newer tunnel of this copy")

    def take(self, tunnel: Tunnel) -> bool:
        """It is none of these any more; False when it was none."""
        held = self._tunnels.get(tunnel.uuid, {})
        if held.get(tunnel.hello.instance) is not tunnel:
            return False
        del held[tunnel.hello.instance]
        if not held:
            del self._tunnels[tunnel.uuid]
        return True

    def of(self, uuid: str) -> list[Tunnel]:
        return list(self._tunnels.get(uuid, {}).values())

    def all(self) -> list[Tunnel]:
        return [tunnel for held in self._tunnels.values() for tunnel in held.values()]

    def nodes(self) -> Iterable[str]:
        return list(self._tunnels)

    def presence(self, uuid: str) -> dict[str, object]:
        """What a presence report says of them (docs/protocol/api.md): nothing when there are none."""
        found = [
            {"instance": tunnel.hello.instance, "peer": format_address(*tunnel.stream.peer)} for tunnel in self.of(uuid)
        ]
        return {"copies": found} if found else {}
