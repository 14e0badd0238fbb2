"""Listening as the user: ports on loopback, unix sockets, the agent's socket in a folder of its own. Light."""

from __future__ import annotations

import errno
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

BACKLOG = 128
# Port 0 is chosen on IPv4 and must be free on IPv6, too.
ANY_PORT_TRIES = 16
LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
#: no such family, or no such address: a machine without IPv6
_NO_FAMILY = frozenset((errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT))
AGENT_FOLDER = "/tmp/ssh-"  # noqa: S108 - sshd's
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class Listener:
    """Sockets that listen, and what is to be removed with them. ``once``: it ends with its first connection."""

    def __init__(
        self, streams: Sequence[socket.socket], *, port: int = 0, path: str = "", folder: str = "", once: bool = False
    ) -> None:
        self.streams = streams
        self.port = port
        self.path = path
        self.once = once
        self._folder = folder
        self._identity = _identity(path)

    def close(self) -> None:
        for stream in self.streams:
            stream.close()
        # Only what we made: somebody may have put another in its place.
        if self.path and _identity(self.path) == self._identity:
            _quietly(os.unlink, self.path)
        if self._folder:
            _quietly(os.rmdir, self._folder)


def port_listener(port: int, *, once: bool = False) -> Listener:
    """Both loopback addresses, and no other: sshd_config(5), GatewayPorts no. 0: any free port. OSError."""
    for _ in range(ANY_PORT_TRIES if port == 0 else 1):
        try:
            streams = _both(port)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE:
                raise
            continue
        return Listener(streams, port=streams[0].getsockname()[1], once=once)
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _both(port: int) -> list[socket.socket]:
    streams: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in LOOPBACK:
            try:
                stream = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError as error:
                missing = error
                continue
            streams.append(stream)
            # sshd does so, too: a port that was just used is free again.
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                stream.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                stream.bind((address, port))
            except OSError as error:
                if error.errno not in _NO_FAMILY:
                    raise
                missing = error
                streams.pop().close()
                continue
            stream.listen(BACKLOG)
            port = stream.getsockname()[1]
        if missing is not None and not streams:
            raise missing
    except BaseException:
        for stream in streams:
            stream.close()
        raise
    return streams


def path_listener(path: str, *, folder: str = "") -> Listener:
    """A unix socket that the user alone may connect to. OSError (EADDRINUSE) when there is something of that name:
    sshd_config(5), StreamLocalBindUnlink no, StreamLocalBindMask 0177.
    """
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        stream.bind(path)
        stream.listen(BACKLOG)
    except BaseException:
        stream.close()
        raise
    finally:
        os.umask(before)
    return Listener([stream], path=path, folder=folder)


def agent_listener() -> Listener:
    """``/tmp/ssh-XXXXXXXXXX/agent.PID`` as sshd makes it: programs look there. OSError."""
    # New, unguessable and 0700: nobody else can have made it or look into it.
    folder = f"{AGENT_FOLDER}{''.join(_LETTERS[byte % len(_LETTERS)] for byte in os.urandom(10))}"
    os.mkdir(folder, 0o700)
    try:
        return path_listener(f"{folder}/agent.{os.getpid()}", folder=folder)
    except BaseException:
        _quietly(os.rmdir, folder)
        raise


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _quietly(remove: object, path: str) -> None:
    assert callable(remove)
    try:
        remove(path)
    except OSError:
        # Somebody else has removed it, or keeps something in it: theirs to clean up.
        return
