"""Streams and splices: whole, in order, bounded, and over when they are over."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest

from tests.proxy.conftest import Cluster, run
from tinyport.host.tls import client_context, server_context
from tinyport.proxy import splice as splice_module
from tinyport.proxy.splice import Splice
from tinyport.proxy.stream import CHUNK, HIGH, Stream

PEER = ("192.0.2.7", 4242)


def pair() -> tuple[Stream, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    return Stream(asyncio.get_running_loop(), ours, PEER), theirs


async def tls_pair(cluster: Cluster) -> tuple[Stream, asyncio.StreamReader, asyncio.StreamWriter]:
    """A TLS stream of ours, and the client's end in asyncio's clothes."""
    certificate, key = cluster.tls.leaf("proxy", "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b")
    server = server_context([cluster.tls.pem], alpn=["x"], cert_pem=certificate, key_pem=key, client="none")
    stream, theirs = pair()
    _, (reader, writer) = await asyncio.gather(
        stream.secure(server),
        asyncio.open_connection(sock=theirs, ssl=client_context([cluster.tls.pem], alpn=["x"]), server_hostname="x"),
    )
    return stream, reader, writer


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        pass


def test_plain_bytes_go_both_ways_and_end() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        stream, theirs = pair()
        await loop.sock_sendall(theirs, b"hello")
        assert await stream.receive() == b"hello"
        await stream.send(b"answer")
        assert await loop.sock_recv(theirs, 100) == b"answer"
        theirs.shutdown(socket.SHUT_WR)
        assert await stream.receive() == b""
        await stream.send_eof()
        assert await loop.sock_recv(theirs, 100) == b""
        stream.abort()
        stream.abort()
        with pytest.raises(OSError, match="closed"):
            await stream.send(b"x")
        with pytest.raises(OSError):
            await stream.receive()
        theirs.close()

    run(main())


def test_tls_carries_megabytes_both_ways_at_once(cluster: Cluster) -> None:
    blob = os.urandom(3 * 1024 * 1024)

    async def echo(stream: Stream) -> None:
        while data := await stream.receive():
            assert len(data) <= CHUNK
            await stream.send(data)
        await stream.close()

    async def main() -> None:
        stream, reader, writer = await tls_pair(cluster)
        echoing = asyncio.ensure_future(echo(stream))

        async def write() -> None:
            writer.write(blob)
            await writer.drain()

        _, back = await asyncio.gather(write(), reader.readexactly(len(blob)))
        assert hashlib.sha256(back).digest() == hashlib.sha256(blob).digest()
        await close(writer)
        await echoing

    run(main())


def test_a_slow_peer_holds_the_sender_up(cluster: Cluster) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        stream, theirs = pair()
        sending = asyncio.ensure_future(stream.send(bytes(4 * 1024 * 1024)))
        await asyncio.sleep(0)
        assert not sending.done()
        received = 0
        while not sending.done():
            received += len(await loop.sock_recv(theirs, CHUNK))
        assert stream.queued <= HIGH
        while received < 4 * 1024 * 1024:
            received += len(await loop.sock_recv(theirs, CHUNK))
        assert stream.queued == 0
        stream.abort()
        theirs.close()

    run(main())


def test_abort_wakes_whoever_waits() -> None:
    async def main() -> None:
        stream, theirs = pair()
        reading = asyncio.ensure_future(stream.receive())
        writing = asyncio.ensure_future(stream.send(bytes(8 * 1024 * 1024)))
        await asyncio.sleep(0)
        stream.abort()
        for waiting in (reading, writing):
            with pytest.raises(ConnectionAbortedError):
                await waiting
        theirs.close()

    run(main())


def test_reading_exactly_leaves_the_rest() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        stream, theirs = pair()
        await loop.sock_sendall(theirs, b"ticket\nSSH-2.0-x\r\n{}\nrest")
        assert await stream.receive_exactly(7) == b"ticket\n"
        assert await stream.receive_until(b"\n", 100) == b"SSH-2.0-x\r\n"
        assert await stream.receive_until(b"\n", 100) == b"{}\n"
        assert await stream.receive() == b"rest"
        await loop.sock_sendall(theirs, bytes(100))
        assert await stream.receive_until(b"\n", 100) is None
        theirs.close()
        with pytest.raises(ConnectionAbortedError):
            await stream.receive_until(b"\n", 100)
        with pytest.raises(ConnectionAbortedError):
            await stream.receive_exactly(1)
        stream.abort()

    run(main())


def test_close_says_goodbye_after_the_last_word(cluster: Cluster) -> None:
    async def main() -> None:
        stream, reader, writer = await tls_pair(cluster)
        # What the peer still sends must not turn our last words into a reset.
        writer.write(bytes(100_000))
        stream.offer(b"last words\n")
        closing = asyncio.ensure_future(stream.close())
        assert await reader.read() == b"last words\n"
        await close(writer)
        await closing
        assert stream.closed

    run(main())


def test_a_handshake_with_nonsense_fails() -> None:
    async def main() -> None:
        stream, theirs = pair()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        await asyncio.get_running_loop().sock_sendall(theirs, b"\x16\x03\x01\x00\x02\x01\x00" + bytes(100))
        with pytest.raises(OSError):
            await stream.secure(context)
        stream.abort()
        theirs.close()

    run(main())


async def spliced(act: Callable[[socket.socket, socket.socket, Splice], Awaitable[None]]) -> Splice:
    first, left = pair()
    second, right = pair()
    splice = Splice(first, second)
    running = asyncio.ensure_future(splice.run())
    await act(left, right, splice)
    await running
    assert first.closed
    assert second.closed
    left.close()
    right.close()
    return splice


def test_splice_joins_and_counts() -> None:
    async def act(left: socket.socket, right: socket.socket, splice: Splice) -> None:
        loop = asyncio.get_running_loop()
        blob = os.urandom(1_000_000)
        sending = asyncio.ensure_future(loop.sock_sendall(left, blob))
        got = b""
        while len(got) < len(blob):
            got += await loop.sock_recv(right, CHUNK)
        await sending
        assert got == blob
        # Half-closed: the other way still works.
        left.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(right, 10) == b""
        await loop.sock_sendall(right, b"still here")
        assert await loop.sock_recv(left, 100) == b"still here"
        right.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(left, 10) == b""

    splice = run(spliced(act))
    assert (splice.sent, splice.received) == (1_000_000, 10)


def test_splice_delivers_what_was_said_before_a_break() -> None:
    async def act(left: socket.socket, right: socket.socket, splice: Splice) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(left, b"before the end")
        await loop.sock_sendall(right, b"unread")
        arrived = loop.create_future()
        loop.add_reader(left, arrived.set_result, None)
        await arrived
        loop.remove_reader(left)
        # Closed with unread bytes: the splice sees a reset.
        left.close()
        got = b""
        while piece := await loop.sock_recv(right, 100):
            got += piece
        assert got == b"before the end"
        right.close()

    run(spliced(act))


def test_splice_can_be_cut() -> None:
    async def act(left: socket.socket, right: socket.socket, splice: Splice) -> None:
        await asyncio.sleep(0)
        splice.cut()
        assert await asyncio.get_running_loop().sock_recv(left, 10) == b""

    run(spliced(act))


def test_splice_that_is_silent_too_long_ends() -> None:
    async def main() -> None:
        first, left = pair()
        second, right = pair()
        await Splice(first, second, idle=0.01).run()
        assert first.closed
        left.close()
        right.close()

    run(main())


def test_half_closed_and_silent_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice_module, "HALF_CLOSED", 0.01)

    async def act(left: socket.socket, right: socket.socket, splice: Splice) -> None:
        left.shutdown(socket.SHUT_WR)

    run(spliced(act))
