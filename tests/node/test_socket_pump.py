"""The pump of forwarded connections: nothing lost, nothing held without bound, each half by itself."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.node.session_harness import LIMIT
from tinyport.node.worker import socket_pump
from tinyport.node.worker.socket_pump import INPUT_HIGH, SocketPump


class Channel:
    """What a pump needs of asyncssh's channel; ``said`` is everything that went to the client."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.reading = True
        self.closed = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.said.append(data)

    def write_eof(self) -> None:
        self.said.append("EOF")

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.said.append("close")
        self.closed.set()


Scene = Callable[[SocketPump, Channel, socket.socket, "asyncio.Event"], Any]


def play(scene: Scene) -> None:
    """``scene(pump, channel, the socket's other end, an event that says that the pump's end is closed)``."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        finished = asyncio.Event()
        pump, channel = SocketPump(loop, ours, finished.set), Channel()
        pump.start(channel)
        with theirs:
            await asyncio.wait_for(scene(pump, channel, theirs, finished), LIMIT)
            pump.close()
            theirs.close()
            await asyncio.wait_for(finished.wait(), LIMIT)

    asyncio.run(run())


async def received(stream: socket.socket) -> bytes:
    data = b""
    while piece := await asyncio.get_running_loop().sock_recv(stream, 1 << 16):
        data += piece
    return data


def test_halves_close_one_by_one() -> None:
    async def scene(pump: SocketPump, channel: Channel, theirs: socket.socket, finished: asyncio.Event) -> None:
        pump.feed(b"question")
        pump.feed_eof()
        assert await received(theirs) == b"question"
        assert channel.said == []
        await asyncio.get_running_loop().sock_sendall(theirs, b"answer")
        theirs.shutdown(socket.SHUT_WR)
        await channel.closed.wait()
        assert channel.said == [b"answer", "EOF", "close"]
        assert not finished.is_set(), "the channel's end is awaited"

    play(scene)


def test_the_client_stays_when_the_socket_has_said_all() -> None:
    async def scene(pump: SocketPump, channel: Channel, theirs: socket.socket, finished: asyncio.Event) -> None:
        theirs.shutdown(socket.SHUT_WR)
        while not channel.said:
            await asyncio.sleep(0)
        assert channel.said == ["EOF"]
        pump.feed(b"still here")
        pump.feed_eof()
        assert await received(theirs) == b"still here"
        assert channel.closed.is_set()

    play(scene)


def test_a_slow_reader_holds_the_client_back_and_loses_nothing() -> None:
    async def scene(pump: SocketPump, channel: Channel, theirs: socket.socket, finished: asyncio.Event) -> None:
        data = os.urandom(3_000_000)
        at = 0
        while channel.reading:
            pump.feed(data[at : at + 32768])
            at += 32768
        assert INPUT_HIGH <= at < len(data)
        reading = asyncio.ensure_future(received(theirs))
        while at < len(data):
            if channel.reading:
                pump.feed(data[at : at + 32768])
                at += 32768
            await asyncio.sleep(0)
        pump.feed_eof()
        assert await reading == data

    play(scene)


def test_a_slow_client_holds_the_socket_back() -> None:
    async def scene(pump: SocketPump, channel: Channel, theirs: socket.socket, finished: asyncio.Event) -> None:
        pump.pause_writing()
        await asyncio.get_running_loop().sock_sendall(theirs, b"x" * 1000)
        for _ in range(10):
            await asyncio.sleep(0)
        assert channel.said == []
        pump.resume_writing()
        while not channel.said:
            await asyncio.sleep(0)
        assert channel.said == [b"x" * 1000]

    play(scene)


def test_what_was_sent_before_the_channel_closed_arrives() -> None:
    async def scene(pump: SocketPump, channel: Channel, theirs: socket.socket, finished: asyncio.Event) -> None:
        data = os.urandom(2_000_000)
        pump.feed(data)
        pump.close()
        pump.close()
        assert not finished.is_set()
        assert await received(theirs) == data
        await finished.wait()

    play(scene)


def test_a_socket_that_takes_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_pump, "DRAIN_LIMIT", 0.01)

    async def scene(pump: SocketPump, channel: Channel, theirs: socket.socket, finished: asyncio.Event) -> None:
        pump.feed(bytes(4_000_000))
        pump.close()
        await finished.wait()

    play(scene)


def test_a_peer_that_hangs_up_on_us() -> None:
    async def scene(pump: SocketPump, channel: Channel, theirs: socket.socket, finished: asyncio.Event) -> None:
        theirs.close()
        pump.feed(b"too late")
        await channel.closed.wait()
        assert channel.said == ["EOF", "close"]

    play(scene)


def test_a_reset() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
        finished, channel = asyncio.Event(), Channel()
        pump = SocketPump(loop, ours, finished.set)
        pump.start(channel)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        await asyncio.wait_for(channel.closed.wait(), LIMIT)
        pump.feed(b"to nobody")
        pump.close()
        await asyncio.wait_for(finished.wait(), LIMIT)

    asyncio.run(run())
