"""What the kernel says of processes: memory, CPU time, wake-ups, bytes written. Linux's /proc only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_FIELDS = {"Rss": 0, "Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}


@dataclass(frozen=True)
class Memory:
    """Megabytes (2**20 bytes): resident, shared pages in proportion, and pages that are this process's alone; of these
    ``dirty`` are in no file, so that the kernel cannot drop and read them again, whatever else wants memory.
    """

    rss: float
    pss: float
    private: float
    dirty: float

    def __add__(self, other: Memory) -> Memory:
        private, dirty = self.private + other.private, self.dirty + other.dirty
        return Memory(self.rss + other.rss, self.pss + other.pss, private, dirty)


NOTHING = Memory(0.0, 0.0, 0.0, 0.0)


def memory_of(pid: int) -> Memory:
    """The memory of one process; nothing when it has ended. Other users' processes need root."""
    found = dict(_FIELDS)
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return NOTHING
    for line in lines:
        key = line.partition(":")[0]
        if key in found:
            found[key] = int(line.split()[1])
    dirty = found["Private_Dirty"]
    private = found["Private_Clean"] + dirty
    return Memory(found["Rss"] / 1024, found["Pss"] / 1024, private / 1024, dirty / 1024)


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


def memory_of_tree(pid: int, *, without: frozenset[str] = frozenset()) -> Memory:
    """The memory of a process and its descendants but for those of these names (what people run is theirs)."""
    found = NOTHING
    for one in tree(pid):
        if name(one) not in without:
            found += memory_of(one)
    return found


def cpu_of(pid: int) -> float:
    """CPU seconds of one process and of each descendant that ended and was waited for; 0 when it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    # proc_pid_stat(5): utime, stime, cutime, cstime are fields 14 to 17; "state" is the first here and field 3 there.
    return sum(int(value) for value in fields[11:15]) * _TICK


def cpu_of_tree(pid: int) -> float:
    """CPU seconds that a server has used so far, its ended children included. Resolution: 10 ms."""
    return sum(cpu_of(one) for one in tree(pid))


def wakeups(pid: int) -> int:
    """How often the process went to sleep of its own accord, and so was woken again, since it began."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    return 0


def written(pid: int) -> int:
    """Bytes that the process has caused to be written to storage."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


def available_memory() -> float:
    """Megabytes (2**20 bytes) that programs can have without swapping, as the kernel estimates."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return 0.0
