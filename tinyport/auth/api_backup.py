"""The route of backups: a copy of the whole store as it is at one moment, taken while everything goes on."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from pathlib import Path

from aiohttp import web

from tinyport.auth.web import WRITE_SECONDS, Answer, Call

_PIECE = 256 * 1024


async def backup(call: Call) -> Answer:
    """The answer is the file. Its size and SHA-256 are in the headers, so a copy that was cut short is known."""
    service = call.service
    path = service.settings.data_dir / "auth" / f"backup-{secrets.token_hex(8)}.tmp"
    try:
        await service.store.snapshot(path)
        digest = await asyncio.to_thread(_digest, path)
        async with service.store.write() as tables:
            await service.audit.record(tables, "auth.backup", by=call.caller.actor, sha256=digest)
        return await _send(call, path, digest)
    finally:
        path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


async def _send(call: Call, path: Path, digest: str) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/vnd.sqlite3",
            "Cache-Control": "no-store",
            "Content-Length": str(os.stat(path).st_size),
            "Tinyport-Sha256": digest,
        }
    )
    await response.prepare(call.request)
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            await asyncio.wait_for(response.write(piece), WRITE_SECONDS)
    return response
