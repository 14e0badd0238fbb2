"""The node's tunnels: one to each proxy of the cluster that it can reach. Light: link loads it.

The first goes to wherever a proxy is found; the others to what the signed policy names besides. A proxy that is reached
at two addresses has one tunnel all the same: who answers is known from its certificate, before a word was said.
"""

from __future__ import annotations

import time

from tinyport.core.names import format_address
from tinyport.node.link.probation import AGAIN
from tinyport.node.link.tunnel import STOPPED, WAITING, Tunnel
from tinyport.node.loop import Loop, spread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from tinyport.core.errors import TinyportError
    from tinyport.host.logging_line import Log
    from tinyport.node.link.places import Places
    from tinyport.node.link.probation import Probation

    Address = tuple[str, int]

    class TunnelsOwner(Protocol):
        """What the tunnels ask of link."""

        def hello(self, tunnel: Tunnel) -> dict[str, object]:
            """The fields of the hello; ``addresses`` and ``labels`` are also those of status messages."""

        def tunnel_changed(self, tunnel: Tunnel, reason: TinyportError | None) -> None: ...

        def tunnel_said(self, tunnel: Tunnel, message: dict[str, object]) -> None: ...


# Each costs some 40 kB here and a share of the day's bytes.
MAX_TUNNELS = 8
# Between finding out that there is another proxy and going there.
SOON = (0.2, 2.0)
# A proxy that has been away for so many attempts (some five minutes) is asked for rarely, while another serves.
PATIENCE = 16
RARELY = 600.0


class Tunnels:
    """Order: ``start``; then they come and go until ``stop``."""

    def __init__(
        self,
        loop: Loop,
        owner: TunnelsOwner,
        places: Places,
        trust: Probation,
        cluster: str,
        log: Log,
    ) -> None:
        self._loop = loop
        self._owner = owner
        self._places = places
        self._trust = trust
        self._cluster = cluster
        self._log = log
        self._tunnels: list[Tunnel] = []
        #: beats of all tunnels come at the same moments, so that the machine wakes once for all of them
        self._phase = time.monotonic() + spread(0.0, 3600.0)
        self._stopped = False

    def start(self) -> None:
        self._add(0.0)

    def stop(self) -> None:
        """Say goodbye everywhere and end for good."""
        self._stopped = True
        for tunnel in self._tunnels:
            tunnel.stop()

    def retry(self) -> None:
        """Connect now instead of waiting, and anew where it is up."""
        for tunnel in list(self._tunnels):
            tunnel.retry()

    def status(self) -> None:
        """Tell the proxies what changed since the last hello or status."""
        for tunnel in list(self._tunnels):
            tunnel.status()

    def sign(self, said: object) -> None:
        """The policy says where proxies are."""
        if self._places.sign(said):
            self._seek()

    @property
    def up(self) -> list[Tunnel]:
        """Those that stand, the oldest first."""
        return [tunnel for tunnel in self._tunnels if tunnel.up]

    def standing(self) -> list[dict[str, object]]:
        """For reports."""
        return [
            {
                "server": format_address(*tunnel.server),
                "proxy": tunnel.proxy,
                **({"before": True} if tunnel.before else {}),
            }
            for tunnel in self.up
        ]

    @property
    def auth_address(self) -> Address:
        """Where to reach auth: where a tunnel stands there is a proxy, and it joins us to auth."""
        up = self.up
        return up[0].server if up else self._places.home[0]

    # ------------------------------------------------------------------ what a tunnel asks

    def hello(self, tunnel: Tunnel) -> dict[str, object]:
        return self._owner.hello(tunnel)

    def where(self, tunnel: Tunnel) -> Address | None:
        """The address that it tries now; None when it is of no use any more."""
        others = [other for other in self._tunnels if other is not tunnel]
        busy = {other.server for other in others if other.state not in (WAITING, STOPPED)}
        held = {other.proxy for other in others if other.proxy}
        found = self._places.open(held, self._settled(others), busy)
        if tunnel.proxy:
            found = [*self._places.of(tunnel.proxy, busy), *found]
        if not any(other.up for other in others):
            found = [*found, *self._places.all(busy)] if tunnel.proxy else [*self._places.all(busy), *found]
        found = list(dict.fromkeys(found))
        return found[tunnel.attempt % len(found)] if found else None

    def inside(self, place: Address) -> bool:
        return self._places.inside(place)

    def is_no_proxy(self, place: Address) -> bool:
        return self._places.is_no_proxy(place)

    def alone(self, tunnel: Tunnel) -> bool:
        return not any(other.up for other in self._tunnels if other is not tunnel)

    def met(self, tunnel: Tunnel, proxy: str) -> bool:
        """This proxy answers there. False when another tunnel leads to it already, and better."""
        self._places.found(tunnel.server, proxy)
        return not any(other.up and not self._moves(other, tunnel.server) for other in self._same(tunnel, proxy))

    def longest_wait(self, tunnel: Tunnel) -> float | None:
        """How long it may wait between attempts; None: as usual."""
        return RARELY if tunnel.failures > PATIENCE and any(other.up for other in self._tunnels) else None

    def until_beat(self, beat: float) -> float:
        """Seconds to the next moment for a beat: at most a beat and a quarter."""
        left = beat - (time.monotonic() - self._phase) % beat
        return left if left >= beat / 4 else left + beat

    def changed(self, tunnel: Tunnel, reason: TinyportError | None) -> None:
        """It is up, or broke (``reason``)."""
        if tunnel.up:
            if tunnel.before:
                self._loop.after(AGAIN, self._try_today)
            for other in self._same(tunnel, tunnel.proxy):
                # The proxy has closed it, if it stood: one tunnel for each node.
                self._log.debug("a tunnel is replaced", server=format_address(*other.server))
                self._drop(other)
        self._owner.tunnel_changed(tunnel, reason)
        self._seek()

    def useless(self, tunnel: Tunnel) -> None:
        """There is no address for it."""
        if len(self._tunnels) > 1:
            self._drop(tunnel)
            self._seek()

    def said(self, tunnel: Tunnel, message: dict[str, object]) -> None:
        self._owner.tunnel_said(tunnel, message)

    def _try_today(self) -> None:
        """Those that stand with the identity of before try the one of today again. Sessions do not notice."""
        for tunnel in self.up:
            if tunnel.before and not self._stopped:
                tunnel.retry()

    # ------------------------------------------------------------------ how many

    def _same(self, tunnel: Tunnel, proxy: str) -> list[Tunnel]:
        return [other for other in self._tunnels if other is not tunnel and other.proxy == proxy]

    def _moves(self, tunnel: Tunnel, place: Address) -> bool:
        """Should it rather stand there?"""
        preferred = self._places.preferred
        return place in preferred and tunnel.server not in preferred

    def _settled(self, tunnels: list[Tunnel]) -> set[str]:
        preferred = self._places.preferred
        moving = {one.proxy for one in tunnels if preferred and one.up and one.server not in preferred}
        return {one.proxy for one in tunnels if one.proxy} - moving

    def _seek(self) -> None:
        """Is there a proxy to which no tunnel leads? One at a time looks for it."""
        tunnels = self._tunnels
        if self._stopped or len(tunnels) >= MAX_TUNNELS or not self.up or any(not one.proxy for one in tunnels):
            return
        held = {one.proxy for one in tunnels}
        busy = {one.server for one in tunnels if one.state not in (WAITING, STOPPED)}
        if self._places.open(held, self._settled(tunnels), busy):
            self._add(spread(*SOON))

    def _add(self, wait: float) -> None:
        tunnel = Tunnel(self._loop, self, self._trust, self._cluster, self._log)
        self._tunnels.append(tunnel)
        tunnel.start(wait)

    def _drop(self, tunnel: Tunnel) -> None:
        if tunnel in self._tunnels:
            self._tunnels.remove(tunnel)
            tunnel.stop()
