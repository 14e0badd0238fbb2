"""A browser without a screen: the page's API and its terminal, for scenarios about the web."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import aiohttp
from yarl import URL

from tests.scenarios.cluster import LIMIT, Cluster


class Browser:
    """One person's; keeps its cookie as a browser does. ``csrf`` and ``about``: what the last log-in said."""

    def __init__(self, cluster: Cluster) -> None:
        self.base = f"https://{cluster.ready['proxy']}"
        self.csrf = ""
        self.about: dict[str, Any] = {}
        self._sockets: list[socket.socket] = []
        self._terminals: list[aiohttp.ClientWebSocketResponse[bool]] = []
        self._context = ssl.create_default_context(cafile=str(cluster.data / "proxy" / "web.pem"))

    async def __aenter__(self) -> Browser:
        jar = aiohttp.CookieJar(unsafe=True)
        connector = aiohttp.TCPConnector(ssl=self._context, socket_factory=self._socket)
        self.client = aiohttp.ClientSession(connector=connector, cookie_jar=jar)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for terminal in self._terminals:
            await terminal.close()
        await self.client.close()
        # TLS says goodbye first: a transport that was closed a moment ago is not yet.
        await asyncio.wait_for(self._gone(), LIMIT)

    def _socket(self, address: Any) -> socket.socket:
        made = socket.socket(*address[:3])
        self._sockets.append(made)
        return made

    async def _gone(self) -> None:
        while any(one.fileno() >= 0 for one in self._sockets):
            await asyncio.sleep(0.01)

    @property
    def cookie(self) -> str:
        found = self.client.cookie_jar.filter_cookies(URL(self.base)).get("__Host-tinyport")
        return "" if found is None else found.value

    async def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """As a person does it: when too many have failed from here, again after a moment."""
        own = {"Origin": self.base, "Tinyport-Csrf": self.csrf, **(headers or {})}
        while True:
            async with self.client.request(method, self.base + path, json=body, headers=own) as answer:
                found = json.loads(await answer.read() or b"{}")
            if answer.status != 429:
                return answer.status, found
            await asyncio.sleep(float(found["error"]["retry_after"]))

    async def log_in(self, user: str, password: str = "correct horse battery", **more: str) -> dict[str, Any]:
        status, answer = await self.ask("POST", "/web/api/login", {"user": user, "password": password, **more})
        assert status == 200, answer
        self.csrf, self.about = answer["csrf"], answer
        return answer

    async def terminal(self, wish: Mapping[str, object], origin: str = "") -> Screen:
        terminal = await self.client.ws_connect(
            self.base + "/web/ws/terminal",
            origin=origin or self.base,
            max_msg_size=0,
            # A proxy that a scenario has stopped says no goodbye.
            timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
        )
        self._terminals.append(terminal)
        await terminal.send_json(dict(wish))
        return Screen(terminal)

    async def open(self, node: str, login: str) -> Screen:
        screen = await self.terminal({"type": "open", "node": node, "login": login, "cols": 80, "rows": 24})
        await screen.attached()
        return screen


class Screen:
    """A terminal in it: what came, and the place of its end in the whole."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.text = b""
        self.place = 0
        self.id = ""
        self.said: dict[str, Any] = {}

    async def attached(self) -> None:
        await self.next()
        assert self.said["type"] == "attached", self.said
        self.id, self.place = self.said["id"], self.said["from"]

    async def next(self, *, acknowledge: bool = True) -> aiohttp.WSMessage:
        message: aiohttp.WSMessage = await asyncio.wait_for(self.socket.receive(), LIMIT)
        if message.type is aiohttp.WSMsgType.BINARY:
            self.place += len(message.data)
            self.text = (self.text + message.data)[-100_000:]
            if acknowledge:
                # The proxy may have said its last already.
                with suppress(ConnectionError):
                    await self.socket.send_json({"type": "ack", "bytes": self.place})
        elif message.type is aiohttp.WSMsgType.TEXT:
            self.said = json.loads(message.data)
        return message

    async def until(self, words: bytes) -> None:
        while words not in self.text:
            message = await self.next()
            assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), (message, self.said, self.text)

    async def silence(self) -> None:
        """Take what comes, and acknowledge none of it, until nothing comes for a second."""
        while True:
            try:
                message = await asyncio.wait_for(self.socket.receive(), 1)
            except asyncio.TimeoutError:
                return
            if message.type is aiohttp.WSMsgType.BINARY:
                self.place += len(message.data)

    async def end(self) -> dict[str, Any]:
        """What it says last."""
        while self.said.get("type") not in ("exit", "error"):
            await self.next()
        return self.said

    async def type(self, text: str) -> None:
        await self.socket.send_bytes(text.encode())
