"""What time it is for that which goes when it is old: the audit log's beginning, recordings.

A clock that is suddenly years ahead (a bad time server, a dead battery) must not take all of it at once. So what counts
is a time that follows auth's clock by at most a day an hour: right where the clock goes as clocks do, and days or weeks
in which an administrator can put a wrong one right. A server that was off for a month has caught up a day later.
"""

from __future__ import annotations

from tinyport.auth.service import Service

#: where the time is kept, in Unix seconds
META = "retention_time"
#: of one ``follow_clock`` to the next, which is an hour
STRIDE = 86400.0


async def retention_time(service: Service) -> float:
    """Unix seconds; long ago until ``follow_clock`` has looked for the first time."""
    return min(service.now(), await _known(service) or 0.0)


async def follow_clock(service: Service) -> None:
    """To be called once an hour, by a clock that nobody sets."""
    now = service.now()
    known = await _known(service)
    if known is None:
        known = now
    time = max(known - STRIDE, min(now, known + STRIDE))
    if now - time > STRIDE:
        service.log.warning(
            "the clock is ahead: what is old goes a day's worth an hour until this is right, or caught up with",
            days=round((now - time) / 86400),
        )
    async with service.store.write() as tables:
        await tables.cluster.set_meta(META, repr(time))


async def _known(service: Service) -> float | None:
    kept = await service.store.read.cluster.meta(META)
    return None if kept is None else float(kept)
