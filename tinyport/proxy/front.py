"""Connections inside HTTP: where a load balancer ends the outer TLS (docs/protocol/tunnel.md, "Inside HTTP").

What it passes on is a WebSocket in clear, and in it a connection to this very port: the client's TLS to us, to auth or
for a dial-back, which nobody on the way can read or change.
"""

from __future__ import annotations

import asyncio
import socket

from tinyport.core.errors import PeerError
from tinyport.link import websocket as ws
from tinyport.link.httphead import Head, parse_head
from tinyport.link.inside_http import MAX_FRAME, PATH, PIECE
from tinyport.proxy.sockets import has_left
from tinyport.proxy.stream import Stream

# nginx closes what is silent for 60 s. Tunnels beat every 50 s, so this is for sessions in which nobody types.
PING_AFTER = 55.0
# When the connection inside is over, what it said last is to be taken within this: whoever takes nothing would stay.
TAKE_LIMIT = 60.0


def wanted(data: bytes) -> Head | None:
    """The head of a request for this; None for any other request, or half of one. PeerError when it is malformed."""
    head = parse_head(data)
    if head is None or head.request()[1] != PATH:
        return None
    ws.check_request(head, PATH)
    return head


class Front:
    """One WebSocket and the connection in it. ``run`` lasts until either has ended, and ends the other."""

    def __init__(self, stream: Stream, inner: socket.socket) -> None:
        """``inner``: our end of a socket pair; the other one is served like any connection."""
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._end = inner
        self._inner = Stream(self._loop, inner, stream.peer)
        self._last = self._loop.time()

    async def run(self) -> None:
        works = [asyncio.ensure_future(work()) for work in (self._inwards, self._outwards, self._pinging)]
        try:
            over = False
            while True:
                done, _ = await asyncio.wait(works, timeout=TAKE_LIMIT, return_when=asyncio.FIRST_COMPLETED)
                if done or over:
                    return
                over = has_left(self._end)
        finally:
            for work in works:
                work.cancel()
            self._inner.abort()
            self._stream.abort()
            # A connection that broke is an end like any other here.
            await asyncio.gather(*works, return_exceptions=True)

    async def _inwards(self) -> None:
        decoder = ws.Decoder("server", MAX_FRAME)
        while data := await self._stream.receive():
            self._last = self._loop.time()
            for opcode, payload in decoder.feed(data):
                if opcode == ws.OP_BINARY:
                    await self._inner.send(payload)
                elif opcode == ws.OP_PING:
                    await self._stream.send(ws.encode(ws.OP_PONG, payload))
                elif opcode == ws.OP_CLOSE:
                    return
                elif opcode != ws.OP_PONG:
                    raise PeerError("only binary messages have a meaning here")
        # Nothing more comes, as over TCP; what is under way in the other direction still arrives.
        await self._inner.send_eof()
        await self._loop.create_future()

    async def _outwards(self) -> None:
        while data := await self._inner.receive(PIECE):
            self._last = self._loop.time()
            await self._stream.send(ws.encode(ws.OP_BINARY, data))
        await self._stream.send(ws.encode_close(ws.CLOSE_NORMAL))
        await self._stream.drained()

    async def _pinging(self) -> None:
        while True:
            left = self._last + PING_AFTER - self._loop.time()
            if left <= 0:
                self._last = self._loop.time()
                await self._stream.send(ws.encode(ws.OP_PING))
            else:
                await asyncio.sleep(left)
