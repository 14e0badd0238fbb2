"""How long people wait: an exec from its start to its exit at ten a second, the echo of a key, the first session.

Both servers are asked in turn, some seconds each, by OpenSSH's client, whose own start is in every figure alike.
"""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

from bench import machine, processes
from bench.bulk import Reached, connected
from bench.report import Row, Suite
from bench.rounds import interleaved, percentile, ratio
from bench.servers import Credentials, Node, Server, StockSshd
from tests.scenarios.cluster import wait_for

RATE = 10
CIPHER = "chacha20-poly1305@openssh.com"
LIMIT = 60.0
NEW, OPEN = "a connection each", "on an open connection"


def measure(quick: bool) -> Suite:
    suite = Suite("latency")
    # ``block``: seconds; a minute for each in all, by rounds.
    rounds, block, keys = (3, 2, 50) if quick else (10, 6, 100)
    with machine.on_cores(machine.cores()[1]), tempfile.TemporaryDirectory(prefix="tinyport-bench-") as name:
        folder = Path(name)
        credentials = Credentials(folder)
        servers: list[Server] = [Node(credentials), StockSshd(credentials)]
        try:
            for server in servers:
                server.start()
            _execs(suite, servers, folder, rounds, block)
            _echo(suite, servers, rounds, keys)
        finally:
            for server in servers:
                server.stop()
        _cold(suite, Credentials(folder), 2 if quick else 5)
    return suite


def paced(words: list[str], count: int, rate: float = RATE) -> list[float]:
    """Milliseconds of each of ``count`` runs, ``rate`` begun a second whether the ones before have ended or not."""
    taken: list[float] = []
    failed: list[bytes] = []

    def one() -> None:
        begin = time.monotonic()
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=LIMIT,
        )
        taken.append(1000 * (time.monotonic() - begin))
        if done.returncode:
            failed.append(done.stderr)

    threads = [threading.Thread(target=one) for _ in range(count)]
    begin = time.monotonic()
    for number, thread in enumerate(threads):
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"bench: error: {words} failed: {failed[0].decode(errors='replace')}")
    return taken


def _execs(suite: Suite, servers: list[Server], folder: Path, rounds: int, block: int) -> None:
    ours, peer = servers
    with connected(ours, CIPHER, folder) as first, connected(peer, CIPHER, folder) as second:
        shared = {ours.name: first, peer.name: second}
        for mode in (NEW, OPEN):
            runs = {}
            for server in servers:
                options = shared[server.name] if mode == OPEN else ("-c", CIPHER)
                runs[server.name] = partial(paced, server.command("true", options=options), RATE * block)
            # On an open connection they differ less from each other: half as many.
            found = interleaved(rounds if mode == NEW else (rounds + 1) // 2, runs)
            suite.details[f"exec, {mode}, ms"] = found
            for label, part in (("median", 0.5), ("p99", 0.99)):
                each = {name: [percentile(one, part) for one in all] for name, all in found.items()}
                whole = {name: percentile([one for block in all for one in block], part) for name, all in found.items()}
                middle, spread = ratio(each[ours.name], each[peer.name])
                if label == "p99":
                    # A block has too few for a p99 of its own: of all together.
                    middle, spread = whole[ours.name] / whole[peer.name], None  # type: ignore[assignment]
                row = Row(
                    f"exec at {RATE} a second, {mode}, {label}",
                    "ms",
                    whole[ours.name],
                    peer.name,
                    whole[peer.name],
                    middle,
                    spread,
                    target=1.0,
                    compared="ratio",
                )
                suite.rows.append(row)
                print(f"  {row.what}: {row.ours:.0f} ms, sshd {row.peer:.0f} ms", flush=True)


class Echo:
    """A terminal session whose process sends each byte back."""

    def __init__(self, server: Reached) -> None:
        words = server.command("stty raw -echo; echo ready; exec cat", options=("-tt", "-c", CIPHER))
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self._answer(b"ready\n")

    def _answer(self, wanted: bytes) -> None:
        assert self._process.stdout is not None
        found = b""
        while wanted not in found:
            ready, _, _ = select.select([self._process.stdout], [], [], LIMIT)
            piece = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            if not piece:
                raise SystemExit("bench: error: the echo session ended")
            found += piece

    def keys(self, count: int) -> float:
        """Median milliseconds from a key to its echo."""
        assert self._process.stdin is not None
        taken = []
        for _ in range(count):
            begin = time.monotonic()
            os.write(self._process.stdin.fileno(), b"x")
            self._answer(b"x")
            taken.append(1000 * (time.monotonic() - begin))
            # A fast typist's pace would take minutes; a pause lets both sides go to sleep, as between keys.
            time.sleep(0.005)
        return statistics.median(taken)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def _echo(suite: Suite, servers: list[Server], rounds: int, keys: int) -> None:
    sessions = {server.name: Echo(server) for server in servers}
    try:
        found = interleaved(rounds, {name: partial(one.keys, keys) for name, one in sessions.items()})
    finally:
        for one in sessions.values():
            one.close()
    ours, peer = found.values()
    middle, spread = ratio(ours, peer)
    what = "keystroke to its echo, median"
    suite.details["echo, ms"] = found
    suite.rows.append(Row(what, "ms", statistics.median(ours), "sshd", statistics.median(peer), middle, spread))


def _cold(suite: Suite, credentials: Credentials, rounds: int) -> None:
    """The first session to a node at rest, less one to the same node with everything running."""
    node = Node(credentials, worker_idle=1, keeper_idle=1)
    node.start()
    extra = []
    try:
        for _ in range(rounds):
            wait_for("a node at rest", lambda: len(processes.tree(node.pid)) == 2)
            cold = paced(node.command("true"), 1)[0]
            warm = statistics.median(paced(node.command("true"), 1)[0] for _ in range(3))
            extra.append((cold - warm) / 1000)
    finally:
        node.stop()
    suite.details["first session, less a warm one, s"] = extra
    suite.rows.append(
        Row("first session to a node at rest, less a warm one", "s", statistics.median(extra), target=0.4)
    )
