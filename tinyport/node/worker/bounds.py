"""What one connection may make the worker keep: output that nobody reads, input that nobody takes, requests in a queue.

A worker serves people who do not know each other, so what one does to their own connection must not become everybody's
memory. asyncssh bounds what a channel sends by the client's window alone, which the client may make 4 GiB wide; it
queues without bound what cannot be sent during a key exchange, and (before 2.21) what a paused channel receives.
"""

from __future__ import annotations

from typing import Any

import asyncssh
from asyncssh.channel import SSHAgentChannel, SSHChannel, SSHX11Channel
from asyncssh.constants import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_REQUEST,
    MSG_GLOBAL_REQUEST,
)
from asyncssh.packet import SSHPacket

from tinyport.node.worker.idle import WatchedConnection
from tinyport.node.worker.packets import LeanPackets

# Past this, channels hold their output back, and their programs feel it by their pipes.
OUTPUT_HIGH, OUTPUT_LOW = 256 * 1024, 64 * 1024
# Answers (to pings, to requests) are not held back. Past this nothing more of the client is read: until then it is, for
# whoever presses Control-C over a slow line wants to be heard.
UNSENT = 1024 * 1024
# What waits for the end of a key exchange. Each packet costs some hundred bytes more than its data.
DEFERRED, DEFERRED_PACKETS = 4 * 1024 * 1024, 4096
# Received and not parsed: a packet has at most 256 KiB (asyncssh 2.20 does not look), and some may come behind it.
UNPARSED = 1024 * 1024
# Requests wait while the keeper does what an earlier one asks. asyncssh answers those that wait one within the other:
# this is far below Python's limit, and a client has a dozen.
MAX_REQUESTS = 128
# A client whose packets carry less would have us send thousands for a screenful.
LEAST_PACKET = 64
_WINDOW, _PACKET = 2 * 1024 * 1024, 32 * 1024


class BoundedChannel(SSHChannel[bytes]):
    """Waits with its output while the connection holds it, and keeps no more input than its window."""

    _request_queue: list[Any]
    _kept = 0

    def write(self, data: bytes, datatype: int | None = None) -> None:
        if isinstance(self._conn, WatchedConnection):
            self._conn.byte_passed()
        # Mostly nothing waits and the client has room for all of it.
        if len(data) <= self._send_window and not self._send_buf and self._sends_now(data, datatype):
            return
        super().write(data, datatype)
        # A program that writes byte by byte costs bytes then, not objects.
        waiting = self._send_buf
        if len(waiting) > 1 and waiting[-2][1] == waiting[-1][1]:
            last, _ = waiting.pop()
            waiting[-1][0].extend(last)

    def _sends_now(self, data: bytes, datatype: int | None) -> bool:
        conn = self._conn
        if not isinstance(conn, LeanPackets) or not isinstance(conn, BoundedConnection) or conn.holds_output:
            return False
        if not data or self._send_state != "open" or self._send_chan is None or self._send_pktsize < LEAST_PACKET:
            return False
        # RFC 4254 section 5.2.
        kind = MSG_CHANNEL_DATA if datatype is None else MSG_CHANNEL_EXTENDED_DATA
        head = bytes((kind,)) + self._send_chan.to_bytes(4, "big")
        if datatype is not None:
            head += datatype.to_bytes(4, "big")
        size = self._send_pktsize
        view = memoryview(data)
        pieces = [view[at : at + size] for at in range(0, len(data), size)]
        heads = [head + len(piece).to_bytes(4, "big") for piece in pieces]
        if not conn.send_data(heads, pieces):
            return False
        self._send_window -= len(data)
        return True

    def _flush_send_buf(self) -> None:
        if not isinstance(self._conn, BoundedConnection) or not self._conn.holds_output:
            super()._flush_send_buf()
        elif self._session is not None:
            self._pause_resume_writing()

    def _accept_data(self, data: bytes, datatype: int | None = None) -> None:
        if isinstance(self._conn, WatchedConnection):
            self._conn.byte_passed()
        if not self._recv_paused or not data:
            super()._accept_data(data, datatype)
            return
        self._kept += len(data)
        if self._kept > self._init_recv_window:
            # Some of it may have been taken since.
            self._kept = sum(len(part) for part, _ in self._recv_buf) + len(data)
            if self._kept > self._init_recv_window:
                raise asyncssh.ProtocolError("Window exceeded")
        super()._accept_data(data, datatype)
        waiting = self._recv_buf
        if len(waiting) > 1 and waiting[-2][1] == datatype:
            last, _ = waiting.pop()
            earlier, _ = waiting.pop()
            # In place, or a client that sends byte by byte would have us copy its window for each.
            joined = earlier if isinstance(earlier, bytearray) else bytearray(earlier)
            joined += last
            waiting.append((joined, datatype))  # type: ignore[arg-type]

    def _process_request(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        if len(self._request_queue) >= MAX_REQUESTS:
            raise asyncssh.ProtocolError("Too many channel requests at a time")
        super()._process_request(pkttype, pktid, packet)

    # asyncssh finds handlers of packets here, not by their names.
    _packet_handlers: dict[int, Any] = {**SSHChannel._packet_handlers, MSG_CHANNEL_REQUEST: _process_request}  # noqa: RUF012


class BoundedTCPChannel(BoundedChannel, asyncssh.SSHTCPChannel[bytes]):
    """Of a forwarded port."""


class BoundedUNIXChannel(BoundedChannel, asyncssh.SSHUNIXChannel[bytes]):
    """Of a forwarded unix socket."""


class BoundedX11Channel(BoundedChannel, SSHX11Channel):
    """Of a program's window."""


class BoundedAgentChannel(BoundedChannel, SSHAgentChannel):
    """To the client's agent."""


class BoundedConnection(asyncssh.SSHServerConnection):
    """The connection's share of it. Everything past a bound ends this connection and no other."""

    _unsent = False
    _silenced = False
    _turn = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=OUTPUT_HIGH, low=OUTPUT_LOW)

    # ------------------------------------------------------------------ output

    @property
    def holds_output(self) -> bool:
        """Must channels wait? While the client reads nothing, and while keys are exchanged."""
        return self._unsent or not self._kex_complete

    def pause_writing(self) -> None:
        self._unsent = True

    def resume_writing(self) -> None:
        self._unsent = False
        if self._silenced and self._transport is not None:
            self._silenced = False
            self._transport.resume_reading()
        self._release()

    def _send_deferred_packets(self) -> None:
        super()._send_deferred_packets()
        self._release()

    def _release(self) -> None:
        """Let channels send, each in its turn: the first must not take all of it every time."""
        channels = list(self._channels.values())
        for count in range(len(channels)):
            if self.holds_output:
                self._turn += count
                return
            channel = channels[(self._turn + count) % len(channels)]
            if channel._send_buf:
                channel._flush_send_buf()

    # ------------------------------------------------------------------ input

    def data_received(self, data: bytes, datatype: Any = None) -> None:
        super().data_received(data, datatype)
        if self._transport is None:
            return
        waiting = self._deferred_packets
        if len(self._inpbuf) > UNPARSED:
            self._force_close(asyncssh.ProtocolError("A packet is too large"))
        elif len(waiting) > DEFERRED_PACKETS or (
            len(waiting) > 64 and sum(len(part) for _, parts in waiting for part in parts) > DEFERRED
        ):
            self._force_close(asyncssh.ProtocolError("The key exchange does not end"))
        elif self._unsent and not self._silenced and self._transport.get_write_buffer_size() > UNSENT:
            self._silenced = True
            self._transport.pause_reading()

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        if pkttype == MSG_GLOBAL_REQUEST and len(self._global_request_queue) >= MAX_REQUESTS:
            raise asyncssh.ProtocolError("Too many global requests at a time")
        if pkttype == MSG_CHANNEL_OPEN:
            # RFC 4254 section 5.1: type, number, window, packet size.
            asked = SSHPacket(packet.get_remaining_payload())
            asked.get_string()
            number, _, size = asked.get_uint32(), asked.get_uint32(), asked.get_uint32()
            if size < LEAST_PACKET:
                text = f"packets of {size} bytes are too small, {LEAST_PACKET} are needed"
                self.send_channel_open_failure(number, asyncssh.OPEN_RESOURCE_SHORTAGE, text, "en")
                return True
        return super().process_packet(pkttype, pktid, packet)

    # ------------------------------------------------------------------ channels

    def create_tcp_channel(
        self, encoding: str | None = None, errors: str = "strict", window: int = _WINDOW, max_pktsize: int = _PACKET
    ) -> BoundedTCPChannel:
        return BoundedTCPChannel(self, self._loop, encoding, errors, window, max_pktsize)

    def create_unix_channel(
        self, encoding: str | None = None, errors: str = "strict", window: int = _WINDOW, max_pktsize: int = _PACKET
    ) -> BoundedUNIXChannel:
        return BoundedUNIXChannel(self, self._loop, encoding, errors, window, max_pktsize)

    def create_x11_channel(self, window: int = _WINDOW, max_pktsize: int = _PACKET) -> BoundedX11Channel:
        return BoundedX11Channel(self, self._loop, None, "strict", window, max_pktsize)

    def create_agent_channel(self, window: int = _WINDOW, max_pktsize: int = _PACKET) -> BoundedAgentChannel:
        return BoundedAgentChannel(self, self._loop, None, "strict", window, max_pktsize)
