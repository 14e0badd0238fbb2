"""A network of a test's own that can go silent: packets vanish, and nobody is told."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import need_program

# sched.h
_CLONE_NEWNET = 0x40000000

_RULES = """
table inet silence {
    chain in { type filter hook input priority 0; policy drop; }
}
"""


class SilentNetwork:
    """Loopback, in a namespace of this thread's and of what it starts."""

    def __init__(self) -> None:
        self._nft = need_program("nft")

    def cut(self) -> None:
        """From now on every packet is lost."""
        subprocess.run([self._nft, "-f", "-"], input=_RULES.encode(), check=True)

    def heal(self) -> None:
        subprocess.run([self._nft, "delete", "table", "inet", "silence"], check=True)


@contextmanager
def silent_network() -> Iterator[SilentNetwork]:
    """Needs root."""
    found = SilentNetwork()
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run([need_program("ip"), "link", "set", "lo", "up"], check=True)
        yield found
    finally:
        libc.setns(before, _CLONE_NEWNET)
        os.close(before)
