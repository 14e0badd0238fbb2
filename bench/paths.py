"""The ways to a node: straight to its port, and through proxy and tunnel, beside sshd and ``ssh -J`` over two sshds.

A whole cluster (``tinyport quickstart``) has one core, the two sshds as well, OpenSSH's clients the others. The proxy
carries what ``ssh -J``'s first sshd carries: bytes that it cannot read.
"""

from __future__ import annotations

import os
import shlex
import statistics
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import machine
from bench.bulk import MEGABYTE, Reached, connected, transfer
from bench.latency import RATE, paced
from bench.report import Row, Suite
from bench.rounds import interleaved, percentile, ratio
from bench.servers import HOST, Credentials, StockSshd
from tests.scenarios.cluster import Cluster

CIPHER = "aes128-gcm@openssh.com"
WAYS = ("exec output", "exec input", "sftp get", "sftp put", "scp from", "scp to")


@dataclass(frozen=True)
class ToNode:
    """The cluster's node by the configuration that ``tsh config`` prints. ``port`` None: through proxy and tunnel."""

    cluster: Cluster
    config: Path
    host: str
    port: str | None

    @property
    def name(self) -> str:
        return "tinyport-tunnel" if self.port is None else "tinyport-direct"

    @property
    def pid(self) -> int:
        return self.cluster.pid

    def command(self, *words: str, program: str = "ssh", options: tuple[str, ...] = ()) -> list[str]:
        settings = ["BatchMode=yes", "StrictHostKeyChecking=yes"]
        if self.port is not None:
            settings += ["ProxyCommand=none", f"HostKeyAlias={self.host}", f"HostName={HOST}", f"Port={self.port}"]
        before = [word for setting in settings for word in ("-o", setting)]
        destination = f"{self.cluster.login_name}@{self.host}"
        return [program, "-F", str(self.config), *before, *options, destination, *words]


@dataclass(frozen=True)
class Jump:
    """``ssh -J``: an sshd through another."""

    first: StockSshd
    target: StockSshd

    name = "sshd-jump"

    @property
    def pid(self) -> int:
        return self.target.pid

    def command(self, *words: str, program: str = "ssh", options: tuple[str, ...] = ()) -> list[str]:
        through = shlex.join(self.first.command(options=("-W", f"{HOST}:{self.target.port}")))
        return self.target.command(*words, program=program, options=("-o", f"ProxyCommand={through}", *options))


def measure(quick: bool) -> Suite:
    suite = Suite("paths")
    rounds, size, block = (3, 48 * MEGABYTE, 2) if quick else (9, 192 * MEGABYTE, 4)
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    servers, clients = machine.cores()
    with machine.on_cores(clients), tempfile.TemporaryDirectory(prefix="tinyport-bench-", dir=shared) as name:
        folder = Path(name)
        (folder / "source").write_bytes(os.urandom(MEGABYTE) * (size // MEGABYTE))
        on = ["taskset", "--cpu-list", ",".join(map(str, sorted(servers)))]
        cluster = Cluster(folder, around=on)
        (folder / "first").mkdir()
        first, target = StockSshd(Credentials(folder / "first")), StockSshd(Credentials(folder))
        try:
            first.start()
            target.start()
            cluster.start()
            config = cluster.ssh_config(cluster.add_user("bench", cluster.login_name))
            host = f"{cluster.node}.{cluster.tctl_json('status')['cluster']}"
            port = cluster.ready["node"].rpartition(":")[2]
            pairs: dict[str, tuple[Reached, Reached]] = {
                "direct": (ToNode(cluster, config, host, port), target),
                "through the tunnel": (ToNode(cluster, config, host, None), Jump(first, target)),
            }
            for path, (ours, peer) in pairs.items():
                _path(suite, path, ours, peer, folder, rounds, size, block)
        finally:
            cluster.stop()
            first.stop()
            target.stop()
    return suite


def _path(
    suite: Suite, path: str, ours: Reached, peer: Reached, folder: Path, rounds: int, size: int, block: int
) -> None:
    both = {"tinyport": ours, peer.name: peer}
    with connected(ours, CIPHER, folder) as first, connected(peer, CIPHER, folder) as second:
        options = {"tinyport": first, peer.name: second}
        for way in WAYS:
            runs = {name: partial(transfer, end, way, options[name], folder, size) for name, end in both.items()}
            found = interleaved(rounds, runs)
            suite.details[f"{way}, {path}"] = {name: [vars(one) for one in all] for name, all in found.items()}
            rates = {name: [one.rate for one in all] for name, all in found.items()}
            _row(suite, f"{way}, {path}", "MB/s", rates, peer.name)
    taken = interleaved(
        rounds, {name: partial(paced, server.command("true"), RATE * block) for name, server in both.items()}
    )
    suite.details[f"exec, a connection each, {path}, ms"] = taken
    for label, part in (("median", 0.5), ("p99", 0.99)):
        each = {name: [percentile(one, part) for one in all] for name, all in taken.items()}
        _row(suite, f"exec at {RATE} a second, a connection each, {path}, {label}", "ms", each, peer.name)


def _row(suite: Suite, what: str, unit: str, found: dict[str, list[float]], peer: str) -> None:
    middle, spread = ratio(found["tinyport"], found[peer])
    row = Row(what, unit, statistics.median(found["tinyport"]), peer, statistics.median(found[peer]), middle, spread)
    suite.rows.append(row)
    print(f"  {what:<64} {row.ours:6.0f} {unit}, {middle:.2f} of {peer}'s", flush=True)
