"""What an SSH server says as it leaves, for clients that are asyncssh's.

asyncssh takes SSH_DISCONNECT_BY_APPLICATION for an orderly end and drops the reason; a node that takes access away says
it so, and OpenSSH shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# RFC 4253 sections 11.1 and 12
MSG_DISCONNECT = 1
BY_APPLICATION = 11


def heeding(connection: Any, error: Callable[[int, str], Exception]) -> Any:
    """``connection`` (asyncssh's, before it says anything), ending with ``error(code, reason)`` when the server leaves
    with a reason, which is also its attribute ``parting`` then."""
    usual = connection._packet_handlers[MSG_DISCONNECT]

    def leaving(itself: Any, kind: int, number: int, packet: Any) -> Any:
        payload = packet.get_remaining_payload()
        # RFC 4253 section 11.1: the code, the reason, a language.
        end = 8 + int.from_bytes(payload[4:8], "big")
        if int.from_bytes(payload[:4], "big") != BY_APPLICATION or not 8 < end <= len(payload):
            return usual(itself, kind, number, packet)
        itself.parting = reason = payload[8:end].decode("utf-8", "replace")
        itself._force_close(error(BY_APPLICATION, reason))
        return None

    connection._packet_handlers = {**connection._packet_handlers, MSG_DISCONNECT: leaving}
    return connection
