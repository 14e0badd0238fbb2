"""Full handshakes: TCP, key exchange, the host's certificate, a certificate user authentication, success.

Servers are pinned to one core, the client to the others, so a rate is what one core gives. It counts only when that
core was busy with the server: its utilisation (the server's CPU time over the wall clock) is recorded beside each rate,
and CPU time per handshake does not depend on it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import machine, processes
from bench.report import AT_LEAST, AT_MOST, Row, Suite
from bench.rounds import interleaved, percentile, ratio
from bench.servers import Credentials, Dropbear, Node, Server, StockSshd, Unavailable
from bench.wire_client import CURVE, HYBRID
from tests.scenarios.cluster import wait_for

CONCURRENCIES = (1, 4, 16, 64)
# dropbear's MAX_UNAUTH_CLIENTS is 30, fixed when it is built.
DROPBEAR_MOST = 24
SATURATED = 0.95
# The concurrency that the targets are about.
FULL = 16
# monitor and link
AT_REST = 2


@dataclass(frozen=True)
class Load:
    """One run against one server. ``rate`` is handshakes a second, ``cpu`` server milliseconds per handshake."""

    rate: float
    cpu: float
    utilisation: float
    client: float
    median: float
    p99: float


def drive(server: Server, kex: str, count: int, concurrency: int) -> Load:
    """Have the wire client do ``count`` handshakes. SystemExit when one fails: a figure must be of whole ones."""
    _, clients = machine.cores()
    asked = json.dumps(server.asked(kex, count, concurrency)).encode()
    before = processes.cpu_of_tree(server.pid)
    words = [sys.executable, "-m", "bench.wire_client"]
    done = subprocess.run(
        words, input=asked, stdout=subprocess.PIPE, check=True, preexec_fn=machine.pinned(clients), timeout=280
    )
    cpu = processes.cpu_of_tree(server.pid) - before
    found: dict[str, Any] = json.loads(done.stdout)
    if found["failures"]:
        raise SystemExit(f"bench: error: handshakes with {server.name} failed: {found['failures']}")
    seconds = found["seconds"]
    times = [1000 * value for value in found["times"]]
    return Load(
        rate=count / seconds,
        cpu=1000 * cpu / count,
        utilisation=cpu / seconds,
        client=found["client_cpu"] / seconds,
        median=statistics.median(times),
        p99=percentile(times, 0.99),
    )


def offers(server: Server, kex: str) -> bool:
    """Does one handshake with this key exchange succeed?"""
    try:
        drive(server, kex, 1, 1)
    except SystemExit as error:
        if "the server has no" in str(error):
            return False
        raise
    return True


def measure(quick: bool) -> Suite:
    suite = Suite("handshake")
    rounds, each = (3, 40) if quick else (5, 60)
    concurrencies = (1, 16) if quick else CONCURRENCIES
    with tempfile.TemporaryDirectory(prefix="tinyport-bench-") as folder:
        credentials = Credentials(Path(folder))
        servers: list[Server] = []
        try:
            wanted: list[Server] = [Node(credentials), StockSshd(credentials), Dropbear(credentials)]
            for server in wanted:
                try:
                    server.start()
                except Unavailable as error:
                    print(f"  {server.name}: {error}")
                    suite.details[f"without {server.name}"] = str(error)
                    continue
                servers.append(server)
            for kex in (CURVE, HYBRID):
                able = [server for server in servers if offers(server, kex)]
                # Without a peer it is one figure, to compare with the other key exchange's.
                for concurrency in concurrencies if len(able) > 1 else (FULL,):
                    _one(suite, able, kex, concurrency, rounds, each)
        finally:
            for server in servers:
                server.stop()
        _cold(suite, Credentials(Path(folder)), 2 if quick else 5)
    return suite


def _cold(suite: Suite, credentials: Credentials, rounds: int) -> None:
    """The first handshake with a node at rest, which starts keeper and worker for it; warm: the next ones."""
    node = Node(credentials, worker_idle=1, keeper_idle=1)
    node.start()
    cold, warm = [], []
    try:
        for _ in range(rounds):
            wait_for("a node at rest", lambda: len(processes.tree(node.pid)) == AT_REST)
            cold.append(drive(node, CURVE, 1, 1))
            warm.append(drive(node, CURVE, 5, 1))
    finally:
        node.stop()
    suite.details["cold"] = {name: [vars(load) for load in loads] for name, loads in (("cold", cold), ("warm", warm))}
    for part, unit in (("median", "ms"), ("cpu", "ms CPU")):
        first, next = (statistics.median(getattr(load, part) for load in loads) for loads in (cold, warm))
        what = "handshake, curve25519, first to a node at rest"
        suite.rows.append(Row(what, unit, first, "a warm worker", next, first / next, note="keeper and worker start"))
        print(f"  {what}: {first:.0f} {unit}, {next:.1f} with a warm worker", flush=True)


def _one(suite: Suite, servers: list[Server], kex: str, concurrency: int, rounds: int, each: int) -> None:
    def run(server: Server) -> Load:
        most = DROPBEAR_MOST if isinstance(server, Dropbear) else concurrency
        # The slow peer need not do as many for the same precision.
        count = each * (4 if isinstance(server, Node) else 1)
        return drive(server, kex, count, min(concurrency, most))

    found = interleaved(rounds, {server.name: partial(run, server) for server in servers})
    key = f"{kex} x{concurrency}"
    suite.details[key] = {name: [vars(load) for load in loads] for name, loads in found.items()}
    ours = found["tinyport"]
    for name, loads in found.items():
        busy, client = (statistics.median(getattr(one, part) for one in loads) for part in ("utilisation", "client"))
        rate, cpu = (statistics.median(getattr(one, part) for one in loads) for part in ("rate", "cpu"))
        print(f"  {key:<28} {name:<9} {rate:7.1f}/s  {cpu:6.2f} ms CPU  core {busy:4.0%}  client {client:4.0%}")
    full = concurrency == FULL
    if len(found) == 1:
        what = f"handshake, {kex.partition('-')[0]}, {concurrency} at a time"
        mine = statistics.median(one.cpu for one in ours)
        suite.rows.append(Row(what, "ms CPU", mine, note=f"neither sshd nor dropbear here has {kex}"))
        return
    for peer, cpu_target, rate_target in (("sshd", 1 / 3, 4.0), ("dropbear", None, 1.5)):
        theirs = found.get(peer)
        what = f"handshake, {kex.partition('-')[0]}, {concurrency} at a time"
        note = _note(ours, theirs, peer, concurrency)
        parts: list[tuple[str, str, float | None, str]]
        parts = [("cpu", "ms CPU", cpu_target, AT_MOST), ("rate", "/s", rate_target, AT_LEAST)]
        for part, unit, target, bound in parts:
            own = [getattr(one, part) for one in ours]
            row: dict[str, Any] = {"ours": statistics.median(own), "unit": unit, "peer_name": peer}
            if theirs is None:
                suite.rows.append(Row(what, note=f"{peer} here has no {kex}", **row))
                continue
            others = [getattr(one, part) for one in theirs]
            middle, spread = ratio(own, others)
            # One at a time waits for the client, too: the targets are about a server that has work.
            wanted = round(target, 3) if target is not None and full else None
            suite.rows.append(
                Row(
                    what,
                    peer=statistics.median(others),
                    ratio=middle,
                    spread=spread,
                    target=wanted,
                    bound=bound,
                    compared="ratio",
                    note=note if part == "rate" else "",
                    **row,
                )
            )


def _note(ours: list[Load], theirs: list[Load] | None, peer: str, concurrency: int) -> str:
    notes = []
    for name, loads in (("ours", ours), (peer, theirs or [])):
        if loads and (busy := statistics.median(one.utilisation for one in loads)) < SATURATED:
            notes.append(f"core not saturated with {name}: {busy:.0%}")
    if peer == "dropbear":
        notes.append("plain keys")
        if concurrency > DROPBEAR_MOST:
            notes.append(f"{DROPBEAR_MOST} at a time with dropbear, which takes 30 at most")
    return "; ".join(notes)
