"""The audit log outside the database: a file of JSON lines, and syslog. All that happens, in order, at least once.

Where a sink has got to is kept beside the database. A full disk or a syslog that is away holds it up; the events wait
in the database, and nothing else waits for the sink.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tinyport.auth.service import Service
from tinyport.auth.settings import AuditSinks
from tinyport.core.errors import TinyportError

_BATCH = 500
_RETRY = 10.0
# Should a wake-up be missed, a look now and then costs nothing.
_LOOK = 30.0
# RFC 3164 section 4.1.1: facility 10, security/authorization messages; severity by the last letter of an event's code.
_AUTHPRIV = 10
_SEVERITY = {"I": 6, "W": 4, "E": 3}
# journald takes more, rsyslog 8 kB by default.
_MAX_DATAGRAM = 8 * 1024
_LOG_SOCKET = "/dev/log"


class Sink(Protocol):
    """``write`` raises OSError when it cannot; it is called again with the same events then."""

    name: str

    def write(self, events: Sequence[Mapping[str, object]]) -> None: ...


class FileSink:
    """JSON lines, appended. The file is opened for each batch, so that logrotate may move it away."""

    name = "file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, events: Sequence[Mapping[str, object]]) -> None:
        data = b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            done = 0
            try:
                while done < len(data):
                    done += os.write(descriptor, data[done:])
                os.fdatasync(descriptor)
            except OSError:
                # Half a line would spoil the next one.
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)


class SyslogSink:
    """One datagram an event to the machine's syslog, as JSON."""

    name = "syslog"

    def __init__(self, path: str = _LOG_SOCKET) -> None:
        self._path = path

    def write(self, events: Sequence[Mapping[str, object]]) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(1.0)
            connection.connect(self._path)
            for event in events:
                connection.send(syslog_line(event))


def syslog_line(event: Mapping[str, object]) -> bytes:
    """``<priority>tinyport-audit: JSON``; an event that is too long for a datagram keeps its main fields."""
    priority = _AUTHPRIV * 8 + _SEVERITY.get(str(event.get("code"))[-1:], 6)
    head = f"<{priority}>tinyport-audit: ".encode()
    line = head + json.dumps(event).encode()
    if len(line) <= _MAX_DATAGRAM:
        return line
    kept = {key: event[key] for key in ("id", "event", "code", "time", "user", "node", "login") if key in event}
    return head + json.dumps({**kept, "cut": True}).encode()[:_MAX_DATAGRAM]


def make_sinks(wanted: AuditSinks) -> list[Sink]:
    sinks: list[Sink] = []
    if wanted.file is not None:
        sinks.append(FileSink(wanted.file))
    if wanted.syslog:
        sinks.append(SyslogSink(wanted.syslog_socket))
    return sinks


class Position:
    """How far a sink has got: an event's id, in a file of a fixed length that is written in place."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def read(self) -> int | None:
        """None: it has never got anything."""
        text = os.pread(self._file, 20, 0)
        return int(text) if text.strip().isdigit() else None

    def write(self, id: int) -> None:
        os.pwrite(self._file, f"{id:<19}\n".encode("ascii"), 0)

    def close(self) -> None:
        os.close(self._file)


async def feed(service: Service, sink: Sink) -> None:
    """Give a sink every event from where it was, for ever. A new sink begins with what happens from now on."""
    rows = service.store.read.audit
    position = Position(service.settings.data_dir / "auth" / f"audit-{sink.name}.position")
    try:
        held = position.read()
        head = (await rows.head())[0]
        # Beyond the head: the database was restored from a backup. Its new events are new to the sink, too.
        at = head if held is None else min(held, head)
        begin = await rows.checkpoint()
        if begin is not None and at < begin.id:
            # It was not configured for a while: nobody kept these events for it.
            service.log.error("the audit log's copy lacks events", sink=sink.name, count=begin.id - at)
            at = begin.id
        position.write(at)
        service.copied[sink.name] = at
        failing = False
        while True:
            growth = service.audit.growth()
            found = await rows.chained(at, at + _BATCH, _BATCH)
            if not found:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(growth.wait(), _LOOK)
                continue
            try:
                await _give(sink, [{"id": id, **event} for id, _, event in found], position)
            except OSError as error:
                if not failing:
                    service.log.error("the audit log's copy is held up", sink=sink.name, error=error)
                failing = True
                await asyncio.sleep(_RETRY)
                continue
            if failing:
                service.log.info("the audit log's copy goes on", sink=sink.name)
            failing = False
            at = service.copied[sink.name] = found[-1][0]
    finally:
        position.close()


async def _give(sink: Sink, events: Sequence[Mapping[str, object]], position: Position) -> None:
    """Have the sink write ``events`` and note that it has them; OSError when it cannot. Whoever is stopped meanwhile
    waits for both: an ordinary restart tells nothing twice.
    """

    def write() -> None:
        sink.write(events)
        position.write(int(str(events[-1]["id"])))

    writing = asyncio.ensure_future(asyncio.to_thread(write))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise


async def feed_all(service: Service) -> None:
    """Every sink that is configured, until it is cancelled. The database being away holds them up, too."""
    sinks = make_sinks(service.settings.audit_sinks)
    for sink in sinks:
        # Until it has said where it is.
        service.copied[sink.name] = 0
    await asyncio.gather(asyncio.Event().wait(), *(_fed(service, sink) for sink in sinks))


async def _fed(service: Service, sink: Sink) -> None:
    while True:
        try:
            await feed(service, sink)
        except (TinyportError, OSError) as error:
            service.log.error("the audit log's copy is held up", sink=sink.name, error=error)
            await asyncio.sleep(_RETRY)
