"""Which nodes are online: what proxies say, for as long as their lease lasts. Pure; times are arguments.

A proxy that is killed says nothing more, and 30 seconds later none of its nodes is online through it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LEASE = 30.0
# A proxy's full report may come in several requests; what the first one leaves out is gone only after this.
FULL_REPORT_GRACE = 5.0


@dataclass(frozen=True)
class Change:
    """Nodes that came online or went offline by one report or by time."""

    came: frozenset[str]
    went: frozenset[str]


class _Lease:
    __slots__ = ("clusters", "doubted", "end", "heard", "nodes", "partners")

    def __init__(self) -> None:
        self.end = 0.0
        #: other clusters whose tunnels it has
        self.clusters: frozenset[str] = frozenset()
        #: other clusters to which it holds one
        self.partners: frozenset[str] = frozenset()
        #: wall clock of the last report
        self.heard = 0.0
        self.nodes: set[str] = set()
        #: of these: until when they are believed without being said again
        self.doubted: dict[str, float] = {}


class Presence:
    """``now`` is monotonic seconds everywhere, ``wall`` Unix seconds.

    A report costs by what it says and a look at the leases by what ends, not by how many nodes there are.
    """

    def __init__(self, started: float) -> None:
        self._started = started
        self._leases: dict[str, _Lease] = {}
        #: UUID → proxies that hold its tunnel; tuples, as a set is four times the size
        self._online: dict[str, tuple[str, ...]] = {}

    def settled(self, now: float) -> bool:
        """False for the first seconds after a start: proxies have not all reported, so "offline" is not known yet."""
        return now >= self._started + LEASE

    def report(
        self,
        proxy: str,
        nodes: Mapping[str, bool],
        *,
        full: bool,
        now: float,
        wall: float,
        clusters: Iterable[str] | None = None,
        partners: Iterable[str] | None = None,
    ) -> Change:
        """A proxy says of nodes (by UUID) whether they are online through it, which ``clusters`` are, and with which
        ``partners`` it holds a tunnel (None: as before); it has a lease again."""
        lease = self._leases.setdefault(proxy, _Lease())
        lease.end, lease.heard = now + LEASE, wall
        if clusters is not None:
            lease.clusters = frozenset(clusters)
        if partners is not None:
            lease.partners = frozenset(partners)
        if full:
            for uuid in lease.nodes - nodes.keys():
                lease.doubted.setdefault(uuid, now + FULL_REPORT_GRACE)
        came, went = set(), set()
        for uuid, online in nodes.items():
            before = uuid in self._online
            if online:
                self._hold(proxy, lease, uuid)
            else:
                self._drop(proxy, lease, uuid)
            if online and not before:
                came.add(uuid)
            elif before and uuid not in self._online:
                went.add(uuid)
        return Change(frozenset(came), frozenset(went))

    def expire(self, now: float) -> dict[str, float]:
        """Forget what is no longer believed; the nodes that are offline by that, and when each was last heard (Unix
        seconds)."""
        went: dict[str, float] = {}
        for proxy, lease in list(self._leases.items()):
            ended = lease.end <= now
            gone = list(lease.nodes) if ended else [uuid for uuid, until in lease.doubted.items() if until <= now]
            for uuid in gone:
                heard = self.last_heard(uuid) or lease.heard
                self._drop(proxy, lease, uuid)
                if uuid not in self._online:
                    went[uuid] = max(heard, went.get(uuid, 0.0))
            if ended:
                del self._leases[proxy]
        return went

    def forget(self, uuid: str) -> None:
        """The node was removed."""
        for proxy in list(self._online.get(uuid, ())):
            self._drop(proxy, self._leases[proxy], uuid)

    def _hold(self, proxy: str, lease: _Lease, uuid: str) -> None:
        lease.doubted.pop(uuid, None)
        lease.nodes.add(uuid)
        holders = self._online.get(uuid, ())
        if proxy not in holders:
            self._online[uuid] = (*holders, proxy)

    def _drop(self, proxy: str, lease: _Lease, uuid: str) -> None:
        lease.doubted.pop(uuid, None)
        lease.nodes.discard(uuid)
        left = tuple(holder for holder in self._online.get(uuid, ()) if holder != proxy)
        if left:
            self._online[uuid] = left
        else:
            self._online.pop(uuid, None)

    def online(self, uuid: str) -> bool:
        return uuid in self._online

    def cluster_online(self, name: str, now: float) -> bool:
        """Does a proxy have a tunnel of that cluster?"""
        return any(now < lease.end and name in lease.clusters for lease in self._leases.values())

    def partner_up(self, name: str, now: float) -> bool:
        """Does a proxy of ours hold a tunnel to that cluster?"""
        return any(now < lease.end and name in lease.partners for lease in self._leases.values())

    def nodes_through(self, proxy: str) -> int:
        """How many nodes are online through it."""
        lease = self._leases.get(proxy)
        return 0 if lease is None else len(lease.nodes)

    def proxies_of(self, uuid: str) -> list[str]:
        return sorted(self._online.get(uuid, ()))

    def last_heard(self, uuid: str) -> float | None:
        """When a proxy last vouched for the node (Unix seconds); None when it is offline."""
        holders = self._online.get(uuid)
        return max(self._leases[proxy].heard for proxy in holders) if holders else None

    def heard_at_least(self) -> float | None:
        """Every node that is online was heard then or later (Unix seconds); None when none is."""
        return min((lease.heard for lease in self._leases.values() if lease.nodes), default=None)

    def proxy_online(self, proxy: str, now: float) -> bool:
        lease = self._leases.get(proxy)
        return lease is not None and now < lease.end
