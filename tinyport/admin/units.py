"""What systemd is given: the files of packaging/systemd, made to fit this machine.

Those files are the only source. The Debian packages ship them as they are; ``tinyport install`` writes them with other
paths and roles, and finds them beside this module (a link in the repository).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinyport.core.errors import OperatorError

NODE, SERVER, SOCKET = "tinyport-node.service", "tinyport-server.service", "tinyport-node.socket"
PROGRAM = "/usr/bin/tinyport"
CONFIGURATION = "/etc/tinyport/tinyport.toml"
#: the account of auth and proxy, and of what faces the network on a node
ACCOUNT = "tinyport"
#: of the node's workers alone
WORKER_ACCOUNT = "tinyport-worker"

_SOURCE = Path(__file__).with_name("systemd")
_SERVER_ROLES = ("auth", "proxy")


def units(roles: Sequence[str], program: str = PROGRAM, configuration: str = CONFIGURATION) -> dict[str, str]:
    """The units for a machine with these roles: file name → text. ``program``, ``configuration``: absolute paths
    without characters that systemd would take for its own.
    """
    paths = {PROGRAM: program, CONFIGURATION: configuration}
    found: dict[str, str] = {}
    server = [role for role in _SERVER_ROLES if role in roles]
    if server:
        # Below /var/lib/tinyport, which stays root's: a node on the same machine keeps its identity there, too.
        folders = {f"tinyport/{role}" for role in server}
        whole = " ".join(f"tinyport/{role}" for role in _SERVER_ROLES)
        changes = {
            ",".join(_SERVER_ROLES): ",".join(server),
            f"StateDirectory={whole}": f"StateDirectory={' '.join(sorted(folders))}",
        }
        found[SERVER] = _changed(SERVER, {**paths, **changes})
    if "node" in roles:
        found[NODE] = _changed(NODE, paths)
    return found


def socket_unit(streams: Sequence[str], *, only_ipv6: bool = False) -> str:
    """The socket unit of a node for other addresses than its own: ``22``, ``192.0.2.1:22``, ``[2001:db8::1]:22``."""
    lines = [f"ListenStream={stream}" for stream in streams]
    if not all(stream.isdigit() for stream in streams):
        # At boot an address may come later than the socket.
        lines.append("FreeBind=yes")
    changes = {"ListenStream=3022": "\n".join(lines)}
    if only_ipv6:
        changes["BindIPv6Only=both"] = "BindIPv6Only=ipv6-only"
    return _changed(SOCKET, changes)


def _changed(name: str, changes: dict[str, str]) -> str:
    """A file of ours with texts replaced, each of which must be in it."""
    try:
        text = (_SOURCE / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise OperatorError(f"this installation of tinyport came without {name}", hint="install it again") from None
    for old, new in changes.items():
        assert old in text, f"{name} does not have {old!r}"
        text = text.replace(old, new)
    return text
