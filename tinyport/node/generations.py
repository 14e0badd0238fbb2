"""Where a keeper meets the monitor's successor, and what they say first. See docs/protocol/node.md. Light.

A keeper outlives its monitor for as long as it has sessions. The successor may be a later version, so what both must
know for ever is here: the place, the greeting, and the files in which events wait.
"""

from __future__ import annotations

import os
import socket
import struct

#: what is spoken between monitor, link and keeper; a keeper of another number is left alone with its sessions
PROTOCOL = 1
#: in the node's folder, which only its owner can enter
SOCKET = "keepers.sock"
#: a folder beside it: events of keepers that have no line, a file for each
KEPT = "kept"
SUFFIX = ".events"
#: bytes of such a file; there are few of them, and what waits longer is counted
MAX_KEPT = 1024 * 1024

_UCRED = struct.Struct("3i")


def peer(stream: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process at the other end, as the kernel has them (SO_PEERCRED, unix(7))."""
    pid, uid, _ = _UCRED.unpack(stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def is_ours(stream: socket.socket) -> bool:
    """Is the other end the same user as we are? The folder keeps others out already."""
    return peer(stream)[1] == os.geteuid()


def address(folder: int) -> str:
    """By the folder's descriptor: a path may be longer than the 107 bytes that an address has room for."""
    return f"/proc/self/fd/{folder}/{SOCKET}"


def is_kept(name: str) -> bool:
    """Is this the name of a file with kept events?"""
    return name.endswith(SUFFIX) and name[: -len(SUFFIX)].isalnum()
