"""What systemd holds for us (sd_listen_fds(3)) while we are restarted: listening sockets, and what we stored there."""

from __future__ import annotations

import os
import socket

from tinyport.core.errors import OperatorError

FIRST = 3
MAX_SOCKETS = 64


def take(stored: tuple[str, ...] = ()) -> tuple[list[int], dict[str, int]]:
    """The descriptors of listening TCP sockets that this process was started with, and those under the names
    ``stored``, which an earlier one has left (FDSTORE); close-on-exec from now on.

    Empty when there are none, or when they are meant for another process. They are taken once: the environment
    variables go. OperatorError when what was passed is neither.
    """
    told, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if told != str(os.getpid()) or not count.isascii() or not count.isdigit():
        return [], {}
    if int(count) > MAX_SOCKETS:
        raise OperatorError(f"systemd passed {int(count)} sockets, at most {MAX_SOCKETS} are taken")
    sockets: list[int] = []
    left: dict[str, int] = {}
    for number in range(int(count)):
        descriptor = FIRST + number
        if number < len(names) and names[number] in stored:
            os.set_inheritable(descriptor, False)
            left[names[number]] = descriptor
            continue
        try:
            os.set_inheritable(descriptor, False)
            with socket.socket(fileno=os.dup(descriptor)) as stream:
                good = stream.family in (socket.AF_INET, socket.AF_INET6) and stream.type == socket.SOCK_STREAM
                good = good and stream.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        except OSError:
            good = False
        if not good:
            raise OperatorError(
                "systemd passed something that is no listening TCP socket",
                hint="the socket unit may have ListenStream=PORT and Accept=no alone",
            )
        sockets.append(descriptor)
    return sockets, left
