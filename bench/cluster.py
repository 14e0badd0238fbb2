"""A whole cluster on loopback (``tinyport quickstart``): the idle joined node, the first session, ``tsh ssh``."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import processes
from bench.report import Row, Suite
from bench.rounds import interleaved, ratio
from bench.servers import Credentials, StockSshd
from tests.scenarios.cluster import Cluster, wait_for

# A keeper leaves two minutes after the last session.
REST_LIMIT = 400.0


def seconds(run: Callable[[], subprocess.CompletedProcess[bytes]]) -> float:
    begin = time.monotonic()
    done = run()
    taken = time.monotonic() - begin
    if done.returncode:
        raise SystemExit(f"bench: error: {done.args} ended with {done.returncode}: {done.stderr.decode()}")
    return taken


def at_rest(monitor: int) -> None:
    """Wait until keeper and worker have left."""
    wait_for("keeper and worker to leave", lambda: len(processes.tree(monitor)) == 2, limit=REST_LIMIT)


def measure(quick: bool) -> Suite:
    suite = Suite("cluster")
    rounds = 5 if quick else 15
    with tempfile.TemporaryDirectory(prefix="tinyport-bench-") as name:
        folder = Path(name)
        cluster = Cluster(folder)
        peer = StockSshd(Credentials(folder))
        try:
            peer.start()
            cluster.start()
            user = cluster.add_user("bench", cluster.login_name)
            _idle(suite, cluster)
            _first_session(suite, cluster, user)
            _tsh(suite, cluster, user, peer, rounds)
        finally:
            cluster.stop()
            peer.stop()
    return suite


def _idle(suite: Suite, cluster: Cluster) -> None:
    monitor = cluster.ready["pids"]["node"]
    at_rest(monitor)
    each = {processes.name(pid): vars(processes.memory_of(pid)) for pid in processes.tree(monitor)}
    suite.details["idle node"] = each
    found = processes.memory_of_tree(monitor)
    note = "beside the cluster's other Python programs, which share pages with it"
    suite.rows.append(Row("idle joined node, all its processes, PSS", "MB", found.pss, target=12.0, note=note))
    suite.rows.append(Row("idle joined node, all its processes, private", "MB", found.private, target=8.0))


def _first_session(suite: Suite, cluster: Cluster, user: str) -> None:
    """The first session to an idle node, less the median of warm ones."""
    monitor = cluster.ready["pids"]["node"]
    target = f"{cluster.login_name}@{cluster.node}"
    at_rest(monitor)
    cold = seconds(lambda: cluster.tsh("ssh", target, "true", home=user))
    warm = statistics.median(seconds(lambda: cluster.tsh("ssh", target, "true", home=user)) for _ in range(5))
    suite.rows.append(Row("first tsh ssh to an idle node, less a warm one", "s", cold - warm, target=0.4))


def _tsh(suite: Suite, cluster: Cluster, user: str, peer: StockSshd, rounds: int) -> None:
    """``tsh ssh node true`` through proxy and tunnel, beside ``ssh`` straight to a stock sshd."""
    target = f"{cluster.login_name}@{cluster.node}"
    found = interleaved(
        rounds,
        {
            "tsh": lambda: seconds(lambda: cluster.tsh("ssh", target, "true", home=user)),
            "ssh": lambda: seconds(lambda: subprocess.run(peer.command("true"), capture_output=True, check=False)),
        },
        warm_up=2,
    )
    suite.details["start to exit, s"] = found
    middle, spread = ratio(found["tsh"], found["ssh"])
    ours, theirs = statistics.median(found["tsh"]), statistics.median(found["ssh"])
    what = "tsh ssh node true, start to exit, through the tunnel"
    suite.rows.append(Row(what, "s", ours, "ssh direct", theirs, middle, spread, target=1.5, compared="ratio"))
