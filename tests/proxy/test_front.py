"""Connections inside HTTP: what may come in them, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import pytest

from tests.proxy.conftest import Cluster, World, close, run, world
from tinyport.link import websocket as ws
from tinyport.proxy import front
from tinyport.proxy.stream import Stream


async def upgraded(here: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*here.address)
    writer.write(ws.client_handshake("/v1/connect", "proxy", ws.make_key(os.urandom(16))))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return reader, writer


@pytest.mark.parametrize(
    "said",
    [
        ws.encode(ws.OP_TEXT, b"{}", b"mask"),
        ws.encode(ws.OP_BINARY, b"not masked"),
        ws.encode(ws.OP_BINARY, b"SSH-2.0-x\r\n", b"mask"),
        ws.encode(ws.OP_BINARY, b"GET /v1/connect HTTP/1.1\r\n", b"mask"),
        bytes((0x82, 0xFF)) + (1 << 40).to_bytes(8, "big") + b"mask",
        ws.encode_close(1000, "", b"mask"),
    ],
    ids=["text", "not masked", "ssh", "http", "oversized", "close"],
)
def test_what_is_not_our_tls_ends_it(cluster: Cluster, tmp_path: Path, said: bytes) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            reader, writer = await upgraded(here)
            writer.write(said)
            await reader.read()
            await close(writer)
            while here.proxy.gateway.open_count:
                await asyncio.sleep(0)

    run(main())


def test_it_is_asked_whether_it_is_there(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            reader, writer = await upgraded(here)
            writer.write(ws.encode(ws.OP_PING, b"there?", b"mask"))
            assert await reader.readexactly(8) == ws.encode(ws.OP_PONG, b"there?")
            await close(writer)

    run(main())


def test_who_takes_nothing_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is asked for, and not read: what serves it gives up, and so do we, whatever the browser's end says."""
    monkeypatch.setattr(front, "TAKE_LIMIT", 0.05)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        outer, browser = socket.socketpair()
        ours, server = socket.socketpair()
        serving = asyncio.ensure_future(front.Front(Stream(loop, outer, ("192.0.2.1", 1)), ours).run())
        server.setblocking(False)
        with contextlib.suppress(asyncio.TimeoutError):
            # More than all the buffers in between take.
            await asyncio.wait_for(loop.sock_sendall(server, bytes(8 * 1024 * 1024)), 1)
        assert not serving.done()
        server.close()
        browser.send(ws.encode(ws.OP_PONG, b"", b"mask"))
        await serving
        browser.close()

    run(main())
