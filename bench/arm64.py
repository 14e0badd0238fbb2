"""The node on an emulated arm64: what it has in memory there, and how long its worker takes to start.

A Debian root with our packages under qemu-user. Memory is that of the guest's own mappings: what the emulator needs for
itself and for translated code would not be there on a board. Times are an emulator's, ten times a board's; what can be
read from them is how much of a first session is the start of keeper and worker.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import pytest

from bench import processes
from bench.processes import NOTHING, Memory
from bench.report import Row, Suite
from tests.packaging import debian_root
from tests.packaging.conftest import People
from tests.packaging.test_arm import EMULATED_LIMIT, INCLUDE, Board
from tests.scenarios.cluster import Cluster, wait_for

ARCHITECTURE, NAME = "arm64", "bench-arm64"
# qemu maps a 64-bit guest from 0x5500000000 on (linux-user/aarch64), and is itself above 2**46, as programs of the host
# are.
_GUEST_END = 1 << 40
_FIELDS = ("Rss", "Pss", "Private_Clean", "Private_Dirty")
# As the kernel cuts them.
IDLE, WORKER = ("tinyport-monito", "tinyport-link"), "tinyport-worker"
# What entered the root, and what sessions run.
NOT_OURS = frozenset(("nsenter", "chroot", "env", "sh", "bash", "sleep"))
MEGABYTE = 1024


def measure(quick: bool) -> Suite:
    suite = Suite("arm64")
    with tempfile.TemporaryDirectory(prefix="tinyport-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            _measure(suite, folder, 2 if quick else 3)
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            # Needs root, qemu-user-static, mmdebstrap, dpkg-dev and a Debian mirror.
            reason = str(error).splitlines()[-1][:120]
            print(f"  not here: {reason}", flush=True)
            suite.rows.append(Row("idle node on arm64", "MB private dirty", None, note=reason))
    return suite


def _measure(suite: Suite, folder: Path, rounds: int) -> None:
    debian_root.emulate(ARCHITECTURE)
    (folder / "cluster").mkdir()
    cluster = Cluster(folder / "cluster")
    try:
        people = People(cluster.start())
        packages = debian_root.build(folder / "packages")
        ours = [next(packages.glob(f"{name}_*.deb")) for name in ("tinyport-common", "tinyport-node")]
        print("  making a root of Debian's packages", flush=True)
        root = debian_root.extract(folder / "root", ARCHITECTURE, INCLUDE, ours)
        board = Board(root, NAME, people)
        config = root.path("/etc/tinyport/tinyport.toml")
        config.write_text(config.read_text() + 'worker_idle = "3s"\n')
        try:
            board.start()
            _rows(suite, board, people, rounds)
        finally:
            board.stop()
    finally:
        cluster.stop()


def _rows(suite: Suite, board: Board, people: People, rounds: int) -> None:
    warm = [_session(people) for _ in range(2 * rounds)]
    cold: list[float] = []
    late = 0
    for _ in range(3 * rounds):
        if len(cold) == rounds:
            break
        wait_for("the worker to leave", lambda: WORKER not in _ours(board), limit=EMULATED_LIMIT)
        try:
            cold.append(_session(people))
        except AssertionError:
            # Emulated, beside other work: the worker was not there within the proxy's ten seconds. Then it is the next
            # attempt that has a worker, and tells nothing.
            late += 1
    if not cold:
        raise SystemExit(f"bench: error: {late} times the emulated worker did not start within 10 s")
    session = people.popen(NAME, "echo open; exec sleep 600")
    assert session.stdout is not None
    try:
        session.stdout.readline()
        pids = _ours(board)
        found = {name: sum(map(guest_memory, several), NOTHING) for name, several in pids.items()}
    finally:
        session.kill()
        session.communicate()
    suite.details["1 session"] = {name: vars(memory) for name, memory in found.items()}
    suite.details["ssh node true, s"] = {"worker running": warm, "worker started for it": cold}
    for name, memory in found.items():
        suite.rows.append(
            Row(f"1 open session, {name}", "MB private dirty", memory.dirty, note=f"RSS {memory.rss:.1f}")
        )
    idle = sum(found[name].dirty for name in IDLE)
    suite.rows.append(Row("idle: monitor and link", "MB private dirty", idle, target=8.0, note="the guest's mappings"))
    whole = sum(memory.pss for memory in found.values())
    suite.rows.append(Row("1 open session, all processes", "MB PSS", whole, note="the guest's mappings"))
    middle = statistics.median(warm)
    extra = statistics.median(cold) - middle
    suite.rows.append(Row("ssh node true, worker running", "s", middle, note="emulated, some ten times a board's"))
    suite.rows.append(
        Row("the worker's start, when it has to be started", "s", extra, note=f"emulated; {late} times over 10 s")
    )


def _session(people: People) -> float:
    begin = time.monotonic()
    people.ssh(NAME, "true", limit=EMULATED_LIMIT)
    return time.monotonic() - begin


def _ours(board: Board) -> dict[str, list[int]]:
    """The node's processes by name; some are kept ready for the next sessions, and share their pages."""
    found: dict[str, list[int]] = {}
    for pid in processes.tree(board.pid):
        if (name := processes.name(pid)) not in NOT_OURS:
            found.setdefault(name, []).append(pid)
    return found


def guest_memory(pid: int) -> Memory:
    """Of a process under qemu-user: the mappings that the emulated program has."""
    total = dict.fromkeys(_FIELDS, 0)
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head, _, rest = line.partition(" ")
        if not head.endswith(":"):
            inside = int(head.partition("-")[0], 16) < _GUEST_END and "qemu" not in rest and "[heap]" not in rest
        elif inside and head[:-1] in total:
            total[head[:-1]] += int(rest.split()[0])
    clean, dirty = total["Private_Clean"] / MEGABYTE, total["Private_Dirty"] / MEGABYTE
    return Memory(total["Rss"] / MEGABYTE, total["Pss"] / MEGABYTE, clean + dirty, dirty)
