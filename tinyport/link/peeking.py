"""What a connection says first, looked at without taking it away: it stays for whoever is chosen by it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

from tinyport.core.errors import PeerError
from tinyport.core.proxy_protocol import MAX_HEADER, Announced, parse_header

T = TypeVar("T")

# Whoever passes a connection on says whose it is at once, in one packet.
HEADER_LIMIT = 5.0


async def readable(sock: socket.socket, seconds: float | None) -> bool:
    """Wait until there is something to read; False when ``seconds`` passed without."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[bool] = loop.create_future()

    def settle(result: bool) -> None:
        if not waiter.done():
            waiter.set_result(result)

    timer = None if seconds is None else loop.call_later(seconds, settle, False)
    # By its number: of an object that it does not know yet, a selector makes a text first, to raise with.
    descriptor = sock.fileno()
    loop.add_reader(descriptor, settle, True)
    try:
        return await waiter
    finally:
        loop.remove_reader(descriptor)
        if timer is not None:
            timer.cancel()


async def peek(sock: socket.socket, most: int, judge: Callable[[bytes], T | None], what: str) -> T:
    """What ``judge`` makes of the first bytes, at most ``most``; it is asked again with more while it returns None.

    Whatever it raises; PeerError when the connection ends before, which is in the middle of ``what``. The caller sets
    the time limit.
    """
    seen = 0
    try:
        while True:
            try:
                data = sock.recv(most, socket.MSG_PEEK)
            except BlockingIOError:
                await readable(sock, None)
                continue
            if len(data) == seen:
                raise PeerError(f"closed in the middle of its {what}" if seen else "closed before it said anything")
            found = judge(data)
            if found is not None:
                return found
            seen = len(data)
            # What was peeked at stays readable. Only more than that shall wake us, or a client that sends a byte a
            # second would keep us spinning.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)
            await readable(sock, None)
    finally:
        if seen and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def _whole(data: bytes) -> Announced | None:
    found = parse_header(data)
    return found if isinstance(found, Announced) else None


async def take_header(sock: socket.socket) -> Announced:
    """The PROXY header that a connection begins with, taken away; what follows it stays.

    PeerError ``no_header`` when it begins with something else, another one when it is malformed; asyncio.TimeoutError
    when it is not there within ``HEADER_LIMIT`` seconds.
    """
    found = await asyncio.wait_for(peek(sock, MAX_HEADER, _whole, "PROXY header"), HEADER_LIMIT)
    left = found.length
    while left:
        # All of it is there: it was just looked at.
        left -= len(sock.recv(left))
    return found
