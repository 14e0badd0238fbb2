"""Routes about recordings: nodes send them; people list, watch, search and remove them, by rule.

``recordings`` ``read`` is for all of it, ``list`` for the list alone, ``read_own`` for what one began oneself. Whoever
watches one is written down.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from dataclasses import replace

from tinyport.auth.api_events import LATEST
from tinyport.auth.recording_search import folded, shows
from tinyport.auth.recordings import check_id
from tinyport.auth.refusals import not_found
from tinyport.auth.service import Service
from tinyport.auth.store_recordings import INCOMPLETE, LIVE, RecordingQuery, RecordingRow
from tinyport.auth.web import KEEPALIVE, Answer, Call, Lines, stream
from tinyport.core.asciicast import MEDIA_TYPE, Writer, header_line, header_of
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.names import printable
from tinyport.core.recording_frames import frames

RESOURCE = "recordings"
#: one piece: as it comes, and when it is unpacked
MAX_SENT, MAX_PIECE = 192 * 1024, 512 * 1024
MAX_FOUND = 1000
# An id is 32 hexadecimal digits; so many are typed, or copied, without a mistake.
LEAST_PREFIX = 4
MAX_TEXT = 200
# What one search may read and how long it may take; the next one goes on from there.
SEARCH_BYTES, SEARCH_SECONDS = 256 * 1024 * 1024, 4.0
_GROWTH_WAIT = 1.0


# -------------------------------------------------------------------- nodes


async def take_recording(call: Call) -> Answer:
    """A piece: ``offset`` says where it belongs, ``end=1`` that nothing comes after it. → where the next one does."""
    offset = int(call.query_number("offset", 0, 2**53) or 0)
    data = _unpacked(call)
    node = call.caller.uuid, call.caller.name
    last = call.query("end") == "1"
    size = await call.service.recordings.take(call.service, node, check_id(call.path("id")), offset, data, last=last)
    return {"offset": size}


def _unpacked(call: Call) -> bytes:
    coding = call.request.headers.get("Content-Encoding", "identity")
    if coding == "identity":
        if len(call.data) > MAX_PIECE:
            raise PeerError(f"a piece of a recording has at most {MAX_PIECE} bytes", code="too_large")
        return call.data
    if coding != "deflate":
        raise PeerError("Content-Encoding: deflate or none is needed")
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(call.data, MAX_PIECE)
    except zlib.error:
        raise PeerError("the piece cannot be unpacked") from None
    if unpacker.unconsumed_tail or not unpacker.eof:
        # Whether it is cut short or a bomb: nothing more of it is unpacked.
        raise PeerError(f"a piece of a recording has at most {MAX_PIECE} bytes", code="too_large")
    return data


# -------------------------------------------------------------------- people


def document(service: Service, row: RecordingRow) -> dict[str, object]:
    """What is known of one; of a live one, as of now."""
    shown, lost, seconds = row.shown, row.lost, row.seconds
    taking = service.recordings.live(row.id)
    if taking is not None:
        shown, lost = taking.progress.shown, taking.progress.lost
        seconds = taking.progress.milliseconds / 1000
    said = {
        key: value for key in ("mode", "command", "term", "columns", "rows", "reason") if (value := row.body.get(key))
    }
    return {
        "id": row.id,
        "user": row.user,
        "login": row.login,
        "node": row.node,
        "node_uuid": row.node_uuid,
        "kind": row.kind,
        "started": row.started,
        "ended": row.ended,
        "seconds": seconds,
        "bytes": shown,
        "state": row.state,
        "lost": lost,
        "parties": row.parties,
        **said,
    }


def _whose(call: Call, *verbs: str) -> str | None:
    """Whose recordings somebody may have who has none of ``verbs``: their own. None: everybody's."""
    caller = call.caller
    return None if any(caller.may(RESOURCE, verb) for verb in verbs) else caller.name


async def list_recordings(call: Call) -> Answer:
    """The newest first. ``next`` is given while there may be more: ask again with ``after``."""
    whose = _whose(call, "read", "list")
    after = call.query("after", 64)
    limit = int(call.query_number("limit", 1, MAX_FOUND) or 100)
    query = RecordingQuery(
        user=call.query("user", 192),
        node=call.query("node", 64),
        login=call.query("login", 64),
        since=call.query_number("since", 0, LATEST),
        until=call.query_number("until", 0, LATEST),
        after=None if after is None else check_id(after),
        limit=limit,
    )
    text = folded(call.query("text", MAX_TEXT) or "").strip()
    if whose is not None and query.user not in (None, whose):
        return {"recordings": [], "next": None}
    query = replace(query, user=whose or query.user)
    if text:
        # What was shown is more than the list.
        if whose is None:
            call.caller.require(RESOURCE, "read")
        async with call.service.recordings.searching:
            return await _search(call, query, text)
    found = await call.service.store.read.recordings.find(query)
    more = found[-1].id if len(found) == limit else None
    return {"recordings": [document(call.service, row) for row in found], "next": more}


async def _search(call: Call, query: RecordingQuery, text: str) -> Answer:
    service = call.service
    clock = service.settings.monotonic
    began, budget = clock(), SEARCH_BYTES
    found: list[dict[str, object]] = []
    searched, at = 0, query.after

    def read(size: int) -> bool:
        nonlocal budget
        budget -= size
        return budget > 0 and clock() - began < SEARCH_SECONDS

    while len(found) < query.limit:
        rows = await service.store.read.recordings.find(replace(query, after=at, limit=100))
        for row in rows:
            hit = await asyncio.to_thread(shows, service.recordings.files.pieces(row.id), text, read)
            if hit is None and searched:
                return {"recordings": found, "next": at, "searched": searched}
            searched, at = searched + 1, row.id
            if hit:
                found.append(document(service, row))
            if hit is None or len(found) == query.limit:
                # One that is too large for a whole search was looked at as far as that goes.
                return {"recordings": found, "next": at, "searched": searched}
        if len(rows) < 100:
            return {"recordings": found, "next": None, "searched": searched}
    return {"recordings": found, "next": at, "searched": searched}


async def _one(service: Service, text: str) -> RecordingRow:
    """The recording with this id, or the only one whose id begins so. PeerError ``not_found`` or ``ambiguous``."""
    prefix = text.lower()
    if len(prefix) >= LEAST_PREFIX and not prefix.strip("0123456789abcdef"):
        found = await service.store.read.recordings.beginning_with(prefix, 2)
        if len(found) == 1:
            return found[0]
        if found:
            raise PeerError(f"more than one recording begins with {printable(text, 40)}", code="ambiguous")
    raise not_found("recording", text)


async def read_recording(call: Call) -> Answer:
    """asciicast. With ``follow=1``, what comes later, too, until the session ends; an empty line every ten seconds says
    that the connection lives."""
    service = call.service
    whose = _whose(call, "read")
    row = await _one(service, call.path("id"))
    if whose is not None and row.user != whose:
        raise AccessDenied("your roles let you watch your own sessions alone", detail=f"recording {row.id}")
    follow = call.query("follow") == "1"
    async with service.store.write() as tables:
        about = {"user": row.user, "login": row.login, "node": row.node}
        await service.audit.record(
            tables, "recording.access", **about, sid=row.id, follow=follow or None, by=call.caller.actor
        )
    rule = (RESOURCE, "read") if whose is None else (RESOURCE, "read_own")
    return await stream(Lines(call, rule, MEDIA_TYPE), lambda lines: _play(service, row, lines, follow=follow))


async def _play(service: Service, row: RecordingRow, lines: Lines, *, follow: bool) -> None:
    about = {**row.body, "user": row.user, "login": row.login, "node": row.node, "time": row.started}
    await lines.write(header_line(header_of(about)))
    writer, at = Writer(), 0
    clock = service.settings.monotonic
    said = clock()
    while True:
        taking = service.recordings.live(row.id)
        growth = None if taking is None else taking.grown
        now = await service.store.read.recordings.get(row.id)
        at = await _send(service, row.id, writer, at, lines)
        if not at and not service.recordings.files.size(row.id):
            await lines.write("".join(writer.broken_off("the file of this recording is not there")))
            return
        if now is None or now.state != LIVE:
            if now is not None and now.state == INCOMPLETE and not writer.progress.ended:
                await lines.write("".join(writer.broken_off(f"the recording ends here: {now.body.get('reason')}")))
            return
        if not follow or service.closing.is_set():
            return
        if clock() - said >= KEEPALIVE:
            await lines.write("\n")
            await lines.check()
            said = clock()
        await _grown(growth)


async def _grown(growth: asyncio.Event | None) -> None:
    """None: nothing was heard of it since auth started."""
    if growth is None:
        await asyncio.sleep(_GROWTH_WAIT)
        return
    try:
        await asyncio.wait_for(growth.wait(), _GROWTH_WAIT)
    except asyncio.TimeoutError:
        return


async def _send(service: Service, id: str, writer: Writer, at: int, lines: Lines) -> int:
    """Write what the file has from ``at`` on; → where it ends now."""
    pieces = service.recordings.files.pieces(id, at)
    while (made := await asyncio.to_thread(_next_lines, pieces, writer)) is not None:
        text, length = made
        at += length
        if text:
            await lines.write(text)
    return at


def _next_lines(pieces: Iterator[bytes], writer: Writer) -> tuple[str, int] | None:
    try:
        piece = next(pieces, None)
        return None if piece is None else ("".join(writer.lines(frames(piece))), len(piece))
    except (OSError, PeerError):
        # The file is gone or damaged: what could be read was sent.
        return None


async def delete_recording(call: Call) -> Answer:
    """Remove one that has ended."""
    row = await _one(call.service, call.path("id"))
    if row.state == LIVE:
        raise PeerError("this session is still being recorded", code="in_use", hint="tctl sessions kill ends it")
    await call.service.recordings.delete(call.service, row, call.caller.actor)
    return {"id": row.id, "user": row.user, "node": row.node}
