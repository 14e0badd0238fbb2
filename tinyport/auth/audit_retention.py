"""The audit log forgets its beginning, if ``audit_retention`` says so, and stays checkable (docs/protocol/audit.md)."""

from __future__ import annotations

from tinyport.auth.retention import retention_time
from tinyport.auth.service import Service
from tinyport.core.cluster_config import audit_retention
from tinyport.core.durations import format_duration

# Of one transaction, which others wait for; and of one look after the house, an hour: 28 events a second, for ever.
AT_ONCE, AT_MOST = 1000, 100_000
# Past the retention by so much, so that there is a checkpoint a day and not one for every event.
SLACK = 86400


async def prune_audit(service: Service) -> int:
    """Remove the oldest events, up to the first that is to stay; how many. What a copy (``audit_sinks``) has not got
    stays, however old it is."""
    retention = audit_retention(service.issuer.policy.config)
    if retention is None:
        return 0
    removed = 0
    before = await retention_time(service) - retention
    oldest = await service.store.read.audit.oldest(1)
    if not oldest or oldest[0][2] >= before - SLACK:
        return 0
    copied = min(service.copied.values(), default=None)
    while removed < AT_MOST:
        last = None
        for id, hash, received in await service.store.read.audit.oldest(AT_ONCE):
            if received >= before or (copied is not None and id > copied):
                break
            last = (id, hash)
        if last is None:
            break
        checkpoint = service.audit.checkpoint(*last)
        async with service.store.write() as tables:
            count = await tables.audit.prune(checkpoint)
            await service.audit.record(
                tables, "audit.prune", count=count, until=checkpoint.id, retention=format_duration(retention)
            )
        removed += count
        if count < AT_ONCE:
            break
    return removed
