"""What a client says first, read without taking it away.

It stays for whoever will speak SSH or TLS with the client.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from tinyport.core.errors import PeerError
from tinyport.core.proxy_protocol import SIGNATURE
from tinyport.link.clienthello import MAX_PEEK, ClientHello, parse
from tinyport.link.peeking import peek, readable
from tinyport.proxy.traffic import distance

# docs/protocol/tunnel.md. OpenSSH's client speaks first; some others wait for the server.
SILENCE_MEANS_SSH = 1.0
# What is lost comes again three round trips later when nothing else is known (RFC 6298 section 2), and three seconds
# later when the connection's first packets were lost, too (5.7).
ROUND_TRIPS_MORE = 4
LOSSY_MORE = 3.5
LONGEST_SILENCE = 10.0
PEEK_LIMIT = 10.0

_TLS_HANDSHAKE = 22
_METHODS = (b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI")
_PROXY_HEADERS = (b"PROX", SIGNATURE[:4])
_PLAIN_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 41\r\n\r\n"
    b"This port speaks HTTPS and SSH, not HTTP\n"
)


async def first_words(
    sock: socket.socket, expected: Callable[[], Coroutine[Any, Any, None]] | None = None
) -> ClientHello | bytes | None:
    """Peek at what a client says first.

    Its ClientHello, None for SSH, or the answer for a client that is wrong here.

    ``expected``: silence means SSH only after this has ended, too. A node that dials back connects first and then
    starts the process that will speak, which takes seconds on a small board.

    PeerError for what is neither; asyncio.TimeoutError when a ClientHello does not become whole within
    ``PEEK_LIMIT`` seconds.
    """
    first = _there(sock)
    if first is None:
        waited = await readable(sock, _silence(sock))
        if not waited and (expected is None or not await _readable_before(sock, expected())):
            return None
        first = sock.recv(4, socket.MSG_PEEK)
    if not first:
        raise PeerError("closed before it said anything")
    if first[0] == _TLS_HANDSHAKE:
        return await asyncio.wait_for(_client_hello(sock), PEEK_LIMIT)
    if b"SSH-".startswith(first):
        return None
    if first in _METHODS:
        return _PLAIN_HTTP
    if first in _PROXY_HEADERS:
        # Believed, anybody could be anybody.
        raise PeerError("a PROXY header from an address that proxy_protocol_from does not list", code="proxy_header")
    raise PeerError("neither SSH nor TLS", detail=repr(first))


def _there(sock: socket.socket) -> bytes | None:
    """What can be read already, as it can in a crowd; None when nothing."""
    try:
        return sock.recv(4, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None


def _silence(sock: socket.socket) -> float:
    """How long nothing may be said before that means SSH: far away, and over links that lose packets, longer. A proxy
    that speaks SSH to a device whose ClientHello was lost keeps it away.
    """
    round_trip, lossy = distance(sock)
    return min(SILENCE_MEANS_SSH + ROUND_TRIPS_MORE * round_trip + (LOSSY_MORE if lossy else 0.0), LONGEST_SILENCE)


async def _client_hello(sock: socket.socket) -> ClientHello:
    def whole(data: bytes) -> ClientHello | None:
        found = parse(data)
        return found if isinstance(found, ClientHello) else None

    return await peek(sock, MAX_PEEK, whole, "ClientHello")


async def _readable_before(sock: socket.socket, end: Coroutine[Any, Any, None]) -> bool:
    """Wait until there is something to read; False when ``end`` came first."""
    reading, ending = asyncio.ensure_future(readable(sock, None)), asyncio.ensure_future(end)
    try:
        await asyncio.wait((reading, ending), return_when=asyncio.FIRST_COMPLETED)
        return reading.done()
    finally:
        for task in (reading, ending):
            task.cancel()
        await asyncio.gather(reading, ending, return_exceptions=True)
