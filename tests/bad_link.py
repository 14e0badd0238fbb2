"""A network of a test's own whose one link is bad: packets are lost, late, overtaken, or wait in a long queue.

Where a kernel has no netem: two namespaces, a TUN device in each, and a thread of ours that carries between them.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.conftest import need_program

# RFC 5737: nobody's.
SERVER, DEVICE = "198.51.100.1", "198.51.100.2"
# sched.h; linux/if_tun.h
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_NAME = "bad0"
_COUNT = itertools.count()


@dataclass(frozen=True)
class Weather:
    """What a packet meets, in either direction."""

    #: how many of a hundred are lost
    loss: int = 0
    #: seconds that each takes, and at random as much more: those overtake each other
    delay: float = 0.0
    jitter: float = 0.0
    #: bytes a second, and how many seconds' worth of them may wait; 0: no limit
    rate: int = 0
    queue: float = 1.0


FAIR = Weather()


class BadLink:
    """``server`` and ``device``: what a command line begins with to run there. ``weather`` may be changed at any time.

    ``seed``: the same packets are lost again, as far as the programs send the same.
    """

    def __init__(self, name: str, seed: int = 1) -> None:
        self._ip = need_program("ip")
        self._names = [f"{name}-server", f"{name}-device"]
        self.server, self.device = ([self._ip, "netns", "exec", end] for end in self._names)
        self.weather = FAIR
        self.carried = self.lost = 0
        self._random = random.Random(seed)
        self._ends: list[int] = []
        self._stop = os.pipe()
        self._thread = threading.Thread(target=self._carry)

    def make(self) -> None:
        for name, address in zip(self._names, (SERVER, DEVICE), strict=True):
            self._run("netns", "add", name)
            self._run("-n", name, "link", "set", "lo", "up")
            opening = threading.Thread(target=self._open, args=(name,))
            opening.start()
            opening.join()
            self._run("-n", name, "addr", "add", f"{address}/24", "dev", _NAME)
            self._run("-n", name, "link", "set", _NAME, "mtu", "1400", "up")
        self._thread.start()

    def _run(self, *words: str) -> None:
        subprocess.run([self._ip, *words], check=True, capture_output=True)

    def _open(self, name: str) -> None:
        """In a thread of its own, which is in the namespace from then on."""
        with open(f"/run/netns/{name}", "rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", _NAME.encode(), _IFF_TUN | _IFF_NO_PI))
        self._ends.append(end)

    def _carry(self) -> None:
        order = itertools.count()
        waiting: list[tuple[float, int, int, bytes]] = []
        free = dict.fromkeys(self._ends, 0.0)
        while True:
            left = None if not waiting else max(0.0, waiting[0][0] - time.monotonic())
            ready, _, _ = select.select([*self._ends, self._stop[0]], [], [], left)
            if self._stop[0] in ready:
                return
            now, weather = time.monotonic(), self.weather
            for end in ready:
                packet = os.read(end, 65536)
                to = self._ends[1 - self._ends.index(end)]
                starts = max(now, free[to])
                if self._random.randrange(100) < weather.loss or starts - now > weather.queue:
                    self.lost += 1
                    continue
                self.carried += 1
                if weather.rate:
                    free[to] = starts = starts + len(packet) / weather.rate
                due = starts + weather.delay + weather.jitter * self._random.random()
                heapq.heappush(waiting, (due, next(order), to, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, to, packet = heapq.heappop(waiting)
                try:
                    os.write(to, packet)
                except OSError:
                    # Its queue is full, or its device is down: lost, as packets are.
                    self.lost += 1

    def remove(self) -> None:
        os.write(self._stop[1], b".")
        if self._thread.is_alive():
            self._thread.join()
        for descriptor in (*self._ends, *self._stop):
            os.close(descriptor)
        for name in self._names:
            subprocess.run([self._ip, "netns", "del", name], check=False, capture_output=True)


@contextmanager
def bad_link(seed: int = 1) -> Iterator[BadLink]:
    """Needs root, and a kernel with TUN devices; a bare /dev is helped."""
    if not os.path.exists("/dev/net/tun"):
        os.makedirs("/dev/net", exist_ok=True)
        # linux/Documentation/networking/tuntap
        os.mknod("/dev/net/tun", 0o600 | stat.S_IFCHR, os.makedev(10, 200))
    made = BadLink(f"tinyport-bad-{os.getpid()}-{next(_COUNT)}", seed)
    try:
        made.make()
        yield made
    finally:
        made.remove()
