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
    __slots__ = ("clusters", "end", "heard", "nodes")

    def __init__(self) -> None:
        self.end = 0.0
        #: other clusters whose tunnels it has
        self.clusters: frozenset[str] = frozenset()
        #: wall clock of the last report
        self.heard = 0.0
        #: UUID → until when it is believed without being said again; None: as long as the lease
        self.nodes: dict[str, float | None] = {}


class Presence:
    """``now`` is monotonic seconds everywhere, ``wall`` Unix seconds."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._leases: dict[str, _Lease] = {}
        #: UUID → proxies that hold its tunnel
        self._online: dict[str, set[str]] = {}

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
    ) -> Change:
        """A proxy says of nodes (by UUID) whether they are online through it, and which ``clusters`` are (None: as
        before); it has a lease again."""
        lease = self._leases.setdefault(proxy, _Lease())
        lease.end, lease.heard = now + LEASE, wall
        if clusters is not None:
            lease.clusters = frozenset(clusters)
        before = set(self._online)
        if full:
            for uuid in lease.nodes.keys() - nodes.keys():
                lease.nodes[uuid] = now + FULL_REPORT_GRACE
        for uuid, online in nodes.items():
            if online:
                lease.nodes[uuid] = None
                self._online.setdefault(uuid, set()).add(proxy)
            else:
                self._drop(proxy, lease, uuid)
        touched = set(nodes)
        after = set(self._online)
        return Change(frozenset((after - before) & touched), frozenset((before - after) & touched))

    def expire(self, now: float) -> frozenset[str]:
        """Forget what is no longer believed; the nodes that are offline by that."""
        before = set(self._online)
        for proxy, lease in list(self._leases.items()):
            ended = lease.end <= now
            for uuid, until in list(lease.nodes.items()):
                if ended or (until is not None and until <= now):
                    self._drop(proxy, lease, uuid)
            if ended:
                del self._leases[proxy]
        return frozenset(before - set(self._online))

    def forget(self, uuid: str) -> None:
        """The node was removed."""
        for proxy in list(self._online.get(uuid, ())):
            self._drop(proxy, self._leases[proxy], uuid)

    def _drop(self, proxy: str, lease: _Lease, uuid: str) -> None:
        lease.nodes.pop(uuid, None)
        holders = self._online.get(uuid)
        if holders is not None:
            holders.discard(proxy)
            if not holders:
                del self._online[uuid]

    def online(self, uuid: str) -> bool:
        return uuid in self._online

    def cluster_online(self, name: str, now: float) -> bool:
        """Does a proxy have a tunnel of that cluster?"""
        return any(now < lease.end and name in lease.clusters for lease in self._leases.values())

    def online_count(self) -> int:
        return len(self._online)

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

    def all_online(self) -> Iterable[str]:
        return list(self._online)

    def proxy_online(self, proxy: str, now: float) -> bool:
        lease = self._leases.get(proxy)
        return lease is not None and now < lease.end
