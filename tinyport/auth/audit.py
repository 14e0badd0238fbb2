"""The audit log's writer: every event goes in with the change that it tells of, and the new head is signed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from tinyport.auth.authority import Authority
from tinyport.auth.store import WriteTables
from tinyport.core.events import event


class Audit:
    """``noted`` is told of each event that was written down."""

    def __init__(
        self,
        authority: Authority,
        clock: Callable[[], float],
        noted: Callable[[Mapping[str, object]], None] = lambda event: None,
    ) -> None:
        self._authority = authority
        self._clock = clock
        self._noted = noted
        self._grown = asyncio.Event()

    def event(self, name: str, **fields: object) -> dict[str, object]:
        """An event of our own, now, for ``append``. Fields that are None are left out."""
        return event(name, time=self._clock(), cluster=self._authority.cluster, **fields)

    async def record(self, tables: WriteTables, name: str, **fields: object) -> None:
        """Write down one event of our own."""
        await self.append(tables, [self.event(name, **fields)])

    async def append(self, tables: WriteTables, events: Sequence[Mapping[str, object]]) -> None:
        """Write down events that are complete."""
        if not events:
            return
        id, hash = await tables.audit.append(events)
        head = {
            "kind": "audit-head",
            "cluster": self._authority.cluster,
            "id": id,
            "hash": hash,
            "time": int(self._clock()),
        }
        await tables.audit.set_head(id, hash, self._authority.sign(head))
        tables.after_commit(lambda: self._written(events))

    def _written(self, events: Sequence[Mapping[str, object]]) -> None:
        for one in events:
            self._noted(one)
        self.wake()

    def wake(self) -> None:
        """Have everybody look who waits for growth."""
        # A new Event for the next growth: everybody who waits for this one wakes, however many they are.
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    def growth(self) -> asyncio.Event:
        """Set at the next growth. Take it *before* reading, so that nothing falls between reading and waiting."""
        return self._grown
