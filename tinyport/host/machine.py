"""This machine as a member of a cluster: what it is called, and where its parts keep their files."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from tinyport.core.config import Config
from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.names import check_node

LOOPBACK = "127.0.0.1"
_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")
_SERIAL_FILES = ("/sys/firmware/devicetree/base/serial-number", "/etc/machine-id")
_INTERFACES = Path("/sys/class/net")


def nodename(config: Config) -> str:
    """The configured name with its templates filled in; by default the host's name, made to fit.

    OperatorError when this machine lacks what a template asks for, or when what comes out is no name.
    """
    template = config.tinyport.nodename
    if template is None:
        return _from_hostname(socket.gethostname())
    name = filled(template)
    try:
        return check_node(name)
    except PeerError as error:
        raise OperatorError(f"nodename {template!r} becomes {name!r}: {error.hint or error.message}") from None


def filled(template: str) -> str:
    """A text with ``{serial}`` and ``{mac}`` filled in. OperatorError when this machine has no such thing."""
    text = template
    if "{serial}" in text:
        text = text.replace("{serial}", _serial())
    if "{mac}" in text:
        text = text.replace("{mac}", _mac())
    return text


def labels(config: Config) -> dict[str, str]:
    """The node's own labels with their templates filled in. One that this machine cannot fill in is left out: they are
    for people to read, and a fleet has more than one kind of board.
    """
    found = {}
    for key, value in config.node.labels.items():
        with contextlib.suppress(OperatorError):
            found[key] = filled(value)
    return found


def serial() -> str:
    """The board's serial number, "" when it has none."""
    try:
        return _serial()
    except OperatorError:
        return ""


def _from_hostname(host: str) -> str:
    """A hostname may have capitals and underscores, a node's name may not."""
    name = "".join(char if char in _NAME_LETTERS else "-" for char in host.lower())[:63]
    labels = [label.strip("-") for label in name.split(".")]
    try:
        return check_node(".".join(label for label in labels if label))
    except PeerError:
        return "node"


def _serial() -> str:
    """The board's serial number: the device tree's (Raspberry Pi), else the machine id's end. Boards that say nothing
    but zeros have none: they would all be one.
    """
    for path in _SERIAL_FILES:
        try:
            text = Path(path).read_text(encoding="ascii", errors="replace").strip("\0\n ")
        except OSError:
            continue
        if text.isalnum() and text.strip("0"):
            return text[-16:].lower()
    raise OperatorError("this machine has no serial number", hint="give tinyport.nodename without {serial}")


def _mac() -> str:
    """The hardware address of the first interface that has one, without colons. Those of real hardware first: bridges
    and containers make theirs up.
    """
    for path in sorted(_INTERFACES.glob("*/address"), key=lambda path: (not (path.parent / "device").exists(), path)):
        try:
            text = path.read_text(encoding="ascii").strip().replace(":", "")
        except OSError:
            continue
        if path.parent.name != "lo" and text.strip("0"):
            return text.lower()
    raise OperatorError("this machine has no network interface", hint="give tinyport.nodename without {mac}")


def api_socket(data_dir: str | Path) -> Path:
    """Where auth's unix socket is when auth runs on this machine with that folder."""
    return Path(data_dir) / "auth" / "api.sock"


def identity_path(data_dir: str | Path, role: str) -> Path:
    """Where a node or proxy keeps its identity."""
    return Path(data_dir) / role / "identity.json"


def dialable(address: tuple[str, int]) -> tuple[str, int]:
    """A listening address as somebody on this machine can dial it."""
    host, port = address
    wildcard = {"0.0.0.0": LOOPBACK, "": LOOPBACK, "::": "::1"}  # noqa: S104 - compared, not bound
    return wildcard.get(host, host), port


def memory_size(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the machine's memory, or what a control group of ours allows (cgroups(7), both
    versions). ``root`` is where ``proc`` and ``sys`` are.
    """
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return sizes[0]
    for line in lines:
        # hierarchy:controllers:path, with 0 and no controllers for version 2
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        # A limit of any group above ours is ours, too. In a container the path may be the host's and not be there.
        for folder in (group, *group.parents):
            sizes += _limit(folder / name)
            if folder == top:
                break
    return min(sizes)


def _limit(path: Path) -> list[int]:
    try:
        text = path.read_text().strip()
    except OSError:
        return []
    # "max" in version 2; version 1 writes a number beyond all memory.
    return [int(text)] if text.isascii() and text.isdigit() and int(text) > 0 else []
