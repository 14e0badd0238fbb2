"""The monitor's answer to ``tinyport status``. Light: the monitor loads it."""

from __future__ import annotations

import json
import os
import socket

from tinyport.core.errors import OperatorError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tinyport.host.logging_line import Log
    from tinyport.node.loop import Loop

SOCKET = "monitor.sock"
MAX_STATUS = 64 * 1024
ASK_LIMIT = 5.0


class StatusSocket:
    """Answers each connection to ``<folder>/monitor.sock`` with one JSON object and closes it. Nothing is read. A
    folder in which nothing can be made (a card that the kernel has made read-only) is no reason to let nobody in.
    """

    def __init__(self, loop: Loop, folder: int, describe: Callable[[], dict[str, object]], log: Log) -> None:
        self._describe = describe
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # By the folder's descriptor: a path may be longer than the 107 bytes that an address has room for.
            bind(self._listener, folder, SOCKET)
        except OSError as error:
            log.warning("tinyport status finds no node: its socket cannot be made", reason=error)
            return
        self._listener.listen(4)
        loop.add(self._listener.fileno(), 1, self._answer)

    def _answer(self, events: int) -> None:
        try:
            stream, _ = self._listener.accept()
        except OSError:
            return
        with stream:
            stream.setblocking(False)
            try:
                # Fits the empty buffer of a new connection; who does not read it gets a part, and nobody waits.
                stream.send(json.dumps(self._describe()).encode())
            except OSError:
                return

    def close(self) -> None:
        self._listener.close()


def bind(listener: socket.socket, folder: int, name: str) -> None:
    """Have the socket be ``name`` in the folder, for its owner alone. OSError when that cannot be."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    listener.bind(f"/proc/self/fd/{folder}/{name}")
    os.chmod(name, 0o600, dir_fd=folder)


def ask(data_dir: Path) -> dict[str, object]:
    """What the monitor of the node in ``data_dir`` says of itself. Unavailable: none runs there. OperatorError: not
    ours to ask.
    """
    try:
        folder = os.open(data_dir / "node", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        raise OperatorError("this node's status is not for this user", hint="try with sudo") from None
    except OSError:
        raise Unavailable(f"there is no node in {data_dir}") from None
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        stream.settimeout(ASK_LIMIT)
        stream.connect(f"/proc/self/fd/{folder}/{SOCKET}")
        data = b""
        while len(data) < MAX_STATUS and (piece := stream.recv(65536)):
            data += piece
        found = json.loads(data)
    except PermissionError:
        raise OperatorError("this node's status is not for this user", hint="try with sudo") from None
    except (OSError, ValueError):
        raise Unavailable(f"no node is running in {data_dir}", hint="tinyport start --roles=node") from None
    finally:
        stream.close()
        os.close(folder)
    if not isinstance(found, dict):
        raise Unavailable(f"the node in {data_dir} did not answer")
    return found


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process: {"pss", "private", "rss"}; empty when the kernel does not tell."""
    found: dict[str, int] = {}
    try:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            for line in rollup:
                name, _, rest = line.partition(":")
                words = rest.split()
                if name in ("Pss", "Rss", "Private_Clean", "Private_Dirty") and words:
                    key = "private" if name.startswith("Private") else name.lower()
                    found[key] = found.get(key, 0) + int(words[0]) * 1024
    except (OSError, ValueError):
        return {}
    return found


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as listed:
            return [int(word) for word in listed.read().split()]
    except (OSError, ValueError):
        return []


def workers_of(keeper: int) -> list[int]:
    """A keeper's workers."""
    return [pid for pid in children(keeper) if command_name(pid).startswith("tinyport-work")]


def sessions_of(keeper: int) -> int:
    """How many processes of people a keeper waits for."""
    ours = ("tinyport-work", "tinyport-fwd", "tinyport-spare")
    return sum(not command_name(pid).startswith(ours) for pid in children(keeper))


def command_name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return comm.read().strip()
    except OSError:
        return ""


def lacks(pid: int, *, enclosed: bool) -> list[str]:
    """What a process that faces the network should have given up and has not, as the kernel tells it. ``enclosed``: a
    worker, which has no network and no files besides. What we may not see is not in it.
    """
    found: dict[str, str] = {}
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                name, _, value = line.partition(":")
                found[name] = value.strip()
    except OSError:
        return []
    missing = []
    if any(found.get(name, "0").strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")):
        missing.append("capabilities are left")
    if found.get("NoNewPrivs") == "0":
        missing.append("new privileges are possible")
    if enclosed:
        if found.get("Seccomp") != "2":
            missing.append("no filter of system calls")
        try:
            if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                missing.append("the system's network")
            if os.path.samestat(os.stat(f"/proc/{pid}/root/"), os.stat("/")):
                missing.append("the system's files")
        except OSError:
            # Not for us to see, or it has just ended.
            return missing
    return missing
