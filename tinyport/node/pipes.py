"""Pipes between the node's processes that hold more than the system's 64 KiB."""

from __future__ import annotations

import fcntl
import os

# fcntl.F_SETPIPE_SZ is there from Python 3.10 on, where the C library has it.
_SET_SIZE = getattr(fcntl, "F_SETPIPE_SZ", 1031)


def make_pipe(size: int = 0) -> tuple[int, int]:
    """(reading, writing), both non-blocking and closed on exec; with room for ``size`` bytes if the system allows that.
    OSError when there is no descriptor left."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    if size:
        try:
            fcntl.fcntl(writing, _SET_SIZE, size)
        except OSError:
            # The system's own size then: whoever does not keep up is behind a little sooner.
            pass
    return reading, writing
