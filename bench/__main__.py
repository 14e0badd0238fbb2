"""``make bench``: the figures of the first milestone, beside stock OpenSSH, as a table and as JSON.

A figure that misses its target is shown as missed. Times are compared within one run, A B A B, by the median of
the ratios;
memory is what the kernel says of the processes.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import memory
from bench.stock_sshd import StockSshd
from tests.scenarios.cluster import Cluster, wait_for

ROUNDS = int(os.environ.get("TINYPORT_BENCH_ROUNDS", "15"))
SESSIONS = 20
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One figure: what, in which unit, what was measured, what was wanted at most, and beside what."""

    what: str
    unit: str
    measured: float
    target: float
    beside: str

    @property
    def verdict(self) -> str:
        return "met" if self.measured <= self.target else "MISSED"


def seconds(run: Callable[[], subprocess.CompletedProcess[bytes]]) -> float:
    begin = time.monotonic()
    done = run()
    taken = time.monotonic() - begin
    if done.returncode:
        raise SystemExit(f"bench: error: {done.args} ended with {done.returncode}: {done.stderr.decode()}")
    return taken


def idle(cluster: Cluster) -> list[Row]:
    """Monitor and link alone, once worker and keeper have left."""
    monitor = cluster.ready["pids"]["node"]
    wait_for("keeper and worker to leave", lambda: len(memory.tree(monitor)) == 2, limit=400)
    for pid in memory.tree(monitor):
        one = memory.of(pid)
        print(f"  {memory.name(pid):<20} PSS {one.pss:5.1f}  private {one.private:5.1f} MB")
    found = memory.total(monitor)
    return [
        Row("idle joined node, all its processes, PSS", "MB", found.pss, 12.0, "kernel's smaps_rollup"),
        Row("idle joined node, all its processes, private", "MB", found.private, 8.0, "kernel's smaps_rollup"),
    ]


def cold_start(cluster: Cluster, user: str) -> list[Row]:
    """The first session to an idle node, less the median of warm ones."""
    monitor = cluster.ready["pids"]["node"]
    target = f"{cluster.login_name}@{cluster.node}"
    wait_for("keeper and worker to leave", lambda: len(memory.tree(monitor)) == 2, limit=400)
    cold = seconds(lambda: cluster.tsh("ssh", target, "true", home=user))
    warm = statistics.median(seconds(lambda: cluster.tsh("ssh", target, "true", home=user)) for _ in range(5))
    return [Row("first session to an idle node, less a warm one", "s", cold - warm, 0.4, "itself, warm")]


def sessions(cluster: Cluster, user: str) -> list[Row]:
    """What each further open session costs the node, the user's own process apart."""
    target = f"{cluster.login_name}@{cluster.node}"
    monitor = cluster.ready["pids"]["node"]
    words = [str(Path(sys.executable).parent / "tsh"), "ssh", target, "echo open; exec sleep 600"]
    open_sessions: list[subprocess.Popen[bytes]] = []

    def one_more() -> None:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.PIPE, env=cluster.env(user))
        open_sessions.append(process)
        assert process.stdout is not None
        if process.stdout.readline() != b"open\n":
            raise SystemExit("bench: error: a session did not open")

    def of_tinyport() -> memory.Memory:
        found = memory.NOTHING
        for pid in memory.tree(monitor):
            if memory.name(pid) != "sleep":
                found += memory.of(pid)
        return found

    try:
        one_more()
        first = of_tinyport()
        for _ in range(SESSIONS):
            one_more()
        last = of_tinyport()
    finally:
        for process in open_sessions:
            process.kill()
            process.wait()
    return [
        Row("one more open session, private", "MB", (last.private - first.private) / SESSIONS, 0.1, f"{SESSIONS} more")
    ]


def latency(cluster: Cluster, user: str, peer: StockSshd) -> list[Row]:
    """``tsh ssh node true`` through proxy and tunnel, beside ``ssh`` straight to a stock sshd."""
    target = f"{cluster.login_name}@{cluster.node}"
    ours, theirs = [], []
    for turn in range(ROUNDS + 2):
        a = seconds(lambda: cluster.tsh("ssh", target, "true", home=user))
        b = seconds(lambda: subprocess.run(peer.command("true"), capture_output=True, check=False))
        if turn >= 2:  # the first two warm caches
            ours.append(a)
            theirs.append(b)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(f"  tsh {statistics.median(ours):.3f} s, ssh {statistics.median(theirs):.3f} s", end="")
    print(f", ratio from {min(ratios):.2f} to {max(ratios):.2f}")
    return [Row("tsh ssh node true, start to exit", "ratio", statistics.median(ratios), 1.5, "ssh to stock sshd")]


def main() -> int:
    """Run all, print the table, write ``bench/results/first.json``. 0 when measured, whatever the figures say."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tinyport-bench-") as name:
        folder = Path(name)
        cluster = Cluster(folder)
        peer = StockSshd(folder)
        try:
            peer.start()
            cluster.start()
            user = cluster.add_user("bench", cluster.login_name)
            print("idle node")
            rows += idle(cluster)
            rows += cold_start(cluster, user)
            rows += sessions(cluster, user)
            print(f"latency, {ROUNDS} rounds")
            rows += latency(cluster, user, peer)
        finally:
            cluster.stop()
            peer.stop()
    print(f"\n{'figure':<48} {'measured':>9} {'target':>7} unit   {'':<7} beside")
    for row in rows:
        print(f"{row.what:<48} {row.measured:>9.2f} {row.target:>7.2f} {row.unit:<6} {row.verdict:<7} {row.beside}")
    version = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr.strip()
    machine = {"machine": platform.machine(), "python": platform.python_version(), "cores": os.cpu_count()}
    RESULTS.mkdir(exist_ok=True)
    results = {**machine, "peer": version, "rows": [{**asdict(row), "verdict": row.verdict} for row in rows]}
    (RESULTS / "first.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
