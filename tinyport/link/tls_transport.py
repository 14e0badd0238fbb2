"""An asyncio transport over a TLS socket that is already open.

asyncio cannot take over an ``SSLSocket`` whose handshake was made elsewhere. This one reads and writes it without
blocking. Life: ``start`` once; then the protocol gets ``connection_made``, data, and ``connection_lost`` exactly once,
after ``close`` (when all was written), ``abort`` (at once), the peer's end, or an error.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

#: One TLS record is at most 16 KiB; this many are read before other tasks have their turn.
_RECORD = 16384
_BURST = 16

#: What may wait to be sent before the protocol is told to pause, and when it may go on.
HIGH_WATER, LOW_WATER = 256 * 1024, 64 * 1024


class SocketTransport(asyncio.Transport):
    """``early``: bytes of the protocol's stream that were read before. ``peer``: who is at the other end, where the
    socket does not say."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: ssl.SSLSocket,
        protocol: asyncio.Protocol,
        early: bytes = b"",
        peer: tuple[str, int] | None = None,
    ) -> None:
        super().__init__(
            {
                "socket": sock,
                "sockname": sock.getsockname(),
                "peername": peer or sock.getpeername(),
                "ssl_object": sock,
                "sslcontext": sock.context,
            }
        )
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._early = early
        self._waiting = bytearray()
        self._low, self._high = LOW_WATER, HIGH_WATER
        self._reading = True
        self._paused = False
        self._closing = False
        self._lost = False
        sock.setblocking(False)

    def start(self) -> None:
        """Tell the protocol, and begin to read."""
        self._protocol.connection_made(self)
        if self._early and not self._lost:
            early, self._early = self._early, b""
            self._protocol.data_received(early)
        if self._reading and not self._lost:
            self._loop.add_reader(self._sock, self._readable)
            # Bytes that TLS has already decrypted do not make the socket readable.
            self._loop.call_soon(self._readable)

    # ------------------------------------------------------------------ reading

    def _readable(self) -> None:
        for _ in range(_BURST):
            if self._lost or not self._reading:
                return
            try:
                data = self._sock.recv(_RECORD)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, InterruptedError):
                return
            except OSError as error:
                self._end(error)
                return
            if not data:
                self._protocol.eof_received()
                self._end(None)
                return
            self._protocol.data_received(data)
        self._loop.call_soon(self._readable)

    def is_reading(self) -> bool:
        return self._reading and not self._lost

    def pause_reading(self) -> None:
        if self._reading and not self._lost:
            self._reading = False
            self._loop.remove_reader(self._sock)

    def resume_reading(self) -> None:
        if not self._reading and not self._lost:
            self._reading = True
            self._loop.add_reader(self._sock, self._readable)
            self._loop.call_soon(self._readable)

    # ------------------------------------------------------------------ writing

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._lost or not data:
            return
        if not self._waiting:
            sent = self._send_records(data)
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
            if self._lost:
                return
            self._loop.add_writer(self._sock, self._writable)
        self._waiting += data
        if len(self._waiting) > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _send(self, data: bytes | bytearray | memoryview[Any]) -> int:
        """→ how much of ``data`` the socket took."""
        try:
            return self._sock.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._end(error)
            return 0

    def _send_records(self, data: bytes | bytearray | memoryview[Any]) -> int:
        """→ how much of ``data`` was sent, a record at a time: after "want write" OpenSSL wants the same bytes again,
        and not fewer than before."""
        done = 0
        with memoryview(data) as view:
            while done < len(view) and not self._lost:
                sent = self._send(view[done : done + _RECORD])
                if not sent:
                    break
                done += sent
        return done

    def _writable(self) -> None:
        # What is left is moved only once.
        done = self._send_records(self._waiting)
        if self._lost:
            return
        del self._waiting[:done]
        if self._paused and len(self._waiting) <= self._low:
            self._paused = False
            self._protocol.resume_writing()
        if not self._waiting:
            self._loop.remove_writer(self._sock)
            if self._closing:
                self._end(None)

    def get_write_buffer_size(self) -> int:
        return len(self._waiting)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER if high is None else high
        self._low = self._high // 4 if low is None else low

    def can_write_eof(self) -> bool:
        return False

    # ------------------------------------------------------------------ ending

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def close(self) -> None:
        if self._closing or self._lost:
            return
        self._closing = True
        self.pause_reading()
        if not self._waiting:
            self._end(None)

    def abort(self) -> None:
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._loop.call_soon(self._finish, error)

    def _finish(self, error: Exception | None) -> None:
        # Not cleared: what an error remembers may still look at it.
        self._waiting = bytearray()
        try:
            self._protocol.connection_lost(error)
        finally:
            self._sock.close()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol
