"""Memory of processes as the kernel accounts it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """Megabytes (2**20 bytes): shared pages in proportion, and pages that are this process's alone."""

    pss: float
    private: float

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.pss + other.pss, self.private + other.private)


NOTHING = Memory(0.0, 0.0)


def of(pid: int) -> Memory:
    """The memory of one process; nothing when it has ended. Other users' processes need root."""
    found = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return NOTHING
    for line in lines:
        key = line.partition(":")[0]
        if key in found:
            found[key] = int(line.split()[1])
    return Memory(found["Pss"] / 1024, (found["Private_Clean"] + found["Private_Dirty"]) / 1024)


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    pids = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                pids += tree(int(child))
    except OSError:
        return pids
    return pids


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "ended"


def total(pid: int) -> Memory:
    """The memory of a process and its descendants."""
    found = NOTHING
    for one in tree(pid):
        found += of(one)
    return found
