"""What a web session asks of auth: in its user's own name, with a TLS certificate of minutes that auth issued for it.

So auth judges every question by the user's roles, as it does with ``tctl``; the proxy's own rights play no part.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp

from tinyport.core.errors import AccessDenied, PeerError, Unavailable
from tinyport.core.names import format_address
from tinyport.link.api import MAX_ANSWER

ANSWER_LIMIT = 15.0
CONNECT_LIMIT = 3.0
# What goes on says every ten seconds that it lives.
SILENCE_LIMIT = 30.0


class UserApi:
    """Auth's API as one user. ``use`` gives it newer certificates; ``close`` it."""

    def __init__(self, address: tuple[str, int], context: Callable[[str, str], ssl.SSLContext]) -> None:
        """``context``: TLS certificate and key (PEM) → a context that believes auth and nobody else."""
        self._base = f"https://{format_address(*address)}"
        self._context = context
        self._client: aiohttp.ClientSession | None = None
        #: certificate and key that were given last
        self._last: tuple[str, str] | None = None

    async def use(self, certificate: str, key: str) -> None:
        self._last = (certificate, key)
        limits = aiohttp.ClientTimeout(total=ANSWER_LIMIT, connect=CONNECT_LIMIT, sock_connect=CONNECT_LIMIT)
        connector = aiohttp.TCPConnector(ssl=self._context(certificate, key), limit=4, keepalive_timeout=20)
        old, self._client = (
            self._client,
            aiohttp.ClientSession(
                connector=connector, timeout=limits, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
            ),
        )
        if old is not None:
            # What is under way on it has as long as an answer may take.
            asyncio.get_running_loop().call_later(ANSWER_LIMIT, lambda: asyncio.ensure_future(old.close()))

    async def close(self) -> None:
        self._last = None
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def ask(
        self, method: str, path: str, query: Sequence[tuple[str, str]] = (), body: object = None
    ) -> tuple[int, bytes]:
        """An answer as it came: status and JSON. Unavailable when there is none."""
        if self._client is None:
            raise AccessDenied("this web session has ended", hint="log in again", code="expired")
        try:
            async with self._client.request(
                method, self._base + path, params=query, json=body, allow_redirects=False
            ) as answer:
                data = bytearray()
                async for piece in answer.content.iter_any():
                    data += piece
                    if len(data) > MAX_ANSWER:
                        raise PeerError("an answer of auth is too long")
                return answer.status, bytes(data)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, PeerError) as error:
            detail = f"{path}: {type(error).__name__} {error}"
            raise Unavailable("the auth server does not answer", detail=detail, hint="try again in a moment") from None

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """A long answer, on a connection of its own that outlives newer certificates. Unavailable when there is none;
        aiohttp.ClientError or asyncio.TimeoutError when it breaks off."""
        if self._last is None:
            raise AccessDenied("this web session has ended", hint="log in again", code="expired")
        limits = aiohttp.ClientTimeout(total=None, connect=CONNECT_LIMIT, sock_read=SILENCE_LIMIT)
        connector = aiohttp.TCPConnector(ssl=self._context(*self._last), limit=1, force_close=True)
        async with aiohttp.ClientSession(
            connector=connector, timeout=limits, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as client:
            try:
                answer = await client.get(self._base + path, params=query, allow_redirects=False)
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                detail = f"{path}: {type(error).__name__} {error}"
                raise Unavailable(
                    "the auth server does not answer", detail=detail, hint="try again in a moment"
                ) from None
            async with answer:
                yield answer

    async def session_certificate(self, node: str, otp: str, ssh_public_key: str) -> str:
        """A certificate for sessions on ``node``, against a one-time code. AccessDenied in auth's words."""
        body = {"nodes": [node], "otp": otp, "ssh_public_key": ssh_public_key}
        status, data = await self.ask("POST", "/v1/mfa/session", body=body)
        answer = json.loads(data)
        if status != 200:
            error = answer.get("error", {})
            raise AccessDenied(
                str(error.get("message")), code=str(error.get("code")), hint=str(error.get("hint") or "")
            )
        return str(answer["ssh_certificate"])
