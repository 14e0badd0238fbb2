"""The ways to a node: straight to its port, and through proxy and tunnel, beside sshd and ``ssh -J`` over two sshds.

Through the proxy in both ways that there are: by ``tsh proxy ssh`` (TLS to the proxy) and by OpenSSH alone (``ssh -J``,
SSH to the proxy's gateway); then through the node's tunnel. A whole cluster (``tinyport quickstart``) has one core, the
two sshds as well, OpenSSH's clients the others. The proxy carries what ``ssh -J``'s first sshd carries: bytes that it
cannot read.
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
from bench.latency import RATE, Echo, paced
from bench.report import Row, Suite, figure
from bench.rounds import interleaved, percentile, ratio
from bench.servers import HOST, Credentials, StockSshd
from tests.scenarios.cluster import Cluster

CIPHER = "aes128-gcm@openssh.com"
# tsh is Python: ten of its starts a second are more than the clients' core has.
TSH_RATE = 2
WAYS = ("exec output", "exec input", "sftp get", "sftp put", "scp from", "scp to")


@dataclass(frozen=True)
class ToNode:
    """The cluster's node by the configuration that ``tsh config`` prints. ``port`` None: through proxy and tunnel, by
    ``tsh proxy ssh``; with ``jump`` by OpenSSH alone, which has an SSH connection to the proxy and one within it.
    """

    cluster: Cluster
    config: Path
    host: str
    port: str | None
    jump: bool = False

    @property
    def name(self) -> str:
        return "tinyport-jump" if self.jump else "tinyport-tunnel" if self.port is None else "tinyport-direct"

    @property
    def pid(self) -> int:
        return self.cluster.pid

    def command(self, *words: str, program: str = "ssh", options: tuple[str, ...] = ()) -> list[str]:
        settings = ["BatchMode=yes", "StrictHostKeyChecking=yes"]
        if self.port is not None:
            settings += ["ProxyCommand=none", f"HostKeyAlias={self.host}", f"HostName={HOST}", f"Port={self.port}"]
        before = [word for setting in settings for word in ("-o", setting)]
        if self.jump:
            before += ["-J", f"proxy.{self.host.partition('.')[2]}"]
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
    rounds, size, block, keys = (2, 24 * MEGABYTE, 1, 30) if quick else (4, 96 * MEGABYTE, 2, 100)
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
                "by tsh": (ToNode(cluster, config, host, None), Jump(first, target)),
                "by ssh -J": (ToNode(cluster, config, host, None, jump=True), Jump(first, target)),
            }
            for path, (ours, peer) in pairs.items():
                _path(suite, path, ours, peer, folder, rounds, size, block, keys)
        finally:
            cluster.stop()
            first.stop()
            target.stop()
    return suite


def _path(
    suite: Suite, path: str, ours: Reached, peer: Reached, folder: Path, rounds: int, size: int, block: int, keys: int
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
    rate = TSH_RATE if isinstance(ours, ToNode) and ours.port is None and not ours.jump else RATE
    asking = {name: partial(paced, server.command("true"), rate * block, rate) for name, server in both.items()}
    taken = interleaved(rounds, asking)
    suite.details[f"exec, a connection each, {path}, ms"] = taken
    for label, part in (("median", 0.5), ("p99", 0.99)):
        each = {name: [percentile(one, part) for one in all] for name, all in taken.items()}
        _row(suite, f"exec at {rate} a second, a connection each, {path}, {label}", "ms", each, peer.name)
    ends = {name: Echo(server) for name, server in both.items()}
    try:
        echoes = interleaved(rounds, {name: partial(end.keys, keys) for name, end in ends.items()})
    finally:
        for end in ends.values():
            end.close()
    suite.details[f"echo, {path}, ms"] = echoes
    _row(suite, f"keystroke to its echo, {path}, median", "ms", echoes, peer.name)


def _row(suite: Suite, what: str, unit: str, found: dict[str, list[float]], peer: str) -> None:
    middle, spread = ratio(found["tinyport"], found[peer])
    row = Row(what, unit, statistics.median(found["tinyport"]), peer, statistics.median(found[peer]), middle, spread)
    suite.rows.append(row)
    print(f"  {what:<64} {figure(row.ours):>6} {unit}, {middle:.2f} of {peer}'s", flush=True)
