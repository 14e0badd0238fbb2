"""Recordings as nodes send them: taken piece by piece, closed, and given up when nobody sends the rest.

A piece says at which offset it belongs. What is there already is skipped, so the same piece again after a lost answer
does nothing; what comes too early is refused with the offset that is wanted. A piece is on the disk before it is
thanked for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tinyport.auth.fields import one_line
from tinyport.auth.recording_files import RecordingFiles
from tinyport.auth.store_recordings import COMPLETE, GIVEN_UP, INCOMPLETE, LIVE, RecordingRow
from tinyport.core import recording_frames as f
from tinyport.core.cluster_config import recording_limits
from tinyport.core.errors import AccessDenied, PeerError, Unavailable
from tinyport.core.session_terms import RECORDED

if TYPE_CHECKING:
    from tinyport.auth.service import Service
    from tinyport.auth.store import WriteTables

ID_LENGTH = 32
_HEX = frozenset("0123456789abcdef")
LOCKS = 256
# Searches at a time, of all people: each keeps a thread and the processor busy; the others wait.
SEARCHES = 2
#: of one node, at a time
MOST_LIVE = 1024
# A node that fills the disk must not push out what others have recorded. Beyond this part of the whole its own go; and
# so much it may have that is live, which is never removed.
SHARE = 4
# A node tells every five minutes that it still has one (link_recordings); three of them may be lost.
SILENT_TOO_LONG = 1000.0
# Whose node is away is waited for: it keeps what it has while it runs.
AWAY_TOO_LONG = 24 * 3600.0
# A clock without a battery says anything.
OLDEST, NEWEST = 8 * 86400.0, 3600.0
KINDS = ("shell", "exec")


def is_id(text: str) -> bool:
    """Can it be a session's id?"""
    return len(text) == ID_LENGTH and _HEX.issuperset(text)


def check_id(text: str) -> str:
    """PeerError ``not_found`` unless it can be a session's id."""
    if not is_id(text):
        raise PeerError("a session's id is 32 hexadecimal digits", code="not_found")
    return text


@dataclass
class Taking:
    """A recording that is being taken from ``node`` (UUID). ``heard``: monotonic time of its last word about it."""

    node: str
    size: int
    progress: f.Progress
    heard: float
    #: set at the next growth, and another one made
    grown: asyncio.Event = field(default_factory=asyncio.Event)


class Recordings:
    """Owns the files. One call at a time for each recording (``_lock``); different ones go on beside each other, unless
    they share a lock."""

    def __init__(self, files: RecordingFiles) -> None:
        self.files = files
        self._taking: dict[str, Taking] = {}
        #: UUID of a node → bytes of its recordings that are being taken
        self._held: Counter[str] = Counter()
        self._locks = tuple(asyncio.Lock() for _ in range(LOCKS))
        self.searching = asyncio.Semaphore(SEARCHES)
        self._complained = -3600.0

    def live(self, id: str) -> Taking | None:
        """What is known of a recording that was heard of since auth started, and has not ended."""
        return self._taking.get(id)

    # ---------------------------------------------------------------- taking

    async def take(
        self, service: Service, node: tuple[str, str], id: str, offset: int, data: bytes, *, last: bool
    ) -> int:
        """``node``: (uuid, name) of the sender; ``last``: nothing comes after this. → where the next piece belongs.

        PeerError: ``offset`` (with it), ``ended``, ``too_large``, ``slow_down``, ``bad_request``; AccessDenied: another
        node's. Unavailable: the disk is full, try again.
        """
        async with self._lock(id):
            return await self._take(service, node, id, offset, data, last)

    def _lock(self, id: str) -> asyncio.Lock:
        return self._locks[int(id, 16) % LOCKS]

    async def _take(
        self, service: Service, node: tuple[str, str], id: str, offset: int, data: bytes, last: bool
    ) -> int:
        row = await service.store.read.recordings.get(id)
        if row is None:
            if offset or not data:
                raise _wanted(0)
            row = await self._begin(service, node, id, data)
            taking = self._taking[id]
        else:
            if row.node_uuid != node[0]:
                raise AccessDenied("this recording is another node's", detail=f"{node[1]} sent to {id}")
            if row.state != LIVE and not row.body.get(GIVEN_UP):
                if offset + len(data) <= row.size:
                    return row.size
                raise PeerError("this recording has ended", code="ended")
            taking = await self._resume(service, row)
            taking.heard = service.settings.monotonic()
            if offset > taking.size:
                raise _wanted(taking.size)
            fresh = data[taking.size - offset :]
            if fresh:
                await self._append(service, id, taking, fresh)
        if last or taking.progress.ended:
            await self._close(service, row, taking, "" if taking.progress.ended else "its end did not come")
        elif row.state != LIVE:
            await self._reopen(service, row)
        return taking.size

    async def _begin(self, service: Service, node: tuple[str, str], id: str, data: bytes) -> RecordingRow:
        progress = _followed(f.Progress(), data)
        uuid, name = node
        registered = await service.store.read.nodes.get(uuid)
        if registered is None or registered.state == "pending":
            # Nobody has a session there; and with a token from somebody's card there may be many of these.
            raise AccessDenied("nobody has accepted this node", detail=f"{name} sent to {id}")
        if len(await service.store.read.recordings.live(uuid)) >= MOST_LIVE:
            raise PeerError(f"{MOST_LIVE} recordings of this node have not ended", code="slow_down")
        row = row_of(uuid, name, id, f.parse_head(next(f.frames(data))[3]), service.now())
        self._check_share(service, uuid, len(data))
        await self._store(service, id, 0, data)
        async with service.store.write() as tables:
            await tables.recordings.put(row)
        self._enter(id, Taking(uuid, len(data), progress, service.settings.monotonic()))
        return row

    async def _resume(self, service: Service, row: RecordingRow) -> Taking:
        taking = self._taking.get(row.id)
        if taking is None:
            try:
                size, progress = await asyncio.to_thread(self.files.progress, row.id)
            except OSError:
                # Somebody removed the file: what comes is kept from its beginning on.
                size, progress = 0, f.Progress()
            taking = self._enter(row.id, Taking(row.node_uuid, size, progress, service.settings.monotonic()))
        return taking

    def _enter(self, id: str, taking: Taking) -> Taking:
        self._taking[id] = taking
        self._held[taking.node] += taking.size
        return taking

    def _leave(self, id: str) -> None:
        taking = self._taking.pop(id, None)
        if taking is not None:
            self._held[taking.node] -= taking.size
            if not self._held[taking.node]:
                del self._held[taking.node]

    def _check_share(self, service: Service, node: str, more: int) -> None:
        most = recording_limits(service.issuer.policy.config).total // SHARE
        if self._held[node] + more > most:
            raise PeerError(f"a node's recordings that go on have at most {most} bytes in all", code="too_large")

    async def _append(self, service: Service, id: str, taking: Taking, data: bytes) -> None:
        progress = _followed(taking.progress.copy(), data)
        most = recording_limits(service.issuer.policy.config).size
        if taking.size + len(data) > most:
            # The node stops before that; this one does not follow the rules, or does not know of a new limit yet.
            raise PeerError(f"a recording has at most {most} bytes", code="too_large")
        self._check_share(service, taking.node, len(data))
        await self._store(service, id, taking.size, data)
        taking.size += len(data)
        self._held[taking.node] += len(data)
        taking.progress = progress
        self._woken(taking)

    async def _store(self, service: Service, id: str, size: int, data: bytes) -> None:
        try:
            await asyncio.to_thread(self.files.append, id, size, data)
        except OSError as error:
            now = service.settings.monotonic()
            service.counts.recordings_refused(len(data))
            if now - self._complained >= 60:
                self._complained = now
                service.log.error("recordings cannot be stored; nodes keep a little and lose the rest", error=error)
            raise Unavailable("recordings cannot be stored now", detail=str(error)) from None

    @staticmethod
    def _woken(taking: Taking) -> None:
        grown, taking.grown = taking.grown, asyncio.Event()
        grown.set()

    # ---------------------------------------------------------------- the end

    async def _close(
        self, service: Service, row: RecordingRow, taking: Taking, reason: str, given_up: bool = False
    ) -> None:
        progress = taking.progress
        seconds = progress.milliseconds / 1000
        whole = progress.ended and not progress.lost
        async with service.store.write() as tables:
            # Parties may have come since.
            row = await tables.recordings.get(row.id) or row
            body = {name: value for name, value in row.body.items() if name not in (GIVEN_UP, "reason")}
            if reason:
                body["reason"] = reason
            if given_up:
                body[GIVEN_UP] = True
            await tables.recordings.put(
                replace(
                    row,
                    ended=row.started + seconds,
                    seconds=seconds,
                    shown=progress.shown,
                    lost=progress.lost,
                    size=taking.size,
                    state=COMPLETE if whole else INCOMPLETE,
                    body=body,
                )
            )
            if not whole:
                await _tell_loss(service, tables, row, progress, reason)
        self._leave(row.id)
        taking.grown.set()

    async def _reopen(self, service: Service, row: RecordingRow) -> None:
        body = {name: value for name, value in row.body.items() if name not in (GIVEN_UP, "reason")}
        async with service.store.write() as tables:
            await tables.recordings.put(replace(row, state=LIVE, ended=None, body=body))

    async def give_up(self, service: Service, row: RecordingRow, reason: str) -> None:
        """Nobody sends the rest."""
        async with self._lock(row.id):
            taking = await self._resume(service, row)
            await self._close(service, row, taking, reason, given_up=True)

    def is_silent(self, service: Service, row: RecordingRow) -> str | None:
        """Why nothing more is expected, or None. Called from time to time, for each that is live."""
        now = service.settings.monotonic()
        taking = self._taking.get(row.id)
        # After a start of auth everybody has the whole time again.
        silent = now - (taking.heard if taking is not None else service.began)
        if not service.presence.online(row.node_uuid):
            return "its node has been away for a day" if silent >= AWAY_TOO_LONG else None
        return "its node does not send the rest" if silent >= SILENT_TOO_LONG else None

    async def delete(self, service: Service, row: RecordingRow, by: str) -> None:
        """Remove it. The row goes first: a file without one is found and removed later, a row without one misleads."""
        async with self._lock(row.id):
            async with service.store.write() as tables:
                if await tables.recordings.delete(row.id):
                    about = {"user": row.user, "login": row.login, "node": row.node, "node_uuid": row.node_uuid}
                    await service.audit.record(
                        tables,
                        "recording.delete",
                        **about,
                        sid=row.id,
                        started=int(row.started),
                        bytes=row.shown,
                        by=by,
                    )
            self._leave(row.id)
            await asyncio.to_thread(self.files.remove, row.id)


async def _tell_loss(
    service: Service, tables: WriteTables, row: RecordingRow, progress: f.Progress, reason: str
) -> None:
    about = {"user": row.user, "login": row.login, "node": row.node, "node_uuid": row.node_uuid, "sid": row.id}
    await service.audit.record(
        tables,
        "session.data_lost",
        **about,
        bytes=progress.lost,
        kept=progress.shown,
        reason=reason or "the node could not send it in time",
    )


def _followed(progress: f.Progress, data: bytes) -> f.Progress:
    """PeerError unless ``data`` are whole frames that may come next."""
    if f.whole(data) != len(data):
        raise PeerError("a piece of a recording ends within a frame")
    for one in f.frames(data):
        progress.follow(one)
    return progress


def _wanted(offset: int) -> PeerError:
    error = PeerError("this piece of the recording comes too early", code="offset")
    error.extra["offset"] = offset
    return error


def row_of(uuid: str, name: str, id: str, head: Mapping[str, object], now: float) -> RecordingRow:
    """What a head says, made safe to keep."""
    stated = head.get("time")
    known = isinstance(stated, (int, float)) and not isinstance(stated, bool)
    started = float(str(stated)) if known else now
    if not now - OLDEST <= started <= now + NEWEST:
        started = now
    kind = head.get("kind")
    words = {key: one_line(head.get(key), limit) for key, limit in (("term", 64), ("command", f.MAX_WORD))}
    sizes = {key: value for key in ("columns", "rows") if isinstance(value := head.get(key), int)}
    mode = head.get("mode")
    return RecordingRow(
        id,
        uuid,
        name,
        # A user of a trusted cluster has its name behind: 64 + 1 + 100.
        one_line(head.get("user"), 192),
        one_line(head.get("login"), 64),
        str(kind) if kind in KINDS else "exec",
        started,
        {
            **{key: value for key, value in words.items() if value},
            **sizes,
            "mode": mode if mode in RECORDED else RECORDED[0],
        },
    )
