"""What an operator watches of auth: counted while it runs, or read from the store when somebody asks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tinyport.auth.store_nodes import NodeRow
from tinyport.core.cluster_config import node_budget
from tinyport.link.diagnostics import Figure

if TYPE_CHECKING:
    from tinyport.auth.service import Service

#: nodes' states, in the order that people read them
STATES = ("online", "offline", "pending", "quarantined")


class Counts:
    """Since this process began. ``requests``: (method, route, status); ``events``: names of audit events."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.events: Counter[str] = Counter()
        self.recording_bytes_refused = 0

    def answered(self, method: str, route: str, status: int) -> None:
        self.requests[method, route, str(status)] += 1

    def recordings_refused(self, size: int) -> None:
        """There was no room on the disk."""
        self.recording_bytes_refused += size

    def noted(self, events: Mapping[str, object]) -> None:
        self.events[str(events.get("event"))] += 1


async def nodes_by_state(service: Service) -> dict[str, int]:
    """State (``STATES``) → how many nodes are in it."""
    found = dict.fromkeys(STATES, 0)
    # A cloned node goes on; its copies are quarantined.
    found["quarantined"] = sum(len(copies) for copies in (await service.store.read.copies.open()).values())
    for node in await service.store.read.nodes.all("node"):
        if node.state == "active":
            found["online" if service.presence.online(node.uuid) else "offline"] += 1
        elif node.state in found:
            found[node.state] += 1
    return found


def over_budget(service: Service, nodes: Iterable[NodeRow]) -> list[NodeRow]:
    """Those that came to more today than the budget of a day."""
    sums, config = service.traffic.all_sums(service.now()), service.issuer.policy.config
    return [node for node in nodes if node.uuid in sums and sums[node.uuid].today > node_budget(config, node.labels)]


def memory_of_this_process() -> int:
    """Resident bytes; 0 where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


async def figures(service: Service) -> list[Figure]:
    """For ``/metrics``."""
    rows, counts, policy = service.store.read, service.counts, service.issuer.policy
    now = service.settings.monotonic()
    proxies = await rows.nodes.all("proxy")
    online = sum(service.presence.proxy_online(proxy.uuid, now) for proxy in proxies)
    return [
        Figure("build_info", "Which version runs", {(service.version,): 1}, ("version",)),
        Figure(
            "requests",
            "Requests to the API that were answered",
            dict(counts.requests.items()),
            ("method", "route", "status"),
            counts=True,
        ),
        Figure(
            "audit_events",
            "Events written to the audit log since auth started",
            {(name,): count for name, count in counts.events.items()},
            ("event",),
            counts=True,
        ),
        Figure(
            "nodes",
            "Nodes of the cluster",
            {(state,): count for state, count in (await nodes_by_state(service)).items()},
            ("state",),
        ),
        Figure("proxies", "Proxies", {("online",): online, ("offline",): len(proxies) - online}, ("state",)),
        Figure.one("users", "Local users", await rows.users.count()),
        Figure.one("sessions", "Sessions that are open", len(await rows.audit.live_sessions())),
        Figure.one("recordings_live", "Recordings that are being taken", len(await rows.recordings.live())),
        Figure.one(
            "recordings_bytes", "Size of the recordings whose sessions have ended", await rows.recordings.size()
        ),
        Figure.one(
            "recordings_refused_bytes",
            "Bytes of recordings that the disk had no room for since auth started, as often as they came",
            counts.recording_bytes_refused,
        ),
        Figure.one(
            "audit_events_lost",
            "Events that are missing in the audit log because the disk was full, since auth started",
            service.unwritten.events_ever,
            counts=True,
        ),
        Figure.one(
            "traffic_bytes",
            "Bytes between nodes and proxies on the wire, since auth started",
            service.traffic.total,
            counts=True,
        ),
        Figure.one(
            "nodes_over_budget",
            "Nodes that came to more than their budget today",
            len(over_budget(service, await rows.nodes.all("node"))),
        ),
        Figure.one("locks", "Locks in the policy", len(policy.locks)),
        Figure.one("policy_serial", "Serial of the policy that nodes follow", policy.serial),
        Figure.one("policy_issued_seconds", "When it was made, in Unix seconds", policy.issued_at),
        Figure.one("database_bytes", "Size of the database with its write-ahead log", _size(service)),
    ]


def _size(service: Service) -> int:
    folder = service.settings.data_dir / "auth"
    return sum(path.stat().st_size for path in folder.glob("auth.db*") if path.is_file())
