"""A connected socket, plain or TLS, outside asyncio's transports.

asyncio's SSL transport keeps a 256 kB buffer for each connection; a non-blocking SSLSocket costs 26 to 45 kB,
most of it OpenSSL's. A proxy holds thousands of them, nearly all of them silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable

from tinyport.proxy.traffic import unconfirmed, wire_bytes

# What one turn reads: four TLS records. Larger pieces gain nothing measurable and make a busy session starve
# others.
CHUNK = 64 * 1024
# A sender waits above HIGH until no more than LOW is left.
HIGH = 4 * CHUNK
LOW = CHUNK

_AGAIN = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

# One buffer for all: reading never suspends between filling it and taking the bytes out.
_scratch = memoryview(bytearray(CHUNK))


class Stream:
    """Bytes in both directions over one socket, with back-pressure.

    Made from a connected socket; ``secure`` makes it TLS. One task may receive at a time and one may wait for
    ``send`` at a time. Every operation raises OSError (TLS errors are such) once the connection is broken.
    Whoever owns the stream ends it with ``close`` (says goodbye, waits a little) or ``abort`` (at once);
    abort may be called any number of times, by anybody.
    """

    __slots__ = (
        "_ended",
        "_loop",
        "_out",
        "_queued",
        "_reader",
        "_sock",
        "_unread",
        "_writer",
        "_writing",
        "on_close",
        "peer",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, peer: tuple[str, int]) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        #: (address, port) at the other end
        self.peer = peer
        self._unread = b""
        self._out: deque[bytes] = deque()
        self._queued = 0
        self._writing = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._ended = False
        #: called once with the socket, a moment before it is closed
        self.on_close: Callable[[socket.socket], None] | None = None

    # ------------------------------------------------------------------ TLS

    async def secure(self, context: ssl.SSLContext, *, server_side: bool = True) -> ssl.SSLSocket:
        """Speak TLS from here on.

        OSError when the handshake fails; the caller sets the time limit.
        """
        tls = context.wrap_socket(self._sock, server_side=server_side, do_handshake_on_connect=False)
        self._sock = tls
        while True:
            try:
                tls.do_handshake()
                return tls
            except ssl.SSLWantReadError:
                await self._readable()
            except ssl.SSLWantWriteError:
                await self._writable()

    @property
    def tls(self) -> ssl.SSLSocket:
        """The TLS below. ConnectionError when there is none."""
        if not isinstance(self._sock, ssl.SSLSocket):
            raise ConnectionAbortedError("the stream is not TLS")
        return self._sock

    @property
    def closed(self) -> bool:
        return self._sock.fileno() < 0

    def release(self) -> socket.socket:
        """Give the socket away, with its TLS; the stream is closed then. ConnectionError when it is not at rest: bytes
        are queued, or were received and not taken."""
        if self.closed or self._unread or self._out or self._reader is not None:
            raise ConnectionAbortedError("the stream is not at rest")
        sock, self._sock = self._sock, socket.socket()
        self._sock.close()
        return sock

    @property
    def on_the_wire(self) -> int:
        """Bytes that this connection has cost so far, see ``traffic``."""
        return wire_bytes(self._sock)

    @property
    def unconfirmed(self) -> tuple[int, int] | None:
        """See ``traffic``."""
        return unconfirmed(self._sock)

    def end_when_unconfirmed(self, seconds: float) -> None:
        """Have the kernel end the connection when the peer's does not confirm for so long what was sent."""
        self.set_option(socket.TCP_USER_TIMEOUT, int(seconds * 1000))

    def set_option(self, name: int, value: int) -> None:
        """One of TCP's, where this is TCP and the kernel knows it."""
        if self._sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_TCP, name, value)

    # ------------------------------------------------------------------ in

    async def receive(self, limit: int = CHUNK) -> bytes:
        """At least one and at most ``limit`` (≤ CHUNK) bytes; b"" when the peer has ended its side."""
        if self._unread:
            data, self._unread = self._unread[:limit], self._unread[limit:]
            return data
        while True:
            try:
                data = self._receive_now(limit)
            except ssl.SSLWantWriteError:
                await self._writable()
            except _AGAIN:
                await self._readable()
            else:
                self._ended = not data
                return data

    def _receive_now(self, limit: int) -> bytes:
        sock, filled, limit = self._sock, 0, min(limit, CHUNK)
        if not isinstance(sock, ssl.SSLSocket):
            return sock.recv(limit)
        # SSL_read returns one record at a time, and what OpenSSL already holds wakes no selector: read until
        # it is dry.
        while filled < limit:
            try:
                count = sock.recv_into(_scratch[filled:limit])
            except _AGAIN:
                if not filled:
                    raise
                break
            if not count:
                break
            filled += count
        return bytes(_scratch[:filled])

    def unread(self, data: bytes) -> None:
        """Put back what was received and not used: it is received again."""
        self._unread = data + self._unread

    async def receive_exactly(self, count: int) -> bytes:
        """Exactly ``count`` bytes and not one more; ConnectionError when the stream ends before."""
        data = b""
        while len(data) < count:
            piece = await self.receive(count - len(data))
            if not piece:
                raise ConnectionAbortedError("the stream ended in the middle")
            data += piece
        return data

    async def receive_until(self, end: bytes, limit: int) -> bytes | None:
        """Everything up to and with the first ``end``; what follows stays to be received.

        None when ``limit`` bytes hold no ``end``; ConnectionError when the stream ends before.
        """
        data = bytearray()
        while True:
            piece = await self.receive()
            if not piece:
                raise ConnectionAbortedError("the stream ended in the middle")
            searched = max(0, len(data) - len(end) + 1)
            data += piece
            found = data.find(end, searched, limit)
            if found >= 0:
                found += len(end)
                self._unread = bytes(data[found:]) + self._unread
                return bytes(data[:found])
            if len(data) >= limit:
                return None

    # ------------------------------------------------------------------ out

    @property
    def queued(self) -> int:
        """How many bytes wait for the peer."""
        return self._queued

    def offer(self, data: bytes) -> None:
        """Send what the socket takes now and keep the rest. The caller watches ``queued``."""
        if not data:
            return
        if self.closed:
            raise ConnectionAbortedError("the stream is closed")
        self._out.append(data)
        self._queued += len(data)
        if not self._writing:
            self._flush()

    async def send(self, data: bytes) -> None:
        """Send, and wait while more than the peer takes is queued."""
        self.offer(data)
        if self._queued > HIGH:
            await self.drained(LOW)

    async def drained(self, left: int = 0) -> None:
        """Wait until at most ``left`` bytes are queued."""
        while self._queued > left:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    def _flush(self) -> None:
        out = self._out
        try:
            while out:
                # OpenSSL wants the same bytes again after a write that would block, so a piece stays until it
                # is gone.
                sent = self._sock.send(out[0])
                self._queued -= sent
                if sent == len(out[0]):
                    out.popleft()
                else:
                    out[0] = out[0][sent:]
                if self._writer is not None and self._queued <= LOW:
                    _wake(self._writer)
        except _AGAIN:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._sock.fileno(), self._flush)
            return
        except OSError as error:
            # Who called may be the event loop: whoever waits must learn it.
            self._break(error)
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())
        if self._writer is not None:
            _wake(self._writer)

    async def send_eof(self) -> None:
        """Send what is queued, then end our side. What the peer still says can be received."""
        await self.drained()
        if isinstance(self._sock, ssl.SSLSocket) and self._ended:
            # OpenSSL's shutdown also reads, and would eat what the peer still says; so only when it says
            # nothing more.
            self._goodbye()
        self._shutdown()

    # ------------------------------------------------------------------ the end

    async def close(self, linger: float = 2.0) -> None:
        """Send what is queued, end both sides in order, wait ``linger`` seconds at most for the peer,
        close."""
        try:
            await asyncio.wait_for(self._finish(), linger)
        except (OSError, asyncio.TimeoutError):
            # It is over either way; nobody is left who could do something about it.
            return
        finally:
            self.abort()

    async def _finish(self) -> None:
        await self.drained()
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.version() is not None:
            self._goodbye()
        self._shutdown()
        # Closing with unread bytes makes the kernel send a reset, which can overtake our last words. Read
        # raw: what comes is thrown away, so TLS need not understand it.
        while not self.closed:
            try:
                if not socket.socket.recv(self._sock, CHUNK):
                    return
            except _AGAIN:
                await self._readable()

    def _goodbye(self) -> None:
        try:
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.unwrap()
        except (OSError, ValueError):
            # close_notify was sent or cannot be; unwrap also wants the peer's answer, which nobody here waits
            # for.
            return

    def _shutdown(self) -> None:
        try:
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
        except OSError:
            # Not connected any more: the reader learns it.
            return

    def abort(self) -> None:
        """Close at once; whoever waits gets ConnectionAbortedError."""
        self._break(ConnectionAbortedError("the stream was closed"))

    def _break(self, error: OSError) -> None:
        descriptor = self._sock.fileno()
        if descriptor < 0:
            return
        self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)
        self._writing = False
        self._out.clear()
        self._queued = 0
        if self.on_close is not None:
            self.on_close(self._sock)
        self._sock.close()
        for waiter in (self._reader, self._writer):
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)

    # ------------------------------------------------------------------ waiting for the socket

    async def _readable(self) -> None:
        await self._ready(self._loop.add_reader, self._loop.remove_reader)

    async def _writable(self) -> None:
        # Only for TLS that must write in order to read (key updates); who sends has its own callback.
        if self._writing:
            await self.drained()
            return
        await self._ready(self._loop.add_writer, self._loop.remove_writer)

    async def _ready(self, watch: Callable[..., object], unwatch: Callable[[int], object]) -> None:
        descriptor = self._sock.fileno()
        if descriptor < 0:
            raise ConnectionAbortedError("the stream is closed")
        self._reader = waiter = self._loop.create_future()
        watch(descriptor, _wake, waiter)
        try:
            await waiter
        finally:
            self._reader = None
            # After abort the number may already be somebody else's.
            if not self.closed:
                unwatch(descriptor)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
