"""Dial-back: TLS to the proxy on a socket that link connected, the ticket, and then SSH with us as the server.

docs/protocol/tunnel.md, "Dial-back". The ticket goes only to the proxy that asked for it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from tinyport.core.errors import PeerError
from tinyport.core.identity import Identity, from_peer_certificate
from tinyport.host.tls import client_context

ALPN = "tinyport-dial"
# A ticket is good for ten seconds.
HANDSHAKE_LIMIT = 10.0


async def dial(
    protocol: asyncio.Protocol, stream: socket.socket, *, tls_cas: Sequence[str], proxy: Identity, ticket: str
) -> None:
    """Hand ``stream`` to ``protocol`` once the proxy at its other end is ``proxy`` and has the ticket.

    PeerError when it is somebody else; OSError (ssl.SSLError is one) and TimeoutError when it does not answer. The
    socket is closed then.
    """
    loop = asyncio.get_running_loop()
    context = client_context(tls_cas, alpn=[ALPN])
    # Identity is in the certificate's URI, checked below; there is no host name to compare.
    transport, _ = await loop.create_connection(
        asyncio.Protocol, sock=stream, ssl=context, server_hostname="", ssl_handshake_timeout=HANDSHAKE_LIMIT
    )
    try:
        found = from_peer_certificate(transport.get_extra_info("peercert"))
        if found != proxy:
            raise PeerError("another proxy answered than the one that asked", detail=f"{found.uri}, not {proxy.uri}")
    except PeerError:
        transport.abort()
        raise
    transport.write(f"{ticket}\n".encode("ascii"))
    # No await since the handshake: nothing can have arrived for the protocol that is replaced.
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
