"""Telling systemd how a service is, when systemd started it (sd_notify(3)). Light: the monitor loads it."""

from __future__ import annotations

import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def notify(text: str) -> None:
    """Send ``READY=1`` and the like; nothing when there is no service manager to tell."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as stream:
            stream.sendto(text.encode(), address)
    except OSError:
        # It went away or its socket is full; it learns from our exit status at the latest.
        return


def watchdog_period() -> float | None:
    """Half of what systemd allows between two signs of life, in seconds; None when it does not watch this process."""
    text = os.environ.get("WATCHDOG_USEC", "")
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        return None
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) / 2_000_000


def keep_alive(after: Callable[[float, Callable[[], None]], object]) -> None:
    """Give signs of life for as long as a loop turns. ``after(seconds, call)`` is how that loop calls back."""
    period = watchdog_period()
    if period is None:
        return

    def sign() -> None:
        notify("WATCHDOG=1")
        after(period, sign)

    sign()
