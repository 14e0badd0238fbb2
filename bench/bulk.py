"""Bulk transfer through exec and sftp, both ways, beside sshd with the same client, cipher and files in memory.

The client is OpenSSH's. Its connection is open before the clock starts (a ControlMaster), so what is measured is the
transfer. Server and whatever it starts have one core, the client the others.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from bench import machine, processes
from bench.report import AT_LEAST, Row, Suite
from bench.rounds import interleaved, ratio
from bench.servers import Credentials, Node, Server, StockSshd
from tests.scenarios.cluster import wait_for

#: cipher → least share of sshd's rate
CIPHERS = {"aes128-gcm@openssh.com": 0.8, "chacha20-poly1305@openssh.com": 0.6}
WAYS = ("exec output", "exec input", "sftp get", "sftp put")
MEGABYTE = 1000 * 1000
LIMIT = 120.0


class Reached(Protocol):
    """A server, and how OpenSSH's programs get there. ``pid``: of whatever serves; ``name`` is a file's, too."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int: ...

    def command(self, *words: str, program: str = "ssh", options: tuple[str, ...] = ()) -> list[str]: ...


@dataclass(frozen=True)
class Transfer:
    """Megabytes (10**6 bytes) a second, and the server's CPU seconds for a gigabyte, the session's process included."""

    rate: float
    cpu: float


def measure(quick: bool) -> Suite:
    suite = Suite("bulk")
    rounds, size = (3, 96 * MEGABYTE) if quick else (5, 384 * MEGABYTE)
    # Files in memory: the disk is not what is measured.
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tinyport-bench-", dir=shared) as name:
        folder = Path(name)
        credentials = Credentials(folder)
        (folder / "source").write_bytes(os.urandom(MEGABYTE) * (size // MEGABYTE))
        servers: list[Server] = [Node(credentials), StockSshd(credentials)]
        try:
            for server in servers:
                server.start()
            for cipher in CIPHERS:
                _cipher(suite, servers, cipher, folder, rounds, size)
        finally:
            for server in servers:
                server.stop()
    return suite


@contextmanager
def connected(server: Reached, cipher: str, folder: Path) -> Iterator[tuple[str, ...]]:
    """An open connection; the options with which further clients use it."""
    control = folder / f"{server.name}.control"
    _, clients = machine.cores()
    words = server.command(options=("-M", "-N", "-S", str(control), "-c", cipher))
    with (folder / "master.log").open("wb") as log:
        master = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=log, preexec_fn=machine.pinned(clients))
    try:
        wait_for(f"a connection to {server.name}", lambda: control.exists() or master.poll() is not None)
        if master.poll() is not None:
            raise SystemExit(f"bench: error: no connection: {(folder / 'master.log').read_text()}")
        yield ("-o", f"ControlPath={control}", "-o", "ControlMaster=no")
    finally:
        # By its own line: OpenSSH 9.2's client can miss a SIGTERM on its way into poll(2).
        subprocess.run(server.command(options=("-S", str(control), "-O", "exit")), capture_output=True, check=False)
        master.wait()


def _cipher(suite: Suite, servers: list[Server], cipher: str, folder: Path, rounds: int, size: int) -> None:
    ours, peer = servers
    with connected(ours, cipher, folder) as first, connected(peer, cipher, folder) as second:
        options = {ours.name: first, peer.name: second}
        for way in WAYS:
            runs = {
                server.name: partial(transfer, server, way, options[server.name], folder, size) for server in servers
            }
            found = interleaved(rounds, runs)
            suite.details[f"{way}, {cipher}"] = {name: [vars(one) for one in all] for name, all in found.items()}
            rates = {name: [one.rate for one in all] for name, all in found.items()}
            cpu = {name: statistics.median(one.cpu for one in all) for name, all in found.items()}
            middle, spread = ratio(rates[ours.name], rates[peer.name])
            row = Row(
                f"{way}, {cipher.partition('@')[0]}",
                "MB/s",
                statistics.median(rates[ours.name]),
                peer.name,
                statistics.median(rates[peer.name]),
                middle,
                spread,
                target=CIPHERS[cipher],
                bound=AT_LEAST,
                compared="ratio",
                note=f"server CPU s/GB {cpu[ours.name]:.1f}, {peer.name} {cpu[peer.name]:.1f}",
            )
            suite.rows.append(row)
            print(f"  {row.what:<32} {row.ours:6.0f} MB/s, {middle:.2f} of sshd's; {row.note}", flush=True)


def transfer(server: Reached, way: str, options: tuple[str, ...], folder: Path, size: int) -> Transfer:
    """One transfer of ``size`` bytes. SystemExit when it fails."""
    source, drop = folder / "source", folder / "drop"
    batch = b""
    stdin: int | None = None
    if way == "exec output":
        words = server.command(f"exec cat {source}", options=options)
    elif way == "exec input":
        words = server.command("exec cat >/dev/null", options=options)
        stdin = os.open(source, os.O_RDONLY)
    elif way.startswith("scp"):
        *words, there = server.command(program="scp", options=options)
        ends = [f"{there}:{source}", str(drop)] if way == "scp from" else [str(source), f"{there}:{drop}"]
        words += ["-q", *ends]
    else:
        command = server.command(program="sftp", options=options)
        words = [*command[:1], "-q", "-b", "-", *command[1:]]
        batch = f"{'get' if way == 'sftp get' else 'put'} {source} {drop}\n".encode()
    _, clients = machine.cores()
    before = processes.cpu_of_tree(server.pid)
    begin = time.monotonic()
    try:
        done = subprocess.Popen(
            words,
            stdin=subprocess.PIPE if stdin is None else stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=machine.pinned(clients),
        )
        _, said = done.communicate(batch if stdin is None else None, LIMIT)
    finally:
        if stdin is not None:
            os.close(stdin)
    seconds = time.monotonic() - begin
    if done.returncode:
        raise SystemExit(f"bench: error: {way} from {server.name}: {said.decode(errors='replace')}")
    cpu = processes.cpu_of_tree(server.pid) - before
    if not way.startswith("exec"):
        if drop.stat().st_size != size:
            raise SystemExit(f"bench: error: {way} from {server.name} moved {drop.stat().st_size} bytes of {size}")
        drop.unlink()
    return Transfer(rate=size / MEGABYTE / seconds, cpu=cpu * 1000 * MEGABYTE / size)
