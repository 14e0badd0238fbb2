"""Is there room for one more? Memory of the keeper and its workers, and the keeper's descriptors.

Each connection holds a descriptor of the keeper's, as do recordings, forwarding helpers, and with PAM sessions.
What has no descriptor at all cannot even be told so; so new connections leave some to those who are here, and new
sessions some to the keeper.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable

#: descriptors that a new connection leaves, and that a new session leaves: it needs six while it is started
LEFT_BY_CONNECTIONS, LEFT_BY_SESSIONS = 64, 16
_PAGE = os.sysconf("SC_PAGE_SIZE")


def descriptors_left() -> int:
    """How many this process can still open, but for a few that were closed out of order."""
    try:
        lowest = os.dup(2)
    except OSError:
        return 0
    os.close(lowest)
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - lowest


def resident(workers: Iterable[int]) -> int:
    """Bytes of us and of the processes with these pids. What people run is theirs and does not count."""
    return sum(_resident(pid) for pid in (os.getpid(), *workers))


def _resident(pid: int) -> int:
    """Bytes of a process that are in memory; 0 when it has gone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
