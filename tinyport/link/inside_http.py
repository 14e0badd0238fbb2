"""What both ends of a connection inside HTTP agree on (docs/protocol/tunnel.md, "Inside HTTP"). Light."""

from __future__ import annotations

import socket

PATH = "/v1/connect"
# A frame carries a piece of somebody's TLS.
PIECE = 16 * 1024
MAX_FRAME = 64 * 1024


def server_name(host: str) -> str | None:
    """What to say in the ClientHello (RFC 6066 section 3): a name, never an address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return None
    return host
