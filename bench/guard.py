"""``make guard``: has something grown by more than a tenth? For CI, and so that nobody finds out from a device.

- CPU time of the whole node per full handshake, in units of a fixed piece of work (``reference``) that is done on the
  same core before and after: seconds differ between machines and with what else they do, this ratio hardly does;
- private memory of the idle node, and of each further open session: its dirty part, as clean pages come and go with
  whatever else the machine does.

Compared with ``results/guard.json``. A figure that is over is measured again, and only what is over every time fails:
noise adds, it never takes away. ``python -m bench.guard --accept`` writes what is measured as the new baseline; say in
the commit why it grew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from bench import login_files, machine, processes
from bench.handshake import drive
from bench.memory import THEIRS, close_sessions, open_sessions, rest
from bench.report import RESULTS
from bench.servers import Credentials, Node
from bench.wire_client import CURVE

BASELINE = RESULTS / "guard.json"
HANDSHAKE = "handshake, CPU in thousandths of the reference"
IDLE = "idle node, private dirty MB"
SESSION = "each further session, private dirty MB"
FIGURES = (HANDSHAKE, IDLE, SESSION)
GROWTH = 1.1
ATTEMPTS = 4
HANDSHAKES, WARM_UP = 150, 40
FIRST_SESSIONS, MORE_SESSIONS = 20, 120
# CPython takes memory in arenas of a megabyte: two measurements of the same thing differ by one of them.
ARENA = 1.0
# Those that wait for the next sessions are none: there are more after many came at once, and they go soon.
NOT_COUNTED = THEIRS | {"tinyport-spare"}


def reference() -> float:
    """CPU seconds of a fixed piece of work much like a handshake's: Python, JSON, system calls, Curve25519."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    ends = socket.socketpair()
    key, exchange = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    message = {"op": "reference", "id": 1, "data": "x" * 700, "list": list(range(20))}
    begin = time.process_time()
    for turn in range(1500):
        encoded = json.dumps({**message, "id": turn}).encode()
        ends[0].send(encoded)
        decoded = json.loads(ends[1].recv(65536))
        digest = hashlib.sha256(str(sorted(decoded)).encode()).digest()
        fields = {name: (index, len(str(value))) for index, (name, value) in enumerate(decoded.items())}
        for part in range(60):
            fields[str(part)] = (part, len(digest[part % 32 :]))
        if turn % 4 == 0:
            key.public_key().verify(key.sign(digest), digest)
            exchange.exchange(X25519PrivateKey.generate().public_key())
    taken = time.process_time() - begin
    for end in ends:
        end.close()
    return taken


def handshake_cost(node: Node) -> float:
    """CPU of one handshake in thousandths of the reference work; the least of several turns."""
    turns = []
    for _ in range(3):
        before = _on_servers_core(reference)
        load = drive(node, CURVE, HANDSHAKES, 8)
        after = _on_servers_core(reference)
        turns.append(load.cpu / ((before + after) / 2))
    return min(turns)


def _on_servers_core(work: Callable[[], float]) -> float:
    with machine.on_cores(machine.cores()[0]):
        return work()


def measure() -> dict[str, float]:
    """The three figures, from one node."""
    with tempfile.TemporaryDirectory(prefix="tinyport-guard-") as folder:
        node = Node(Credentials(Path(folder)), worker_idle=3, keeper_idle=5)
        node.start()
        try:
            rest(node)
            drive(node, CURVE, WARM_UP, 8)
            cost = handshake_cost(node)
            rest(node)
            # Not before: what monitor and link were forked with stays shared until one of them first touches it.
            idle = processes.memory_of_tree(node.pid).dirty
            clients = open_sessions(node, FIRST_SESSIONS)
            try:
                first = processes.memory_of_tree(node.pid, without=NOT_COUNTED).dirty
                clients += open_sessions(node, MORE_SESSIONS)
                last = processes.memory_of_tree(node.pid, without=NOT_COUNTED).dirty
            finally:
                close_sessions(clients)
        finally:
            node.stop()
    return {HANDSHAKE: cost, IDLE: idle, SESSION: (last - first) / MORE_SESSIONS}


def limit(name: str, baseline: float) -> float:
    slack = ARENA / MORE_SESSIONS if name == SESSION else 0.0
    return baseline * GROWTH + slack


def conditions() -> dict[str, str]:
    """What the baseline depends on besides our code."""
    python = ".".join(platform.python_version_tuple()[:2])
    libraries = {name: version(name) for name in ("asyncssh", "cryptography")}
    return {"python": python, "machine": platform.machine(), **libraries}


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.guard", description=__doc__)
    parser.add_argument("--accept", action="store_true", help="write what is measured as the new baseline")
    options = parser.parse_args(words)
    if sys.dont_write_bytecode:
        parser.error("PYTHONDONTWRITEBYTECODE is set: that measures something else")
    login_files.hide()
    if options.accept:
        runs = [measure() for _ in range(3)]
        found = {name: round(min(run[name] for run in runs), 4) for name in runs[0]}
        RESULTS.mkdir(exist_ok=True)
        BASELINE.write_text(json.dumps({"figures": found, "conditions": conditions()}, indent=1) + "\n")
        print(f"guard: {BASELINE} says now {found}")
        return 0
    known = json.loads(BASELINE.read_text())
    if known["conditions"] != conditions():
        print(f"guard: the baseline is of {known['conditions']}, this is {conditions()}")
    best: dict[str, float] = {}
    over: list[str] = []
    for _ in range(ATTEMPTS):
        for name, value in measure().items():
            best[name] = min(value, best.get(name, value))
        over = [name for name, value in best.items() if value > limit(name, known["figures"][name])]
        if not over:
            break
    for name, value in best.items():
        verdict = "MORE THAN A TENTH OVER" if name in over else "ok"
        print(f"guard: {name}: {value:.3f}, baseline {known['figures'][name]:.3f}: {verdict}")
    return 1 if over else 0


if __name__ == "__main__":
    raise SystemExit(main())
