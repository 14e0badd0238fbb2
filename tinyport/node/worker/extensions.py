"""What OpenSSH added to the protocol around sessions: host keys that a client may learn, pings, no more sessions.

OpenSSH's PROTOCOL, sections 1.9 (ping@openssh.com), 2.2 (no-more-sessions@openssh.com) and 2.5
(hostkeys-00@openssh.com, hostkeys-prove-00@openssh.com).
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import asyncssh
from asyncssh.packet import SSHPacket, String

from tinyport.core.errors import TinyportError
from tinyport.node.worker.keeper import KeeperLine, base64_text

_MSG_PING, _MSG_PONG = 192, 193
# A client asks for keys that it does not know, all in one request; we have one.
MAX_KEYS = 8


class ExtendedConnection(asyncssh.SSHServerConnection):
    """``number`` and ``_keeper`` are the connection's own; ``_plain_key`` its host key without a certificate."""

    number: int
    _keeper: KeeperLine
    _plain_key: bytes
    #: the client has promised to open no more
    no_more_sessions = False

    def connection_made(self, transport: Any) -> None:
        self._extensions_to_send[b"ping@openssh.com"] = b"0"
        super().connection_made(transport)

    # ------------------------------------------------------------------ ping

    def _process_ping(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        del pkttype, pktid
        data = packet.get_string()
        packet.check_end()
        self.send_packet(_MSG_PONG, String(data))

    _packet_handlers = {**asyncssh.SSHServerConnection._packet_handlers, _MSG_PING: _process_ping}  # noqa: RUF012

    # ------------------------------------------------------------------ sessions

    def _process_no_more_sessions_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        packet.check_end()
        self.no_more_sessions = True
        self._report_global_response(True)

    # ------------------------------------------------------------------ host keys

    def send_server_host_keys(self) -> None:
        """Our key without its certificate: whoever came by the plain key may learn of no other, and keeps it."""
        self._send_global_request(b"hostkeys-00@openssh.com", String(self._plain_key))

    def _process_hostkeys_prove_00_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        keys: list[bytes] = []
        while packet and len(keys) < MAX_KEYS:
            keys.append(packet.get_string())
        packet.check_end()
        if not keys or set(keys) != {self._plain_key}:
            self._report_global_response(False)
            return
        self.create_task(self._prove_host_key(len(keys)))

    async def _prove_host_key(self, times: int) -> None:
        try:
            answer, _ = await self._keeper.ask("hostkey", conn=self.number, key=base64_text(self._plain_key))
        except (TinyportError, asyncio.CancelledError):
            self._report_global_response(False)
            return
        signature = base64.b64decode(str(answer["signature"]))
        self._report_global_response(String(signature) * times)
