"""``tinyport status``: who and where we are in a session, or how this machine's node is."""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyport.admin import config_file
from tinyport.core.errors import OperatorError, PeerError, Unavailable
from tinyport.core.names import printable
from tinyport.host import waiting
from tinyport.host.console import emit
from tinyport.host.files import read_limited
from tinyport.host.moments import ago, span

MAX_STATUS = 256 * 1024
ASK_LIMIT = 5.0

_SESSION = {
    "user": "TINYPORT_USER",
    "login": "LOGNAME",
    "node": "TINYPORT_NODE",
    "cluster": "TINYPORT_CLUSTER",
    "session": "TINYPORT_SESSION",
    "from": "SSH_CONNECTION",
    "terminal": "SSH_TTY",
}


def run(args: argparse.Namespace) -> int:
    if os.environ.get("SSH_CONNECTION") and os.environ.get("TINYPORT_USER"):
        found = session(os.environ)
        emit(args, found, lambda: _lines(found))
        return 0
    folder = args.data_dir
    if folder is None:
        folder = config_file.data_dir(config_file.running_path(args.config))
    status = ask_monitor(Path(folder))
    status["state"] = state_of(Path(folder), status.get("uuid"))
    emit(args, status, lambda: node_lines(status, time.time()))
    return 0


def session(environment: Mapping[str, str]) -> dict[str, str]:
    """What the environment of a session says about it."""
    return {name: environment[variable] for name, variable in _SESSION.items() if environment.get(variable)}


def ask_monitor(data_dir: Path) -> dict[str, Any]:
    """What the node daemon of ``data_dir`` says of itself. Unavailable when none runs; OperatorError when it is not
    ours to ask.
    """
    try:
        folder = os.open(data_dir / "node", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        raise OperatorError("the status of this machine's node is not for this user", hint="try with sudo") from None
    except OSError:
        # Who asks on a server means the cluster.
        hint = 'see -c and --data-dir; "tctl status" tells of the cluster'
        raise Unavailable(f"there is no node in {data_dir}", hint=hint) from None
    asker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        asker.settimeout(ASK_LIMIT)
        # By the folder's descriptor: a path may be longer than the 107 bytes that an address has room for.
        asker.connect(f"/proc/self/fd/{folder}/monitor.sock")
        data = b""
        while len(data) < MAX_STATUS and (piece := asker.recv(65536)):
            data += piece
    except PermissionError:
        raise OperatorError("the status of this machine's node is not for this user", hint="try with sudo") from None
    except OSError as error:
        if (waits := waiting.reason(f"/proc/self/fd/{folder}")) is not None:
            raise Unavailable(
                f"the node serves nobody yet, it waits to be let into its cluster: {waits}",
                hint="it goes on trying; its log has more",
            ) from None
        reason = (error.strerror or str(error)).lower()
        raise Unavailable(f"no node is running in {data_dir}: {reason}", hint="tinyport start --roles=node") from None
    finally:
        asker.close()
        os.close(folder)
    try:
        status = json.loads(data)
    except ValueError:
        status = None
    if not isinstance(status, dict):
        raise PeerError("the node's answer cannot be read")
    return status


def state_of(data_dir: Path, uuid: object) -> str | None:
    """What auth last said of the node with this UUID: active, pending or quarantined. None when nothing is known."""
    try:
        signed = json.loads(read_limited(data_dir / "node" / "node.json", MAX_STATUS))
        body = json.loads(signed["document"])
        return str(body["state"]) if body["uuid"] == uuid else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OperatorError):
        return None


def _state(status: Mapping[str, Any]) -> dict[str, object]:
    """Nothing of one that is as it should be."""
    if status.get("state") == "pending":
        return {"state": f"waits for an administrator: tctl nodes accept {status.get('name')}"}
    return {"state": "quarantined: nobody gets a session"} if status.get("state") == "quarantined" else {}


def node_lines(status: Mapping[str, Any], now: float) -> list[str]:
    """The daemon's answer for people."""
    tunnel, memory = _table(status.get("tunnel")), _table(status.get("memory"))
    state = str(tunnel.get("tunnel", "unknown"))
    if isinstance(since := tunnel.get("since"), (int, float)):
        state += f" for {span(now - since)}"
    if tunnel.get("reason"):
        state += f": {tunnel['reason']}"
    elif tunnel.get("server"):
        state += f", through {_servers(tunnel)}"
    shown: dict[str, object] = {
        "node": f"{status.get('name')} {status.get('uuid')}",
        "cluster": status.get("cluster"),
        **_state(status),
        "tunnel": state,
        "listens": _words(status.get("listen")) or "no, through the tunnel alone",
        "certificate": f"generation {status.get('generation')}, ends {ago(status.get('valid_before'), now)}",
        "keys": _keys(_table(status.get("keys"))),
        "clock": _skew(status.get("skew")),
        "processes": _processes(_table(status.get("pids"))),
        "sessions": _sessions(status),
        "memory": _memory(memory),
        "confined": _confined(_table(status.get("lacks"))),
        "version": status.get("version"),
    }
    return _lines(shown)


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _servers(tunnel: Mapping[str, Any]) -> str:
    """Where tunnels stand: to each proxy that can be reached."""
    standing = tunnel.get("tunnels")
    found = [_standing(_table(one)) for one in standing] if isinstance(standing, list) else []
    return ", ".join(found or [str(tunnel["server"])])


def _standing(one: Mapping[str, Any]) -> str:
    # docs/rotation.md, "When a new certificate is not taken"
    return f"{one.get('server')}{' (which has not followed the last renewal)' if one.get('before') else ''}"


def _keys(keys: Mapping[str, Any]) -> str:
    if keys.get("in_memory"):
        return "in memory alone, out of swap" if keys.get("locked") else "in memory alone, and may be swapped"
    if keys.get("unsaved"):
        return f"newer in memory than on the disk: {keys['unsaved']}"
    return "on the disk" if keys else "the node does not say"


def _skew(seconds: object) -> str:
    if not isinstance(seconds, (int, float)):
        return "not yet compared with the cluster's"
    if abs(seconds) < 1:
        return "as the cluster's"
    return f"{span(seconds)} {'ahead of' if seconds > 0 else 'behind'} the cluster's"


def _processes(pids: Mapping[str, Any]) -> str:
    found = []
    for name, pid in pids.items():
        for one in pid if isinstance(pid, list) else [pid]:
            if one is not None:
                found.append(f"{name} {one}")
    return ", ".join(found)


def _sessions(status: Mapping[str, Any]) -> str:
    """Of this daemon's keeper, and of those that earlier ones left."""
    found = [f"{status.get('sessions', 0)}"]
    old = status.get("old_keepers")
    for keeper in old if isinstance(old, list) else []:
        told = _table(keeper)
        words = (
            f"{told.get('sessions')} with keeper {told.get('pid')} of an earlier daemon (version {told.get('version')})"
        )
        found.append(words + (f", left alone: {told['refused']}" if told.get("refused") else ""))
    return "; ".join(found)


def _confined(lacks: Mapping[str, Any]) -> str:
    """What link and workers should have given up and have not, by pid."""
    found = [f"{pid} ({_words(missing)})" for pid, missing in lacks.items() if _words(missing)]
    if found:
        return f"but for {', '.join(found)}"
    return "completely" if lacks else "the node does not say"


def _memory(memory: Mapping[str, Any]) -> str:
    """Proportional and private, summed over the processes."""
    sums = {"pss": 0, "private": 0}
    for one in memory.values():
        for kind in sums:
            value = _table(one).get(kind)
            sums[kind] += value if isinstance(value, int) else 0
    if not sums["pss"]:
        return "the kernel does not say"
    said = f"{sums['pss'] / 1e6:.1f} MB (PSS), {sums['private'] / 1e6:.1f} MB private"
    # Without root, the kernel keeps what is not dumpable from the monitor, too.
    silent = sorted((pid for pid, one in memory.items() if not _table(one).get("pss")), key=str)
    return f"{said}; without {', '.join(map(str, silent))}, of which only root is told" if silent else said


def _words(value: object) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else ""


def _lines(found: Mapping[str, object]) -> list[str]:
    wide = max((len(name) for name in found), default=0) + 3
    return [f"{name + ':':<{wide}}{printable(str(value), 400)}" for name, value in found.items()]
