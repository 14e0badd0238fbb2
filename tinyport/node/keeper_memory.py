"""How much memory the keeper and its workers hold."""

from __future__ import annotations

import os
from collections.abc import Iterable

_PAGE = os.sysconf("SC_PAGE_SIZE")


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
