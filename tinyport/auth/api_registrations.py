"""Routes about devices that are registered in advance."""

from __future__ import annotations

from tinyport.auth.refusals import not_found
from tinyport.auth.registering import parse_registration, register
from tinyport.auth.store_registrations import RegistrationRow
from tinyport.auth.web import Answer, Call
from tinyport.core.errors import PeerError

#: in one request, which is one transaction
MAX_DEVICES = 1000


def _document(row: RegistrationRow) -> dict[str, object]:
    return {
        "id": row.id,
        "by": row.kind,
        "value": row.value,
        "name": row.name or None,
        "labels": dict(row.labels),
        "created": row.created,
        "node_uuid": row.node,
    }


async def list_registrations(call: Call) -> Answer:
    """``node_name``: of the node that a device became; None before, and when that was removed."""
    read = call.service.store.read
    rows = await read.registrations.all()
    names = await read.nodes.names({row.node for row in rows if row.node})
    return {"registrations": [{**_document(row), "node_name": names.get(row.node or "")} for row in rows]}


async def add_registrations(call: Call) -> Answer:
    """All of the devices or none. ``joined``: how many of them have come before, and are left as they are."""
    service = call.service
    items = call.fields.items("devices", MAX_DEVICES)
    if not items:
        raise PeerError("devices: a list of devices is needed")
    added = joined = 0
    async with service.store.write() as tables:
        for number, item in enumerate(items):
            try:
                fresh = await register(service, tables, parse_registration(item, service.now()))
            except PeerError as error:
                # Which one it was: for whoever sent it.
                error.extra["device"] = number
                raise
            added, joined = added + fresh, joined + (not fresh)
        if added:
            await service.audit.record(tables, "node.register", count=added, by=call.caller.actor)
    return {"added": added, "joined": joined}


async def delete_registration(call: Call) -> Answer:
    """By its id. A node that came by it stays."""
    id = call.path("id")
    async with call.service.store.write() as tables:
        if not await tables.registrations.delete(id):
            raise not_found("registration", id, hint='"tctl nodes registered" lists them')
        await call.service.audit.record(tables, "node.unregister", registration=id, by=call.caller.actor)
    return {"id": id}
