"""The pump between an SSH channel and a connected socket. One for each forwarded connection.

Both directions are counted by hand, as in ``pump``: what the socket does not take pauses the channel, what the channel
does not take pauses the socket. Each half closes for itself (RFC 4254 section 5.3): EOF of the channel shuts the
socket's writing side after the last byte, the socket's end is the channel's EOF. When both are done the channel is
closed; when the client closes it, what it has sent before still reaches the socket.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

READ_SIZE = 64 * 1024
INPUT_HIGH = 128 * 1024
# A peer that takes nothing of what is left for this long has lost it.
DRAIN_LIMIT = 60.0


class SocketPump:
    """Lifecycle: made with a connected socket, which it owns; ``start`` when the channel is open; ``close`` when the
    channel is gone, after which it drains and ends by itself.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, stream: socket.socket, finished: Callable[[], None]) -> None:
        """``finished`` is called once, when the socket has been closed."""
        stream.setblocking(False)
        self._loop = loop
        self._stream = stream
        self._finished = finished
        self._channel: Any = None
        self._input = bytearray()
        self._input_ended = False
        self._input_paused = False
        self._writing_paused = False
        #: this half is over: nothing more is written to, or read from, the socket
        self._write_done = False
        self._read_done = False
        self._drain_timer: asyncio.TimerHandle | None = None
        self._closed = False

    def start(self, channel: Any) -> None:
        """``channel``: an open asyncssh channel of bytes."""
        if self._closed:
            channel.close()
            return
        self._channel = channel
        self._read_on()

    # ------------------------------------------------------------------ client to socket

    def feed(self, data: bytes) -> None:
        if self._write_done or self._closed:
            return
        self._input += data
        self._write()
        if len(self._input) >= INPUT_HIGH and not self._input_paused:
            self._input_paused = True
            self._channel.pause_reading()

    def feed_eof(self) -> None:
        self._input_ended = True
        self._write()

    def _write(self) -> None:
        if self._closed:
            return
        while self._input and not self._write_done:
            try:
                written = self._stream.send(self._input[:READ_SIZE])
            except BlockingIOError:
                self._loop.add_writer(self._stream, self._write)
                return
            except OSError:
                # The peer reads no more. It may still be writing.
                self._input.clear()
                self._write_done = True
                break
            del self._input[:written]
            if len(self._input) < INPUT_HIGH // 2:
                self._resume_input()
        self._loop.remove_writer(self._stream)
        self._resume_input()
        if self._input_ended and not self._write_done:
            self._write_done = True
            try:
                self._stream.shutdown(socket.SHUT_WR)
            except OSError:
                # The peer has gone meanwhile.
                self._read_done = True
        self._maybe_finish()

    def _resume_input(self) -> None:
        if self._input_paused:
            self._input_paused = False
            # Not from within a callback of the channel that delivers data.
            self._loop.call_soon(self._resume_channel)

    def _resume_channel(self) -> None:
        if self._channel is not None:
            self._channel.resume_reading()

    # ------------------------------------------------------------------ socket to client

    def pause_writing(self) -> None:
        self._writing_paused = True
        if not self._closed:
            self._loop.remove_reader(self._stream)

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._read_on()

    def _read_on(self) -> None:
        if not (self._closed or self._read_done or self._writing_paused or self._channel is None):
            self._loop.add_reader(self._stream, self._read)

    def _read(self) -> None:
        try:
            data = self._stream.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            # ECONNRESET: there is nobody to write to, either.
            data = b""
            self._write_done = True
            self._input.clear()
        try:
            if data:
                self._channel.write(data)
                return
            self._channel.write_eof()
        except OSError:
            # The client has closed the channel; connection_lost follows.
            pass
        self._loop.remove_reader(self._stream)
        self._read_done = True
        self._maybe_finish()

    # ------------------------------------------------------------------ the end

    def _maybe_finish(self) -> None:
        if not (self._read_done and self._write_done):
            return
        if self._channel is not None:
            # What was written before goes out first; connection_lost follows.
            self._channel.close()
        else:
            self._end()

    def close(self) -> None:
        """The channel is gone: nothing is read from the socket any more, what is left for it is written."""
        if self._closed:
            return
        self._channel = None
        self._read_done = True
        self._loop.remove_reader(self._stream)
        self._drain_timer = self._loop.call_later(DRAIN_LIMIT, self._end)
        self.feed_eof()

    def cut(self) -> None:
        """It may not be any more: nothing that is on its way arrives."""
        channel, self._channel = self._channel, None
        self._end()
        if channel is not None:
            channel.close()

    def _end(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self._loop.remove_reader(self._stream)
        self._loop.remove_writer(self._stream)
        self._stream.close()
        self._input.clear()
        self._finished()
