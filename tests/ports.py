"""Ports for those who must say beforehand where they will listen."""

from __future__ import annotations

import random
import socket

#: where the kernel's own choices begin, which it gives to whoever connects (net.ipv4.ip_local_port_range)
EPHEMERAL = 32768

_given: set[int] = set()


def free_port(below: int = EPHEMERAL) -> int:
    """A port that nobody has on any address, another one each time. The kernel gives it to nobody who connects: it may
    be left and taken again.
    """
    for port in random.sample(range(below // 2, below), 100):
        if port in _given:
            continue
        try:
            with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True):
                _given.add(port)
                return port
        except OSError:
            continue
    raise AssertionError(f"no port below {below} is free")
