"""TCP sockets as the proxy wants them: listening, connecting, noticing peers that vanished."""

from __future__ import annotations

import asyncio
import select
import socket

_BACKLOG = 1024


async def connect(host: str, port: int) -> socket.socket:
    """A connected, non-blocking socket.

    OSError when none of the host's addresses answers; the caller sets the time limit.
    """
    loop = asyncio.get_running_loop()
    last: OSError | None = None
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            tune(sock)
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise last or OSError(f"{host} has no address")


def tune(sock: socket.socket) -> None:
    """For a connection that carries keystrokes, and must notice when its peer vanished."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Peers that vanish without a word (a pulled cable) are noticed after some four minutes; tunnels, which
    # have beats, sooner.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 120)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def has_left(sock: socket.socket) -> bool:
    """Is the other end closed? It may have said something before."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def listen(host: str, port: int) -> list[socket.socket]:
    """The listening sockets for an address. OSError when it cannot be had."""
    found: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            sock = socket.socket(family, kind, protocol)
            found.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # [::] takes IPv4 as well, as people expect of it.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
            sock.setblocking(False)
            sock.bind(address)
            sock.listen(_BACKLOG)
            if port == 0:
                # One port for all of them: the first one's.
                port = sock.getsockname()[1]
    except BaseException:
        for sock in found:
            sock.close()
        raise
    return found
