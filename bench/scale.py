"""Simulated fleets on one machine: what 100, 1,000 and 10,000 nodes cost auth and proxy, and how they come back.

A whole cluster (``tinyport quickstart``) has one core: one auth, one proxy, one real node. The simulated nodes have the
others: the node's own tunnel code, real TLS, a certificate each (``simulated_nodes``). Memory is compared with the same
programs without any node. Descriptors: the hard limit is what there is, and a fleet that does not fit is said.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import fleet_made, machine, processes
from bench.fit import line
from bench.report import Row, Suite
from bench.rounds import percentile
from bench.simulated_nodes import Said, Simulation, most_nodes, simulated
from tests.scenarios.cluster import Cluster, wait_for
from tinyport.core.names import parse_address

SIZES = (100, 1_000, 10_000)
LARGEST = SIZES[-1]
QUICK_SIZES = (50, 200)
#: tunnels that are opened a second at first, about as many as a proxy can greet
CONNECTED_A_SECOND = 250
# Memory is read when what came with connecting has been put away: reports, documents kept on disk.
SETTLE = 6.0
MINUTE = 60.0
# Nodes beat every 50 s, each at moments of its own; every third beat is a question, so three beats are one round of it.
IDLE, IDLE_SMALL = 150.0, 50.0
DAY = 86400.0
#: what a node takes of this machine in all: of auth and proxy, of its own process, of the kernel
NODE_KB = 110
MEGABYTE = 1000 * 1000
RETURN_LIMIT = 300.0
#: a person's attempts in the minute of a restart begin so far apart
ATTEMPT_EVERY = 2.0


@dataclass(frozen=True)
class Load:
    """What auth and proxy have used so far, together but for bytes written, which are auth's."""

    cpu: float
    written: int
    when: float


def measure(quick: bool) -> Suite:
    suite = Suite("scale")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    servers, clients = machine.cores()
    try:
        with machine.on_cores(clients), tempfile.TemporaryDirectory(prefix="tinyport-bench-") as name:
            on = ["taskset", "--cpu-list", ",".join(map(str, sorted(servers)))]
            _Scale(suite, Cluster(Path(name), around=on), quick).run()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return suite


class _Scale:
    """One cluster that grows. ``run`` starts it and stops it."""

    def __init__(self, suite: Suite, cluster: Cluster, quick: bool) -> None:
        self._suite = suite
        self._cluster = cluster
        self._quick = quick
        self._file = cluster.folder / "fleet.json"
        self._user = ""

    def run(self) -> None:
        sizes = QUICK_SIZES if self._quick else SIZES
        reachable = [size for size in sizes if _room(size) is None]
        for size in sizes:
            if (why := _room(size)) is not None:
                print(f"  without {size:,} nodes: {why}", flush=True)
                self._suite.details.setdefault("left out", {})[str(size)] = why
        try:
            self._cluster.start()
            self._user = self._cluster.add_user("bench", self._cluster.login_name)
            self._cluster.stop()
            self._cluster.start()
            empty = self._memory(SETTLE)
            made, found = 0, {}
            for size in reachable:
                self._cluster.stop()
                fleet_made.make(self._cluster.data, self._file, made, size)
                made = size
                self._cluster.start()
                proxy = parse_address(self._cluster.ready["proxy"], 443)
                with simulated(self._file, size, proxy) as simulation:
                    found[size] = self._one(size, simulation, empty)
        finally:
            self._cluster.stop()
        self._suite.details["fleets"] = {str(size): one for size, one in found.items()}
        self._suite.details["without nodes"] = vars(empty)
        rows(self._suite, found)

    def _pids(self) -> list[int]:
        """Of auth and proxy as they run now."""
        return [
            pid
            for pid in processes.tree(self._cluster.pid)
            if processes.name(pid) in ("tinyport-auth", "tinyport-proxy")
        ]

    def _memory(self, settle: float) -> processes.Memory:
        time.sleep(settle)
        found = processes.NOTHING
        for pid in self._pids():
            found += processes.memory_of(pid)
        return found

    def _load(self) -> Load:
        pids = self._pids()
        auth = sum(processes.written(pid) for pid in pids if processes.name(pid) == "tinyport-auth")
        return Load(sum(processes.cpu_of(pid) for pid in pids), auth, time.monotonic())

    def _one(self, size: int, simulation: Simulation, empty: processes.Memory) -> dict[str, Any]:
        begin = time.monotonic()
        simulation.connect(size / CONNECTED_A_SECOND)
        wait_for(f"{size} tunnels", lambda: simulation.say().up == size, limit=RETURN_LIMIT)
        opened = time.monotonic() - begin
        wait_for("auth to know", lambda: self._online() >= size + 1)
        held = self._memory(1 if self._quick else SETTLE)
        each = (held.private - empty.private) * 1024 / size
        print(f"  {size:6,} nodes: up in {opened:.0f} s, {each:.1f} kB a node ({held.private:.0f} MB)", flush=True)
        idle = self._idle(simulation, IDLE if size == LARGEST else IDLE_SMALL)
        print(
            f"  {size:6,} nodes: idle {idle['cpu']:.2%} of a core, {idle['wire a day'] / 1e6:.3f} MB a day each, "
            f"auth writes {idle['written a minute'] / 1024:.0f} kB a minute",
            flush=True,
        )
        listings = self._listings(size, 3 if self._quick else 5)
        for what, took in listings.items():
            print(f"  {size:6,} nodes: {what} {statistics.median(took):.2f} s", flush=True)
        restart = self._restart(size, simulation)
        print(
            f"  {size:6,} nodes: all back {restart['all back']:.1f} s after the proxy was stopped, turned away "
            f"{restart['refused']}; tsh ssh p99 {restart['p99']:.2f} s",
            flush=True,
        )
        return {
            "opened in": opened,
            "memory": vars(held),
            "kB a node": each,
            "idle": idle,
            "listings": listings,
            "restart": restart,
        }

    def _online(self) -> int:
        status = self._cluster.tctl_json("status")
        return int(status["nodes"]["online"])

    def _idle(self, simulation: Simulation, seconds: float) -> dict[str, float]:
        simulation.mark()
        before = self._load()
        time.sleep(seconds)
        after, said = self._load(), simulation.say()
        took = after.when - before.when
        return {
            "seconds": took,
            "cpu": (after.cpu - before.cpu) / took,
            "written a minute": (after.written - before.written) * MINUTE / took,
            "wire a day": said.wire / said.up * DAY / said.seconds,
        }

    def _listings(self, size: int, rounds: int) -> dict[str, list[float]]:
        cluster, found = self._cluster, {}
        commands: dict[str, Any] = {
            "tsh ls": lambda: cluster.tsh("ls", home=self._user),
            "tsh ls site=site7": lambda: cluster.tsh("ls", "site=site7", home=self._user),
            "tctl nodes ls": lambda: cluster.tctl("nodes", "ls"),
        }
        for what, run in commands.items():
            found[what] = [
                _listed(what, run, size if "=" not in what else size // fleet_made.SITES) for _ in range(rounds)
            ]
        return found

    def _watched(self, size: int) -> float:
        """Seconds after a restart in which somebody comes and goes."""
        return MINUTE if size == LARGEST else MINUTE / 4

    def _restart(self, size: int, simulation: Simulation) -> dict[str, Any]:
        """The proxy is told to stop, as an upgrade does, and the supervisor starts it again."""
        proxy = next(pid for pid in self._pids() if processes.name(pid) == "tinyport-proxy")
        before = self._load()
        simulation.mark()
        people = _People(self._cluster, self._user)
        begin = time.monotonic()
        subprocess.run(["kill", str(proxy)], check=True)
        wait_for("the tunnels to break", lambda: simulation.say().up < size)
        people.start()
        try:
            said: Said = wait_for("the fleet to return", lambda: _all_back(simulation, size), limit=RETURN_LIMIT)
            wait_for("auth to know", lambda: self._online() >= size + 1, limit=RETURN_LIMIT)
            known = time.monotonic() - begin
        finally:
            people.join(begin + self._watched(size))
        after = self._load()
        took = [one["seconds"] for one in people.attempts if not one["status"]]
        failed = [one for one in people.attempts if one["status"]]
        return {
            "all back": max(said.returned[-1], 0.0),
            "seen by auth": known,
            "median back": statistics.median(said.returned),
            "closed port": said.closed,
            "refused": said.refused,
            "p99": percentile(took, 0.99) if took else float("inf"),
            "attempts": people.attempts,
            "failed": len(failed),
            "last failure": max((one["at"] - begin for one in failed), default=0.0),
            "cpu": after.cpu - before.cpu,
            "written": after.written - before.written,
        }


def _room(size: int) -> str | None:
    """Why a fleet of this size has no room on this machine; None when it has."""
    if size > most_nodes():
        return f"a process may have {most_nodes():,} tunnels here (ulimit -Hn)"
    needed, free = 300 + size * NODE_KB / 1024, processes.available_memory()
    return f"it needs {needed:.0f} MB, and {free:.0f} are free" if needed > free else None


def _all_back(simulation: Simulation, size: int) -> Said | None:
    said = simulation.say()
    return said if said.up == size else None


def _listed(what: str, run: Any, least: int) -> float:
    begin = time.monotonic()
    done = run()
    took = time.monotonic() - begin
    lines = len(done.stdout.splitlines())
    if done.returncode or lines < least:
        raise SystemExit(f"bench: error: {what}: status {done.returncode}, {lines} lines: {done.stderr[-300:]!r}")
    return took


class _People:
    """Somebody's ``tsh ssh`` to the real node, begun every few seconds; ``join`` waits for all."""

    def __init__(self, cluster: Cluster, user: str) -> None:
        self._cluster = cluster
        self._user = user
        self._until = 0.0
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._pace = threading.Thread(target=self._run)
        self.attempts: list[dict[str, Any]] = []

    def start(self) -> None:
        self._pace.start()

    def join(self, end: float) -> None:
        time.sleep(max(0.0, end - time.monotonic()))
        self._over.set()
        self._pace.join()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._over.wait(ATTEMPT_EVERY):
            thread = threading.Thread(target=self._attempt)
            self._threads.append(thread)
            thread.start()

    def _attempt(self) -> None:
        begin = time.monotonic()
        target = f"{self._cluster.login_name}@{self._cluster.node}"
        done = self._cluster.tsh("ssh", target, "true", home=self._user)
        said = done.stderr.decode(errors="replace").strip()[-200:]
        self.attempts.append(
            {"at": begin, "seconds": time.monotonic() - begin, "status": done.returncode, "said": said}
        )


# -------------------------------------------------------------------- rows


def rows(suite: Suite, found: dict[int, dict[str, Any]]) -> None:
    if not found:
        why = "; ".join(suite.details.get("left out", {}).values())
        suite.rows.append(Row("simulated fleets", "", None, note=why))
        suite.details["lines"] = {}
        return
    for size, one in found.items():
        _fleet_rows(suite, size, one)
    suite.details["lines"] = fitted = _lines(found)
    for what, (base, slope) in fitted.items():
        name, _, unit = what.rpartition(", ")
        note = f"a line through the fleets, {base:.3g} without any"
        suite.rows.append(Row(f"for each 1,000 nodes more: {name}", unit, slope * 1000, note=note))


def _fleet_rows(suite: Suite, size: int, one: dict[str, Any]) -> None:
    def row(what: str, unit: str, value: float, target: float | None = None, note: str = "") -> None:
        # The figures that were asked for are about the largest fleet; the smaller ones show how they grow.
        wanted = target if size == LARGEST else None
        suite.rows.append(Row(f"{size:,} nodes, {what}", unit, value, target=wanted, note=note))

    idle, restart = one["idle"], one["restart"]
    row("proxy and auth, each node", "kB private", one["kB a node"], 60.0)
    row("idle, proxy and auth", "% of a core", 100 * idle["cpu"], 20.0)
    row("idle, auth writes", "kB a minute", idle["written a minute"] / 1024)
    row("idle, each on the wire", "MB a day", idle["wire a day"] / MEGABYTE, 0.5, "IP packets, both ways")
    for what, took in one["listings"].items():
        row(what, "s", statistics.median(took), 1.0)
    row("proxy restarted, all back", "s", restart["all back"], 60.0)
    often = max(map(int, restart["refused"]))
    met = size - restart["refused"].get("0", 0)
    row("proxy restarted, turned away most often", "times", float(often), 1.0, f"{met:,} nodes at least once")
    began, last = len(restart["attempts"]), restart["last failure"]
    note = f"{began} begun, {restart['failed']} refused, the last {last:.0f} s after" if restart["failed"] else ""
    row(
        "proxy restarted, tsh ssh in that minute, p99", "s", restart["p99"], 3.0, note or f"{began} begun, none refused"
    )


def _lines(found: dict[int, dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """What grows → (at zero nodes, for each node), by least squares."""
    grows: dict[str, Any] = {
        "memory, MB": lambda one: one["memory"]["private"],
        "idle, % of a core": lambda one: 100 * one["idle"]["cpu"],
        "auth writes, kB a minute": lambda one: one["idle"]["written a minute"] / 1024,
        "tsh ls, s": lambda one: statistics.median(one["listings"]["tsh ls"]),
        "tctl nodes ls, s": lambda one: statistics.median(one["listings"]["tctl nodes ls"]),
        "all back, s": lambda one: one["restart"]["all back"],
    }
    return {what: line([(float(size), read(one)) for size, one in found.items()]) for what, read in grows.items()}
