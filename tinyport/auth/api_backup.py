"""The route of backups: a copy of the whole store as it is at one moment, taken while everything goes on."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from typing import BinaryIO

from aiohttp import web

from tinyport.auth.web import WRITE_SECONDS, Answer, Call

_PIECE = 256 * 1024


async def backup(call: Call) -> Answer:
    """The answer is the file. Its size and SHA-256 are in the headers, so a copy that was cut short is known."""
    service = call.service
    path = service.settings.data_dir / "auth" / f"backup-{secrets.token_hex(8)}.tmp"
    try:
        await service.store.snapshot(path)
        file = path.open("rb")
    finally:
        # From here on it has no name: whatever ends us, no copy of the keys stays behind.
        path.unlink(missing_ok=True)
    with file:
        digest = await asyncio.to_thread(_digest, file)
        async with service.store.write() as tables:
            await service.audit.record(tables, "auth.backup", by=call.caller.actor, sha256=digest)
        return await _send(call, file, digest)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()


async def _send(call: Call, file: BinaryIO, digest: str) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/vnd.sqlite3",
            "Cache-Control": "no-store",
            "Content-Length": str(file.tell()),
            "Tinyport-Sha256": digest,
        }
    )
    await response.prepare(call.request)
    file.seek(0)
    while piece := await asyncio.to_thread(file.read, _PIECE):
        await asyncio.wait_for(response.write(piece), WRITE_SECONDS)
    return response
