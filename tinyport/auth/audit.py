"""The audit log's writer: every event goes in with the change that it tells of, and the new head is signed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from tinyport.auth.authority import Authority
from tinyport.auth.store import Store, WriteTables
from tinyport.auth.store_audit import Checkpoint
from tinyport.auth.unwritten import Unwritten
from tinyport.core.audit_chain import CHECKPOINT, HEAD
from tinyport.core.events import event

#: how old a signed head may get, in seconds
SIGN_EVERY = 300.0


class Audit:
    """``noted`` is told of each event that was written down."""

    def __init__(
        self,
        authority: Authority,
        clock: Callable[[], float],
        noted: Callable[[Mapping[str, object]], None] = lambda event: None,
        unwritten: Unwritten | None = None,
    ) -> None:
        self._authority = authority
        self._unwritten = unwritten or Unwritten()
        self._clock = clock
        self._noted = noted
        self._grown = asyncio.Event()
        #: Unix time; 0 before this process has signed one
        self._signed_at = 0.0

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
        lost = self._unwritten.events
        own = events
        if lost:
            # There may be room again: what came after what was lost begins by saying so.
            gap = self.event("events.lost", sender="auth", count=lost, reason="the disk of the auth server was full")
            events = [gap, *events]
        await self._sign(tables, *await tables.audit.append(events))
        tables.after_commit(lambda: self._written(events, lost))
        tables.when_lost(lambda: self._unwritten.lost_events(len(own)))

    async def _sign(self, tables: WriteTables, id: int, hash: str) -> None:
        now = self._clock()
        head = {"kind": HEAD, "cluster": self._authority.cluster, "id": id, "hash": hash, "time": int(now)}
        await tables.audit.set_head(id, hash, self._authority.sign(head))
        tables.after_commit(lambda: self._signed(now))

    def _signed(self, when: float) -> None:
        self._signed_at = when

    def checkpoint(self, id: int, hash: str) -> Checkpoint:
        """Signed: what is up to event ``id`` is removed now."""
        now = self._clock()
        body = {"kind": CHECKPOINT, "cluster": self._authority.cluster, "id": id, "hash": hash, "time": int(now)}
        return Checkpoint(id, hash, now, self._authority.sign(body))

    async def keep_signed(self, store: Store) -> None:
        """Sign the head again when it has stood for some minutes: "and nothing has happened since" is worth as much as
        an event. For whoever looks after the house to call again and again."""
        if abs(self._clock() - self._signed_at) < SIGN_EVERY:
            return
        async with store.write() as tables:
            id, hash = await tables.audit.head()
            if id:
                await self._sign(tables, id, hash)

    def _written(self, events: Sequence[Mapping[str, object]], told_of: int) -> None:
        self._unwritten.told_of(told_of)
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
