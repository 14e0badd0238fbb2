"""Telling systemd how a service is, when systemd started it (sd_notify(3)). Light: the monitor loads it."""

from __future__ import annotations

import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def notify(text: str, descriptor: int | None = None) -> None:
    """Send ``READY=1`` and the like, with a descriptor if need be; nothing when there is no service manager to tell."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as stream:
            if descriptor is None:
                stream.sendto(text.encode(), address)
            else:
                stream.connect(address)
                socket.send_fds(stream, [text.encode()], [descriptor])
    except OSError:
        # It went away or its socket is full; it learns from our exit status at the latest.
        return


def store(name: str, descriptor: int) -> None:
    """Have the service manager keep a descriptor until this service is stopped for good: a restart finds it again
    (``activation.take``). One that does not do such things forgets it.
    """
    notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", descriptor)


def withdraw(name: str) -> None:
    """It is not needed any more."""
    notify(f"FDSTOREREMOVE=1\nFDNAME={name}")


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
