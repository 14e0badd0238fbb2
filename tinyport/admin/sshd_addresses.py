"""Where sshd listens on this machine: as systemd has its socket, and as the kernel has its process.

What its configuration says is not enough: the port may be a drop-in's of ``ssh.socket``, or in ``/etc/default/ssh``.
And addresses matter as much as ports: an sshd for the management network alone must not become a node for everybody.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tinyport.core.errors import OperatorError

#: runs a command; what it prints, "" when it fails or is not there
Read = Callable[[Sequence[str]], str]

_STREAM = re.compile(r"(?:\d+(?:\.\d+){3}|\[[0-9a-f:.]+\]):(\d+)")
_DEFAULT = "22"
_ANY4, _ANY6 = "0.0.0.0:", "[::]:"
#: the state of a listening socket in /proc/net/tcp
_LISTENS = "0A"


class Listening(NamedTuple):
    """What a socket unit is to listen on."""

    #: ``22`` (every address), ``192.0.2.1:22``, ``[2001:db8::1]:22``
    streams: tuple[str, ...]
    #: ``[::]:22`` is not for IPv4
    only_ipv6: bool = False


def where(active: Iterable[str], read: Read, proc: Path = Path("/proc")) -> Listening:
    """Where the active units of sshd listen; when there is none, where it would. OperatorError when the node could not
    listen like that.
    """
    found: set[str] = set()
    for unit in active:
        if unit.endswith(".socket"):
            found |= _of_socket(unit, read)
        else:
            found |= _of_process(read(["systemctl", "show", "--property=MainPID", "--value", unit]).strip(), proc)
    return combined(found or configured(read(["sshd", "-T"])))


def combined(found: Iterable[str]) -> Listening:
    """Every address of both families is a port and nothing else: such a socket works without IPv6, too."""
    streams = set(found)
    for stream in sorted(streams):
        port = stream.removeprefix(_ANY6)
        if port != stream and _ANY4 + port in streams:
            streams -= {stream, _ANY4 + port}
            streams.add(port)
    only_ipv6 = any(stream.startswith(_ANY6) for stream in streams)
    if only_ipv6:
        # One line of a unit says it for all of its sockets.
        for port in [stream for stream in streams if stream.isdigit()]:
            streams = streams - {port} | {_ANY4 + port, _ANY6 + port}
    return Listening(tuple(sorted(streams, key=lambda stream: (int(stream.rpartition(":")[2]), stream))), only_ipv6)


def configured(shown: str) -> set[str]:
    """The addresses in what ``sshd -T`` prints."""
    values = [line.partition(" ") for line in shown.splitlines()]
    found = {value for name, _, value in values if name == "listenaddress" and _STREAM.fullmatch(value)}
    return found or {_DEFAULT}


def asked_at(stream: str) -> tuple[str, int]:
    """The address and port at which this machine reaches it."""
    host, _, port = stream.rpartition(":")
    if f"{host}:" == _ANY6:
        return "::1", int(port)
    return "127.0.0.1" if f"{host}:" in (":", _ANY4) else host.strip("[]"), int(port)


def _of_socket(unit: str, read: Read) -> set[str]:
    show = ["systemctl", "show", "--value"]
    device = read([*show, "--property=BindToDevice", unit]).strip()
    if device:
        raise OperatorError(
            f"{unit} is bound to the device {device}, and the node's socket would be there for every device",
            hint=f"write a tinyport-node.socket with BindToDevice={device} by hand; {unit} stays as it is",
        )
    lines = [line.split() for line in read([*show, "--property=Listen", unit]).splitlines()]
    found = {words[0] for words in lines if words[1:] == ["(Stream)"] and _STREAM.fullmatch(words[0])}
    if read([*show, "--property=BindIPv6Only", unit]).strip() != "ipv6-only":
        found |= {_ANY4 + stream.removeprefix(_ANY6) for stream in found if stream.startswith(_ANY6)}
    return found


def _of_process(pid: str, proc: Path) -> set[str]:
    """The sockets at which a process listens."""
    if not pid.isdigit() or pid == "0":
        return set()
    links = set()
    try:
        for path in (proc / pid / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                links.add(os.readlink(path))
    except OSError:
        return set()
    tables = [path.read_text() for name in ("tcp", "tcp6") if (path := proc / pid / "net" / name).exists()]
    found = set()
    for line in "".join(tables).splitlines():
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTENS and f"socket:[{fields[9]}]" in links:
            found.add(_stream(fields[1]))
    return found


def _stream(shown: str) -> str:
    """``0100007F:0016`` (words in this machine's byte order) → ``127.0.0.1:22``."""
    words, _, port = shown.partition(":")
    raw = struct.pack(f"={len(words) // 8}I", *(int(words[at : at + 8], 16) for at in range(0, len(words), 8)))
    address = ipaddress.ip_address(raw)
    return f"[{address}]:{int(port, 16)}" if address.version == 6 else f"{address}:{int(port, 16)}"
