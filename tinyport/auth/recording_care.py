"""What happens to recordings by itself: those that nobody sends the rest of are closed, old ones go, and so does what
would make all of them together too large.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tinyport.auth.fields import one_line
from tinyport.auth.recordings import SHARE, is_id, row_of
from tinyport.auth.retention import retention_time
from tinyport.auth.service import Service
from tinyport.auth.store_recordings import BLOCK, INCOMPLETE, RecordingRow
from tinyport.core.cluster_config import recording_limits
from tinyport.core.errors import PeerError

# At a time: nobody waits for it, and no node makes them faster.
AT_ONCE = 1000


async def adopt_strays(service: Service) -> None:
    """Files that no row tells of, as after a backup was restored: found again, of nodes that nobody can name now."""
    files = service.recordings.files
    for id in await asyncio.to_thread(files.strays):
        if not is_id(id) or await service.store.read.recordings.get(id) is not None:
            continue
        try:
            head, size, progress = await asyncio.to_thread(files.look, id)
            row = row_of("", one_line(head.get("node"), 63), id, head, service.now())
        except (OSError, PeerError) as error:
            service.log.warning("a file among the recordings is none", file=id, error=error)
            continue
        seconds = progress.milliseconds / 1000
        found = replace(
            row,
            ended=row.started + seconds,
            seconds=seconds,
            shown=progress.shown,
            lost=progress.lost,
            size=size,
            state=INCOMPLETE,
            body={**row.body, "reason": "found without an entry in the database"},
        )
        async with service.store.write() as tables:
            # Its node may have begun it just now.
            if await tables.recordings.get(id) is None:
                await tables.recordings.put(found)
        service.log.warning("a recording was found without an entry", session=id, user=row.user)


async def look_after_recordings(service: Service) -> None:
    for row in await service.store.read.recordings.live():
        reason = service.recordings.is_silent(service, row)
        if reason is not None:
            await service.recordings.give_up(service, row, reason)
    await _forget_old(service)
    await _make_room(service)


async def _forget_old(service: Service) -> None:
    limits = recording_limits(service.issuer.policy.config)
    rows = service.store.read.recordings
    for row in await rows.oldest(None, AT_ONCE, await retention_time(service) - limits.retention):
        await service.recordings.delete(service, row, "recording_retention")


async def _make_room(service: Service) -> None:
    limits = recording_limits(service.issuer.policy.config)
    rows = service.store.read.recordings
    over = await rows.size() - limits.total
    gone = 0
    while over > 0 and gone < AT_ONCE:
        found = await _next_to_go(service, limits.total)
        if found is None:
            return
        await service.recordings.delete(service, found, "recording_max_total")
        over -= max(found.size, BLOCK)
        gone += 1
        await asyncio.sleep(0)


async def _next_to_go(service: Service, total: int) -> RecordingRow | None:
    """The oldest; of the node that has more than its share, when there is one."""
    rows = service.store.read.recordings
    for node, size in await rows.size_by_node(1):
        if size > total // SHARE:
            found = await rows.oldest(node, 1)
            if found:
                return found[0]
    found = await rows.oldest(None, 1)
    return found[0] if found else None
