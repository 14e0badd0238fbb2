"""A fleet at auth: joins a second on one core, and listings of 10,000 nodes as people type them.

Joins: requests made beforehand, sent over one TLS connection that stays, so that what is counted is auth's work and no
handshakes; auth's CPU is the process's less the asking thread's. Listings: ``tctl nodes ls`` from its start to its end,
all of Python's start with it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519

from bench.report import AT_LEAST, Row, Suite
from tests.auth.conftest import AuthServer, Clock, auth_settings
from tinyport.auth.store_nodes import NodeRow
from tinyport.core.signatures import Ed25519Key

NODES = 10_000
SITES = 100


def measure(quick: bool) -> Suite:
    suite = Suite("fleet")
    with tempfile.TemporaryDirectory(prefix="tinyport-bench-") as folder:
        clock = Clock(time.time())
        server = AuthServer(auth_settings(Path(folder), clock), clock)
        try:
            _joins(suite, server, 100 if quick else 600)
            server.do(_fill(server))
            _listings(suite, Path(folder), 3 if quick else 7)
        finally:
            server.stop()
    return suite


def _joins(suite: Suite, server: AuthServer, count: int) -> None:
    token = server.token(uses=count)
    bodies = []
    for number in range(count):
        key, tls_key = Ed25519Key.generate(), ed25519.Ed25519PrivateKey.generate()
        bodies.append(server.join_body(token, f"joined-{number}", key, tls_key))
    questions = [json.dumps(body).encode() for body in bodies]
    connection = server.anyone().connect()
    connection.connect()
    begin, asking, wall = time.process_time(), time.thread_time(), time.monotonic()
    for question in questions:
        connection.request("POST", "/v1/join", body=question)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"bench: error: a join was refused: {text!r}")
    spent = (time.process_time() - begin) - (time.thread_time() - asking)
    connection.close()
    suite.details["joins, one after the other, a second"] = count / (time.monotonic() - wall)
    note = "beside the TLS handshake"
    suite.rows.append(Row("joins", "/s a core", count / spent, target=300, bound=AT_LEAST, note=note))


async def _fill(server: AuthServer) -> None:
    now = server.clock()
    async with server.service.store.write() as tables:
        for number in range(NODES):
            labels = {"site": f"site{number % SITES}", "model": "pi4"}
            name, key = f"shelf-{number}", os.urandom(51)
            await tables.nodes.add(NodeRow(str(uuid.uuid4()), "node", name, key, "active", labels, "bench", now))


def _listings(suite: Suite, folder: Path, rounds: int) -> None:
    configuration = folder / "bench.toml"
    configuration.write_text(f'[tinyport]\ndata_dir = "{folder}"\n[auth]\ncluster_name = "bench.example"\n')
    tctl = [str(Path(sys.executable).parent / "tctl"), "-c", str(configuration), "nodes", "ls"]
    for words, least in (([], NODES), (["site=site7"], NODES // SITES)):
        took = [_seconds([*tctl, *words], least) for _ in range(rounds)]
        what = " ".join(["tctl nodes ls", *words])
        suite.details[f"{what}, seconds"] = took
        suite.rows.append(Row(f"{what}, of {NODES:,} nodes", "s", statistics.median(took), target=1.0))


def _seconds(command: list[str], least: int) -> float:
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, check=False)
    took = time.monotonic() - begin
    lines = len(done.stdout.splitlines())
    if done.returncode or lines < least:
        raise SystemExit(
            f"bench: error: {command[-1]}: status {done.returncode}, {lines} lines: {done.stderr[-300:]!r}"
        )
    return took
