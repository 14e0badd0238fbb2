"""Memory of a node with sessions, beside sshd's with as many: every process of the server, the people's own apart.

PSS shares a page among all that map it and is what adds up; private memory is what would come free. Both are read with
the sessions open and quiet.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import processes
from bench.report import Row, Suite
from bench.servers import Credentials, Node, Server, StockSshd
from tests.scenarios.cluster import wait_for

COUNTS = (1, 20, 30, 100)
MANY = 500
REST_LIMIT = 200.0
AT_ONCE = 10
#: what sessions run: not the server's memory
THEIRS = frozenset(("sleep", "sh", "bash", "dash"))
FROM_THIRTY = 30
# Seconds until sessions that were begun in a hurry count as quiet: what a server keeps ready for more has gone.
QUIET = 12.0


def measure(quick: bool) -> Suite:
    suite = Suite("memory")
    counts = COUNTS if quick else (*COUNTS, MANY)
    with tempfile.TemporaryDirectory(prefix="tinyport-bench-") as folder:
        credentials = Credentials(Path(folder))
        servers: list[Server] = [Node(credentials, worker_idle=5, keeper_idle=10), StockSshd(credentials)]
        try:
            for server in servers:
                server.start()
                rest(server)
                suite.details[server.name] = _grow(server, counts)
        finally:
            for server in servers:
                server.stop()
    _rows(suite, counts)
    return suite


def rest(server: Server) -> None:
    """Wait until what sessions need has left."""
    alone = 2 if isinstance(server, Node) else 1
    wait_for("a server at rest", lambda: len(processes.tree(server.pid)) == alone, limit=REST_LIMIT)


def _take(server: Server) -> dict[str, Any]:
    total = processes.memory_of_tree(server.pid, without=THEIRS)
    each: dict[str, list[dict[str, float]]] = {}
    for pid in processes.tree(server.pid):
        if (name := processes.name(pid)) not in THEIRS:
            each.setdefault(name, []).append(vars(processes.memory_of(pid)))
    groups = {
        name: {"count": len(found), **{part: round(sum(one[part] for one in found), 2) for part in found[0]}}
        for name, found in each.items()
    }
    return {"total": vars(total), "processes": groups}


def _grow(server: Server, counts: tuple[int, ...]) -> dict[str, Any]:
    found = {"0": _take(server)}
    clients: list[subprocess.Popen[bytes]] = []
    try:
        for count in counts:
            clients += open_sessions(server, count - len(clients))
            time.sleep(QUIET)
            found[str(count)] = _take(server)
            print(f"  {server.name:<9} {count:4} sessions: PSS {found[str(count)]['total']['pss']:7.1f} MB", flush=True)
    finally:
        close_sessions(clients)
    rest(server)
    found["after"] = _take(server)
    return found


def open_sessions(server: Server, count: int) -> list[subprocess.Popen[bytes]]:
    """``count`` sessions, each on a connection of its own, quiet from then on."""
    words = server.command("echo open; exec sleep 3600")
    pipe = subprocess.PIPE
    opened: list[subprocess.Popen[bytes]] = []
    while len(opened) < count:
        few = range(min(AT_ONCE, count - len(opened)))
        started = [subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe) for _ in few]
        opened += started
        for one in started:
            assert one.stdout is not None
            if one.stdout.readline() != b"open\n":
                _, said = one.communicate()
                close_sessions(opened)
                text = said.decode(errors="replace")
                raise SystemExit(f"bench: error: a session of {server.name} did not open: {text}")
    return opened


def close_sessions(clients: list[subprocess.Popen[bytes]]) -> None:
    for client in clients:
        client.kill()
    for client in clients:
        client.wait()
        for stream in (client.stdin, client.stdout, client.stderr):
            if stream is not None:
                stream.close()


def _rows(suite: Suite, counts: tuple[int, ...]) -> None:
    ours, theirs = suite.details["tinyport"], suite.details["sshd"]
    for part, unit in (("pss", "MB PSS"), ("private", "MB private")):
        for count in ("0", *map(str, counts), "after"):
            a, b = ours[count]["total"][part], theirs[count]["total"][part]
            what = {"0": "idle", "after": f"idle again after {counts[-1]} sessions", "1": "1 open session"}
            target = None
            if part == "pss" and count.isdigit() and int(count) >= FROM_THIRTY:
                target = 1.0
            row = Row(
                what.get(count, f"{count} open sessions"), unit, a, "sshd", b, a / b, target=target, compared="ratio"
            )
            suite.rows.append(row)
    # From the second count on: the first session pays for the worker itself.
    first, last = counts[1], counts[-1]
    each, peer = (
        (found[str(last)]["total"]["private"] - found[str(first)]["total"]["private"]) / (last - first)
        for found in (ours, theirs)
    )
    suite.rows.append(
        Row(
            "each further open session",
            "MB private",
            each,
            "sshd",
            peer,
            each / peer,
            target=0.06,
            note="own connection",
        )
    )
