"""What nodes' connections cost on the wire, by day and month: proxies tell what they have counted, auth adds it up.

What a proxy says only grows until it starts anew, so what was added is known from what it said last. Both are in the
database, written once an hour in one transaction: an auth that is killed in between adds the rest when the proxy speaks
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tinyport.auth.store_traffic import DayRow, MeterRow, SumRow, month_of
from tinyport.core.cluster_config import node_budget

if TYPE_CHECKING:
    from tinyport.auth.service import Service

DAY = 86400
#: days that are kept one by one, this month and the one before among them; months that are kept after that
KEEP_DAYS, KEEP_MONTHS = 62, 13


@dataclass
class Sums:
    """Bytes of one node, as of ``day`` (days since 1970, UTC). ``told``: its day over budget was, last."""

    day: int
    today: int = 0
    yesterday: int = 0
    month: int = 0
    last_month: int = 0
    told: int = 0

    def roll(self, day: int) -> None:
        """It is ``day`` now. A clock that went back changes nothing."""
        if day <= self.day:
            return
        self.yesterday = self.today if day == self.day + 1 else 0
        self.today = 0
        was, now = month_of(self.day), month_of(day)
        if was != now:
            self.last_month = self.month if now == was + 1 else 0
            self.month = 0
        self.day = day


@dataclass(frozen=True)
class Batch:
    """What is not in the database yet."""

    days: Mapping[tuple[str, int], int]
    meters: Mapping[tuple[str, str], tuple[int, float]]


@dataclass
class Traffic:
    #: node → proxy → (bytes, since when in Unix seconds), as it was last said
    meters: dict[str, dict[str, tuple[int, float]]] = field(default_factory=dict)
    _sums: dict[str, Sums] = field(default_factory=dict)
    #: (node, day) → bytes that are not in the database yet
    _unsaved: dict[tuple[str, int], int] = field(default_factory=dict)
    _changed: set[tuple[str, str]] = field(default_factory=set)
    #: bytes since this process began
    total: int = 0

    def load(self, meters: Iterable[MeterRow], sums: Iterable[SumRow], day: int) -> None:
        for meter in meters:
            self.meters.setdefault(meter.node, {})[meter.proxy] = (meter.bytes, meter.since)
        for row in sums:
            self._sums[row.node] = Sums(day, row.today, row.yesterday, row.month, row.last_month, row.told)

    def said(self, node: str, proxy: str, count: int, since: float, now: float) -> None:
        """A proxy has counted so many bytes of a node since ``since``."""
        meters = self.meters.setdefault(node, {})
        before = meters.get(proxy)
        if before == (count, since):
            return
        if before is not None and before[1] == since:
            added = max(count - before[0], 0)
        else:
            # What a proxy counted for days before it first spoke of it is of no day that we know.
            added = count if before is not None or now - since < DAY else 0
        meters[proxy] = (count, since)
        self._changed.add((node, proxy))
        if added:
            day = int(now // DAY)
            sums = self._sums.setdefault(node, Sums(day))
            sums.roll(day)
            sums.today += added
            sums.month += added
            self._unsaved[node, sums.day] = self._unsaved.get((node, sums.day), 0) + added
            self.total += added

    def sums(self, node: str, now: float) -> Sums | None:
        found = self._sums.get(node)
        if found is not None:
            found.roll(int(now // DAY))
        return found

    def all_sums(self, now: float) -> dict[str, Sums]:
        for sums in self._sums.values():
            sums.roll(int(now // DAY))
        return self._sums

    def forget(self, uuid: str) -> None:
        """A node or proxy that was removed. What it came to stays in the database for its time."""
        self.meters.pop(uuid, None)
        self._sums.pop(uuid, None)
        for proxies in self.meters.values():
            proxies.pop(uuid, None)
        self._unsaved = {key: value for key, value in self._unsaved.items() if key[0] != uuid}
        self._changed = {key for key in self._changed if uuid not in key}

    def unsaved(self) -> Batch:
        meters = {(node, proxy): self.meters[node][proxy] for node, proxy in self._changed}
        return Batch(dict(self._unsaved), meters)

    def saved(self, batch: Batch) -> None:
        """The batch is on disk; what was said meanwhile is not."""
        for key, count in batch.days.items():
            left = self._unsaved.get(key, 0) - count
            if left > 0:
                self._unsaved[key] = left
            else:
                self._unsaved.pop(key, None)
        for (node, proxy), value in batch.meters.items():
            if self.meters.get(node, {}).get(proxy) == value:
                self._changed.discard((node, proxy))


async def load_traffic(service: Service) -> None:
    day = int(service.now() // DAY)
    rows = service.store.read.traffic
    service.traffic.load(await rows.meters(), await rows.sums(day), day)


async def save_traffic(service: Service) -> None:
    """Write what is new, and tell the audit log of nodes that are over their budget: of each once a day at most."""
    traffic = service.traffic
    batch = traffic.unsaved()
    if not batch.days and not batch.meters:
        return
    over = await _over(service, {node for node, _ in batch.days})
    day = int(service.now() // DAY)
    async with service.store.write() as tables:
        await tables.traffic.add([DayRow(node, when, count) for (node, when), count in batch.days.items()])
        await tables.traffic.set_meters(
            MeterRow(node, proxy, count, since) for (node, proxy), (count, since) in batch.meters.items()
        )
        await tables.traffic.tell((node, day) for node in over)
        await service.audit.append(
            tables,
            [
                service.audit.event("node.over_budget", node=name, node_uuid=node, bytes=bytes, budget=budget)
                for node, (name, bytes, budget) in sorted(over.items())
            ],
        )
        await tables.traffic.prune(day - KEEP_DAYS, month_of(day) - KEEP_MONTHS)

        def done() -> None:
            traffic.saved(batch)
            for node in over:
                sums = traffic.sums(node, service.now())
                if sums is not None:
                    sums.told = day

        tables.after_commit(done)


async def _over(service: Service, nodes: set[str]) -> dict[str, tuple[str, int, int]]:
    """Those of ``nodes`` that are over their budget today, and of which that was not told: name, bytes, budget."""
    now = service.now()
    found: dict[str, tuple[str, int, int]] = {}
    config = service.issuer.policy.config
    least = node_budget(config, None)
    for uuid in nodes:
        sums = service.traffic.sums(uuid, now)
        if sums is None or sums.told == sums.day or sums.today <= least:
            continue
        node = await service.store.read.nodes.get(uuid)
        if node is None:
            continue
        budget = node_budget(config, node.labels)
        if sums.today > budget:
            found[uuid] = (node.name, sums.today, budget)
    return found
