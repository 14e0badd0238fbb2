"""The node's own listening sockets, bound by the monitor while it may. Light: the monitor loads it."""

from __future__ import annotations

import errno
import os
import socket
import time

from tinyport.core.errors import OperatorError
from tinyport.core.names import format_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Address = tuple[str, int]

# A kernel whose queue is full drops SYNs, and the next try is a second later; net.core.somaxconn bounds it.
BACKLOG = 1024
# A predecessor that was killed leaves a link that has yet to notice.
TAKEN_LIMIT = 2.0


class Listeners:
    """One socket for each address that was asked for; port 0 is whatever the system chose. And those that systemd holds
    for us, which stay for as long as we do.
    """

    def __init__(self, wanted: Sequence[Address], passed: Sequence[object] = ()) -> None:
        """``passed``: descriptors of listening sockets. OperatorError when an address cannot be had."""
        self._passed = [_adopt(int(str(descriptor))) for descriptor in passed]
        self._held: list[tuple[Address, socket.socket]] = []
        end = time.monotonic() + TAKEN_LIMIT
        for address in self._missing(wanted):
            while True:
                try:
                    self._held.append((address, listen(*address)))
                    break
                except OperatorError as error:
                    if error.code != "taken" or time.monotonic() > end:
                        raise
                    time.sleep(0.02)

    @property
    def streams(self) -> list[socket.socket]:
        return [*self._passed, *(stream for _, stream in self._held)]

    def _missing(self, wanted: Sequence[Address]) -> list[Address]:
        """Those addresses that no socket of systemd's serves already."""
        return [address for address in wanted if not any(_serves_too(stream, address) for stream in self._passed)]

    def addresses(self) -> list[str]:
        """Where they listen: ``host:port``."""
        return [format_address(*stream.getsockname()[:2]) for stream in self.streams]

    def change(self, wanted: Sequence[Address]) -> bool:
        """Listen there instead: new addresses are bound, others closed, the rest not touched. True when anything
        changed. OperatorError when one cannot be had; then all is as before.
        """
        before = list(self._held)
        held: list[tuple[Address, socket.socket]] = []
        fresh: list[socket.socket] = []
        try:
            for address in self._missing(wanted):
                found = next((entry for entry in before if _serves(entry, address)), None)
                if found is not None:
                    before.remove(found)
                    held.append((address, found[1]))
                else:
                    fresh.append(listen(*address))
                    held.append((address, fresh[-1]))
        except OperatorError:
            for stream in fresh:
                stream.close()
            raise
        self._held = held
        for _, stream in before:
            stream.close()
        return bool(before or fresh)


def _serves(entry: tuple[Address, socket.socket], address: Address) -> bool:
    """Is this listener what the address asks for? A port that the system once chose is any port."""
    wanted, stream = entry
    return wanted == address or (wanted[0] == address[0] and address[1] in (0, stream.getsockname()[1]))


def _adopt(descriptor: int) -> socket.socket:
    """A socket that systemd made."""
    os.set_inheritable(descriptor, False)
    stream = socket.socket(fileno=descriptor)
    stream.setblocking(False)
    return stream


def _serves_too(stream: socket.socket, address: Address) -> bool:
    """Does a socket of systemd's serve that address, by itself or as ``::``, which serves IPv4, too?"""
    host, port = stream.getsockname()[:2]
    if port != address[1] or host == address[0]:
        return bool(port == address[1])
    both = host == "::" and not stream.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return both or (host == "0.0.0.0" and ":" not in address[0])  # noqa: S104 - compared, not bound


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. ``::`` serves IPv4, too, and becomes IPv4 alone where there is no IPv6. OperatorError
    names the address and what is wrong.
    """
    where = format_address(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        stream = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    except OSError as error:
        if family == socket.AF_INET6 and host == "::":
            return listen("0.0.0.0", port)  # noqa: S104 - all addresses is what :: asked for
        raise OperatorError(f"cannot listen on {where}: {os.strerror(error.errno or 0).lower()}") from None
    try:
        # Connections of a predecessor may still be in TIME_WAIT.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            stream.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        stream.bind((host, port))
        stream.listen(BACKLOG)
    except OSError as error:
        stream.close()
        reason = os.strerror(error.errno or 0).lower() if error.errno else str(error)
        hint = 'another program has this port (is sshd or another node running?); "ss -ltnp" shows which'
        raise OperatorError(
            f"cannot listen on {where}: {reason}",
            hint=hint if error.errno == errno.EADDRINUSE else "",
            code="taken" if error.errno == errno.EADDRINUSE else "listen",
        ) from None
    return stream
