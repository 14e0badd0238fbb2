"""Joins, devices that start again, and logins at auth, a second on one core.

Requests are made beforehand and sent over one TLS connection that stays, so that what is counted is auth's work and no
handshakes; a device that starts brings one of its own, with its certificate. Auth's CPU time is the process's less the
asking thread's. A login is compared with what the password's hash costs by itself, which is meant to be most of it.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519

from bench.report import AT_LEAST, Row, Suite
from bench.rounds import interleaved, ratio
from tests.auth.conftest import AuthServer, Clock, auth_settings
from tinyport.auth.passwords import Passwords
from tinyport.auth.settings import PasswordCost
from tinyport.core.signatures import Ed25519Key

PASSWORD = "correct horse battery"
PEOPLE = 5


def measure(quick: bool) -> Suite:
    suite = Suite("fleet")
    with tempfile.TemporaryDirectory(prefix="tinyport-bench-") as folder:
        clock = Clock(time.time())
        # As it is outside of tests.
        settings = replace(auth_settings(Path(folder), clock), password_cost=PasswordCost())
        server = AuthServer(settings, clock)
        try:
            _joins(suite, server, 100 if quick else 600)
            _starts(suite, server, 50 if quick else 300)
            _logins(suite, server, 3 if quick else 9, 4 if quick else 10)
        finally:
            server.stop()
    return suite


def _cost(server: AuthServer, path: str, bodies: Sequence[object]) -> float:
    """CPU seconds of auth for each of these requests. SystemExit when one is refused."""
    connection = server.anyone().connect()
    connection.connect()
    begin, asking = time.process_time(), time.thread_time()
    try:
        for body in bodies:
            connection.request("POST", path, body=json.dumps(body).encode())
            response = connection.getresponse()
            said = response.read()
            if response.status != 200:
                raise SystemExit(f"bench: error: {path} was refused: {said[:300]!r}")
    finally:
        spent = (time.process_time() - begin) - (time.thread_time() - asking)
        connection.close()
    return spent / len(bodies)


def _joins(suite: Suite, server: AuthServer, count: int) -> None:
    token = server.token(uses=count)
    bodies = []
    for number in range(count):
        key, tls_key = Ed25519Key.generate(), ed25519.Ed25519PrivateKey.generate()
        bodies.append(server.join_body(token, f"joined-{number}", key, tls_key))
    rate = 1 / _cost(server, "/v1/join", bodies)
    suite.rows.append(Row("joins", "/s a core", rate, target=300, bound=AT_LEAST, note="beside the TLS handshake"))
    print(f"  joins: {rate:.0f} a second, one core", flush=True)


def _starts(suite: Suite, server: AuthServer, count: int) -> None:
    """Every device of a fleet says once that it is there, after a power cut (docs/decisions/0017)."""
    token = server.token(uses=count)
    machines = [server.join(f"started-{number}", token=token) for number in range(count)]
    begin, asking = time.process_time(), time.thread_time()
    for machine in machines:
        connection = machine.client.connect()
        said = {"instance": uuid.uuid4().hex, "heard": ""}
        try:
            for _ in range(2):
                connection.request("POST", "/v1/here", body=json.dumps(said).encode())
                answer = json.loads(connection.getresponse().read())
                if "heard" not in answer:
                    raise SystemExit(f"bench: error: a device that started was refused: {answer}")
                said["heard"] = answer["heard"]
        finally:
            connection.close()
        if answer["again"] or answer["copy"]:
            raise SystemExit(f"bench: error: a device that started was not believed: {answer}")
    rate = count / ((time.process_time() - begin) - (time.thread_time() - asking))
    # All of 10,000 in the minute in which they come back.
    row = Row("devices that start, and say so", "/s a core", rate, target=167, bound=AT_LEAST, note="with TLS")
    suite.rows.append(row)
    print(f"  devices that start: {rate:.0f} a second, one core", flush=True)


def _logins(suite: Suite, server: AuthServer, rounds: int, each: int) -> None:
    people = [f"person-{number}" for number in range(PEOPLE)]
    for name in people:
        server.add_user(name, ["access"], ["pi"], PASSWORD)
    tls_key = ed25519.Ed25519PrivateKey.generate()
    bodies = [server.login_body(people[turn % PEOPLE], PASSWORD, tls_key) for turn in range(each)]
    passwords = Passwords(PasswordCost())
    try:
        stored = server.do(passwords.hash(PASSWORD))

        def alone() -> float:
            begin, asking = time.process_time(), time.thread_time()
            for _ in range(each):
                server.do(passwords.verify(stored, PASSWORD))
            return ((time.process_time() - begin) - (time.thread_time() - asking)) / each

        runs: dict[str, Callable[[], float]] = {"login": partial(_cost, server, "/v1/login", bodies), "hash": alone}
        found = interleaved(rounds, runs)
    finally:
        passwords.close()
    rates = {name: [1 / cost for cost in costs] for name, costs in found.items()}
    suite.details["a second, one core"] = rates
    middle, spread = ratio(rates["login"], rates["hash"])
    ours, peer = statistics.median(rates["login"]), statistics.median(rates["hash"])
    row = Row("logins", "/s a core", ours, "its hash alone", peer, middle, spread, 0.8, AT_LEAST, "ratio")
    suite.rows.append(row)
    print(f"  logins: {ours:.1f} a second, one core; the password's hash alone {peer:.1f}", flush=True)
