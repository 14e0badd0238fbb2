"""Keeping keys out of swap: what is in memory only must not come to a disk that way (mlock(2)). Light: the monitor and
link load it.
"""

from __future__ import annotations

import os
import resource

from tinyport.host.privileges import address_of, call

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap

# asm-generic/mman.h. On fault: what is never touched takes no memory.
_CURRENT, _FUTURE, _ON_FAULT = 1, 2, 4


def lock_process(*, will_shed: bool = False) -> bool:
    """No page of this process is swapped from here on; children and programs that it starts are as ever. False when
    the system does not let us. ``will_shed``: it gives up its privileges later, which until then spare it the limit;
    where that cannot be raised, what it has by now is locked, and what it allocates later is not.
    """
    flags = _CURRENT | _FUTURE | _ON_FAULT
    if will_shed or os.geteuid() != 0:
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (OSError, ValueError):
            # With more to be locked than the limit allows, nothing could be allocated any more.
            flags = _CURRENT | _ON_FAULT
    try:
        call("mlockall", flags)
    except OSError:
        return False
    return True


def pin(descriptor: int) -> mmap.mmap | None:
    """Keep a memory file out of swap for as long as the result lives; a process that is forked does not have it mapped.
    None when the system does not let us. The file must not become shorter.
    """
    import mmap

    held = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    try:
        held.madvise(mmap.MADV_DONTFORK)
        call("mlock", address_of(held), len(held))
    except OSError:
        held.close()
        return None
    return held


def swaps_to_disk(table: str = "/proc/swaps") -> list[str]:
    """The swap devices and files whose pages may come to lie on a disk: all but those in compressed memory (zram, which
    may have a disk behind it, but says so elsewhere).
    """
    try:
        with open(table) as file:
            lines = file.read().splitlines()[1:]
    except OSError:
        return []
    names = [line.split()[0] for line in lines if line.split()]
    return [name for name in names if not name.startswith("/dev/zram")]
