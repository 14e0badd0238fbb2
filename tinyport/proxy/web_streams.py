"""Answers of auth that are long, or go on while a session lasts: passed on to the browser as they come, and no faster
than it takes them."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web

from tinyport.core.errors import AccessDenied
from tinyport.proxy.web_sessions import WebSession

#: of one session at once: recordings that are looked at
MOST_STREAMS = 4
# A browser that takes nothing for so long has left, or is stopped: auth need not wait for it.
WRITE_LIMIT = 30.0
MAX_REFUSAL = 64 * 1024


async def pass_stream(request: web.Request, session: WebSession, path: str) -> web.StreamResponse:
    """The answer to GET ``path``, in the user's name. It ends with the session. AccessDenied ``in_use`` when there are
    too many already; Unavailable when auth does not answer."""
    if len(session.streams) >= MOST_STREAMS:
        raise AccessDenied(f"at most {MOST_STREAMS} recordings at once", hint="close one", code="in_use")
    query = {"follow": "1"} if request.query.get("follow") == "1" else {}
    task = asyncio.current_task()
    assert task is not None
    session.streams.add(task)
    try:
        async with session.api.stream(path, query) as answer:
            if answer.status != 200:
                body = await answer.content.read(MAX_REFUSAL)
                return web.Response(status=answer.status, body=body, content_type="application/json")
            response = web.StreamResponse(headers={"Content-Type": answer.content_type})
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await asyncio.wait_for(response.write(piece), WRITE_LIMIT)
            await response.write_eof()
            return response
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        # What has begun is cut: the browser sees that it is not whole.
        raise ConnectionResetError(f"a stream broke: {error}") from None
    finally:
        session.streams.discard(task)
