"""Telling systemd how a service is, when systemd started it (sd_notify(3)). Light: the monitor loads it."""

from __future__ import annotations

import os
import socket


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
