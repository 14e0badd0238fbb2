"""A network of a test's own: a device behind a router that translates addresses, and a server outside."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import need_program

# RFC 5737: nobody's.
SERVER, DEVICE = "198.51.100.1", "192.168.77.2"
OUTER = [f"198.51.100.{number}" for number in range(2, 10)]
_RULES = "table ip nat { chain out { type nat hook postrouting priority 100; oifname outer masquerade; }; }"
_COUNT = itertools.count()


class Nat:
    """``server`` and ``device``: what a command line begins with to run there."""

    def __init__(self, name: str) -> None:
        self._ip, self._nft = need_program("ip"), need_program("nft")
        self._conntrack = need_program("conntrack")
        self._names = {end: f"{name}-{end}" for end in ("server", "router", "device")}
        self._outer = iter(OUTER)
        self._address = next(self._outer)
        self.server, self.device = (self._inside(end) for end in ("server", "device"))

    def _inside(self, end: str) -> list[str]:
        return [self._ip, "netns", "exec", self._names[end]]

    def _run(self, *words: str, input: str = "") -> None:
        subprocess.run(words, input=input.encode(), check=True, capture_output=True)

    def make(self) -> None:
        server, router, device = self._names.values()
        for name in self._names.values():
            self._run(self._ip, "netns", "add", name)
            self._run(self._ip, "-n", name, "link", "set", "lo", "up")
        for near, far, end in (("lan", "inner", device), ("wan", "outer", server)):
            self._run(self._ip, "link", "add", near, "netns", end, "type", "veth", "peer", "name", far, "netns", router)
        for name, link, address in (
            (device, "lan", f"{DEVICE}/24"),
            (router, "inner", "192.168.77.1/24"),
            (router, "outer", f"{self._address}/24"),
            (server, "wan", f"{SERVER}/24"),
        ):
            self._run(self._ip, "-n", name, "addr", "add", address, "dev", link)
            self._run(self._ip, "-n", name, "link", "set", link, "up")
        self._run(self._ip, "-n", device, "route", "add", "default", "via", "192.168.77.1")
        self._run(*self._inside("router"), "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._run(*self._inside("router"), self._nft, "-f", "-", input=_RULES)

    def move(self) -> None:
        """The router has another outer address from now on, and knows nothing of the connections from before."""
        old, self._address = self._address, next(self._outer)
        router = self._names["router"]
        self._run(self._ip, "-n", router, "addr", "del", f"{old}/24", "dev", "outer")
        self._run(self._ip, "-n", router, "addr", "add", f"{self._address}/24", "dev", "outer")
        self.forget()

    def forget(self) -> None:
        """The router has lost its table, and picks nothing up in the middle: what it does not know, it drops."""
        router = self._inside("router")
        self._run(*router, "sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_loose=0")
        self._run(*router, self._nft, "-f", "-", input=_STRICT)
        self._run(*router, self._conntrack, "-F")

    def remove(self) -> None:
        for name in self._names.values():
            subprocess.run([self._ip, "netns", "del", name], check=False, capture_output=True)


# As routers of providers do: a packet of a connection that it does not know goes nowhere, and nobody is told.
_STRICT = """
table ip strict { chain through { type filter hook forward priority 0; }; }
flush table ip strict
table ip strict { chain through { ct state invalid drop; }; }
"""


@contextmanager
def nat() -> Iterator[Nat]:
    """Needs root."""
    made = Nat(f"tinyport-{os.getpid()}-{next(_COUNT)}")
    try:
        made.make()
        yield made
    finally:
        made.remove()
