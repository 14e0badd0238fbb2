"""Routes of proxies: the watch, presence, the access check."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace

from tinyport.auth.api_join import public_addresses, refused
from tinyport.auth.api_nodes import MAX_SELECTORS, matching, node_document
from tinyport.auth.copies import copies_left
from tinyport.auth.fields import Fields, one_line
from tinyport.auth.presence import LEASE, Change
from tinyport.auth.reaching import check_decision, check_online, resolve, sees
from tinyport.auth.service import Service
from tinyport.auth.store import WriteTables
from tinyport.auth.store_nodes import Seen
from tinyport.auth.watchers import Watcher
from tinyport.auth.web import KEEPALIVE, Answer, Call, Lines, stream
from tinyport.core.access import claimed_name, judge_certificate
from tinyport.core.certificate import Certificate
from tinyport.core.errors import AccessDenied, PeerError, TinyportError
from tinyport.core.names import (
    check_cluster,
    check_label,
    check_login,
    format_address,
    is_uuid,
    parse_address,
    printable,
)

MAX_REPORTED = 20_000
#: what people of other clusters see of a node: not where it is in our network
_SHOWN = ("uuid", "name", "status", "last_seen", "labels", "declared_labels")
MAX_DECLARED = 64
MAX_NODE_ADDRESSES = 16
_PAGE = 500
MAX_COPIES = 32


# -------------------------------------------------------------------- watch


async def watch(call: Call) -> Answer:
    """The policy, every node's document, a keepalive that says "that is all", and then what changes."""
    service = call.service
    with service.watchers.watch() as watcher:
        return await stream(Lines(call, None), lambda lines: _watch(service, watcher, lines))


async def _watch(service: Service, watcher: Watcher, lines: Lines) -> None:
    # We watch already, so what changes from here on comes by the watcher; what was before, is in the store.
    await lines.send({"policy": service.issuer.signed})
    after = ""
    while page := await service.store.read.nodes.documents(after, _PAGE):
        after = page[-1][0]
        await lines.send(*({"node": signed} for _, signed in page))
    await lines.keepalive()
    heard = service.settings.monotonic()
    while not service.closing.is_set():
        message = await watcher.next(1.0)
        if message is not None:
            await lines.send(message)
        # A stream of changes must not delay the check that the reader is still welcome.
        if service.settings.monotonic() - heard >= KEEPALIVE or (message is not None and "removed" in message):
            await lines.keepalive()
            heard = service.settings.monotonic()


# -------------------------------------------------------------------- presence


def _declared(value: object) -> dict[str, str]:
    """Labels that a node declares, less those that are none. They are the node's words: shown, never trusted."""
    kept: dict[str, str] = {}
    for key, text in value.items() if isinstance(value, dict) else ():
        try:
            name, checked = check_label(key, text)
        except PeerError:
            # A hostile node must not be able to spoil its proxy's report on the others.
            continue
        kept[name] = checked
        if len(kept) == MAX_DECLARED:
            break
    return kept


def _addresses(value: object) -> tuple[str, ...]:
    kept = []
    for item in value[: 2 * MAX_NODE_ADDRESSES] if isinstance(value, list) else ():
        try:
            kept.append(format_address(*parse_address(one_line(item, 300))))
        except PeerError:
            continue
    return tuple(kept[:MAX_NODE_ADDRESSES])


def _seen(fields: Fields, now: float) -> Seen:
    """One entry of a report."""
    uuid = fields.text("uuid", 64)
    if not is_uuid(uuid):
        raise PeerError("nodes: uuid: a UUID is needed")
    body = fields.body
    return Seen(
        uuid=uuid,
        last_seen=now,
        online=fields.flag("online"),
        addresses=_addresses(body["addresses"]) if "addresses" in body else None,
        declared_labels=_declared(body["labels"]) if "labels" in body else None,
        peer=one_line(body["peer"], 80) if "peer" in body else None,
        version=one_line(body["version"], 64) if "version" in body else None,
    )


async def presence(call: Call) -> Answer:
    """A proxy says which nodes are connected to it, and by that keeps its lease."""
    service, fields = call.service, call.fields
    full = fields.flag("full")
    now = service.now()
    service.proxy_sources[call.caller.uuid] = call.source
    reported: dict[str, Seen] = {}
    bodies: dict[str, Mapping[str, object]] = {}
    for item in fields.items("nodes", MAX_REPORTED):
        body = item if isinstance(item, dict) else {}
        seen = _seen(Fields(body), now)
        reported[seen.uuid] = seen
        bodies[seen.uuid] = body
    # Without the nodes that were removed: their tunnels are about to be closed, they are not to come back by that.
    there = await service.store.read.nodes.names(reported)
    known = {uuid: seen for uuid, seen in reported.items() if uuid in there}
    if full:
        service.copies.full(call.caller.uuid, known.keys(), service.settings.monotonic())
    for uuid in known:
        _told(service, call.caller.uuid, uuid, bodies[uuid])
        await _copies(service, call.caller.uuid, uuid, bodies[uuid])
    change = service.presence.report(
        call.caller.uuid,
        {uuid: seen.online for uuid, seen in known.items()},
        full=full,
        now=service.settings.monotonic(),
        wall=now,
        clusters=fields.texts("clusters", check_cluster) if fields.has("clusters") else None,
        partners=fields.texts("partners", check_cluster) if fields.has("partners") else None,
    )
    await _write(service, list(known.values()), change)
    if fields.has("addresses"):
        await _moved(call, public_addresses(fields.items("addresses")))
    period, key = service.introductions.key(call.caller.uuid, service.settings.monotonic())
    return {"lease": int(LEASE), "introduce": {"period": period, "key": key.hex()}}


def _told(service: Service, proxy: str, uuid: str, body: Mapping[str, object]) -> None:
    """What need not last: the bytes of the node's connections to this proxy since it began to count, and by how much
    the node's clock is off.
    """
    skew = body.get("skew")
    if isinstance(skew, (int, float)) and not isinstance(skew, bool) and abs(skew) < 2**40:
        if skew:
            service.skews[uuid] = float(skew)
        else:
            service.skews.pop(uuid, None)
    count, since = body.get("bytes"), body.get("bytes_since")
    if type(count) is int and 0 <= count < 2**63 and isinstance(since, (int, float)) and 0 < since < 2**53:
        service.traffic.said(uuid, proxy, count, float(since), service.now())


async def _copies(service: Service, proxy: str, uuid: str, body: Mapping[str, object]) -> None:
    """Which copies of the node are connected to this proxy, and from where."""
    told: dict[str, str] = {}
    listed = body.get("copies")
    for item in listed[:MAX_COPIES] if isinstance(listed, list) else ():
        if isinstance(item, dict):
            told[one_line(item.get("instance"), 32)] = one_line(item.get("peer"), 80)
    news = service.copies.tell(proxy, uuid, told)
    if news:
        async with service.store.write() as tables:
            for instance in news:
                await tables.copies.saw(uuid, instance, service.now(), told.get(instance, ""))
            await copies_left(service, tables, uuid, news)


async def _write(service: Service, news: list[Seen], change: Change) -> None:
    """Write what is new. The same again, which is most reports, costs the database nothing."""
    fresh = []
    for seen in news:
        labels = None if seen.declared_labels is None else tuple(sorted(seen.declared_labels.items()))
        said = hash((seen.addresses, labels, seen.peer, seen.version))
        if seen.uuid in change.came or seen.uuid in change.went or service.written.get(seen.uuid) != said:
            # Another proxy may have it though this one has not.
            fresh.append((replace(seen, online=service.presence.online(seen.uuid)), said))
    if not fresh:
        return
    async with service.store.write() as tables:
        await tables.nodes.seen(seen for seen, _ in fresh)
        await _tell(service, tables, change.came, change.went)
    for seen, said in fresh:
        service.written[seen.uuid] = said


async def _tell(service: Service, tables: WriteTables, came: frozenset[str], went: frozenset[str]) -> None:
    # After an outage these are thousands: one chain of events with one signature, not a signature for each.
    events = []
    names = await tables.nodes.names(came | went)
    for event, uuids in (("node.online", came), ("node.offline", went)):
        for uuid in sorted(uuids & names.keys()):
            events.append(service.audit.event(event, node=names[uuid], node_uuid=uuid))
    await service.audit.append(tables, events)


async def expire_presence(service: Service) -> None:
    """Leases that ran out: their nodes are offline, since their proxy was last heard."""
    now = service.settings.monotonic()
    went = service.presence.expire(now)
    gone = service.copies.expire(now, lambda proxy: service.presence.proxy_online(proxy, now))
    if gone:
        async with service.store.write() as tables:
            for uuid, instances in gone.items():
                await copies_left(service, tables, uuid, instances)
    if not went:
        return
    service.log.info("nodes went offline with their proxy", count=len(went))
    async with service.store.write() as tables:
        await tables.nodes.seen(Seen(uuid, heard, online=False) for uuid, heard in went.items())
        await _tell(service, tables, frozenset(), frozenset(went))


async def flush_last_seen(service: Service) -> None:
    """Once in a while, for the day that this process is killed: when the nodes that are online were last heard. One row
    says it of all of them: ten thousand rows a minute would be 14 GB a day for a server's flash."""
    heard = service.presence.heard_at_least()
    if heard is not None:
        async with service.store.write() as tables:
            await tables.cluster.set_meta("online_at", repr(heard))


async def forget_online(service: Service) -> None:
    """At the start: what an earlier process left as online was there until it last said so."""
    heard = float(await service.store.read.cluster.meta("online_at") or 0.0)
    async with service.store.write() as tables:
        await tables.nodes.none_online(heard)


async def _moved(call: Call, addresses: tuple[str, ...]) -> None:
    """The proxy's public addresses, when they are not what they were."""
    uuid = call.caller.uuid
    node = await call.service.store.read.nodes.get(uuid)
    if node is None or node.addresses == addresses:
        return
    async with call.service.store.write() as tables:
        await tables.nodes.set_addresses(uuid, addresses)
        await call.service.issuer.refresh(tables)
        await call.service.audit.record(
            tables, "node.update", node=node.name, node_uuid=uuid, by=call.caller.actor, addresses=list(addresses)
        )


# -------------------------------------------------------------------- access


def _certificate(fields: Fields) -> Certificate:
    try:
        blob = base64.b64decode(fields.text("certificate", 96 * 1024), validate=True)
    except (binascii.Error, ValueError):
        raise PeerError("certificate: not base64") from None
    return Certificate.decode(blob)


async def access(call: Call) -> Answer:
    """May the bearer of this certificate reach that node? Asked before the node is touched."""
    service, fields = call.service, call.fields
    certificate = _certificate(fields)
    target = fields.text("target", 512)
    login = fields.checked("login", check_login) if fields.has("login") else None
    source = fields.optional_text("source", 64)
    try:
        subject = judge_certificate(certificate, policy=service.issuer.policy, now=service.now(), source=source)
        node = await resolve(service, subject, target)
        check_decision(service, subject, node, login)
        check_online(service, node)
    except TinyportError as error:
        await _refused(call, certificate, target, login, source, error)
        raise
    return {"node": {"uuid": node.uuid, "name": node.name}, "user": subject.user}


async def access_nodes(call: Call) -> Answer:
    """The nodes that the bearer of this certificate may see; for people of other clusters, who cannot ask themselves.
    The proxy has seen that the certificate is theirs."""
    service, fields = call.service, call.fields
    certificate = _certificate(fields)
    source = fields.optional_text("source", 64)
    selectors = fields.items("selectors", MAX_SELECTORS) if fields.has("selectors") else []
    search = fields.optional_text("search", 500) or ""
    try:
        subject = judge_certificate(certificate, policy=service.issuer.policy, now=service.now(), source=source)
    except TinyportError as error:
        await _refused(call, certificate, "", None, source, error)
        raise
    found = matching(
        await service.store.read.nodes.all("node"),
        lambda node: sees(subject, node),
        [one_line(selector, 400) for selector in selectors],
        search,
        addresses=False,
    )
    return {
        "nodes": [
            {key: value for key, value in node_document(service, node, locks={}).items() if key in _SHOWN}
            for node in found
        ]
    }


async def _refused(
    call: Call, certificate: Certificate, target: str, login: str | None, source: str | None, error: TinyportError
) -> None:
    if isinstance(error, AccessDenied) or error.code in ("offline", "ambiguous"):
        await refused(
            call,
            "access.denied",
            error,
            user=printable(claimed_name(certificate, call.service.issuer.policy), 192) or None,
            target=printable(target, 100),
            login=login,
            source=one_line(source, 64) or None,
            proxy=call.caller.name,
        )
