"""Sessions while they live: listed, and ended by an administrator, through the tunnel."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.scenarios.cluster import BIN, LIMIT, Cluster, text, wait_for


@pytest.fixture(scope="module")
def carol(cluster: Cluster) -> str:
    return cluster.add_user("carol", cluster.login_name)


@contextmanager
def session(cluster: Cluster, home: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """``tsh ssh`` of somebody, which has said "here"."""
    command = [str(BIN / "tsh"), "ssh", *words[:-1], f"{cluster.login_name}@{cluster.node}", words[-1]]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=cluster.env(home))
    assert process.stdout is not None
    try:
        line = b""
        while b"here" not in line:
            line = process.stdout.readline()
            assert line, process.communicate(timeout=LIMIT)
        yield process
    finally:
        process.kill()
        process.communicate()


def live(cluster: Cluster, user: str) -> list[dict[str, Any]]:
    return [one for one in cluster.tctl_json("sessions", "ls")["sessions"] if one["user"] == user]


def the_one(cluster: Cluster, user: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = wait_for(
        f"one session of {user}", lambda: (x := live(cluster, user)) and len(x) == 1 and x
    )
    return found[0]


def none_left(cluster: Cluster, user: str) -> None:
    wait_for(f"no session of {user}", lambda: not live(cluster, user))


def rest(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Its status, and what it still says, while its standard input stays open."""
    assert process.stdout is not None
    assert process.stderr is not None
    said = process.stdout.read() + process.stderr.read()
    return process.wait(LIMIT), said


def test_ended_by_an_administrator(cluster: Cluster, carol: str) -> None:
    none_left(cluster, carol)
    with session(cluster, carol, "echo here; cat") as ended:
        first = the_one(cluster, carol)
        assert (first["state"], first["kind"], first["node"]) == ("live", "exec", cluster.node)
        killed = cluster.tsh("sessions", "kill", first["id"][:12], home="admin")
        assert killed.returncode == 0, text(killed)
        status, said = rest(ended)
    assert status == 255
    assert b"ended by " in said
    none_left(cluster, carol)
    found = cluster.tctl_json("audit", "--user", carol, "--type", "session.end")["events"]
    (event,) = [event for event in found if event["sid"] == first["id"]]
    assert event["reason"].startswith("ended by ")
    (kill,) = [
        event for event in cluster.tctl_json("audit", "--type", "session.kill")["events"] if event["sid"] == first["id"]
    ]
    assert kill["by"].startswith("user:")


def test_who_ignores_the_word_is_ended_all_the_same(cluster: Cluster, carol: str) -> None:
    none_left(cluster, carol)
    with session(cluster, carol, "-t", "trap '' HUP TERM; echo here; while :; do sleep 1; done") as ended:
        first = the_one(cluster, carol)
        done = cluster.tctl("sessions", "kill", first["id"])
        assert done.returncode == 0, text(done)
        _, said = rest(ended)
    assert b"ended by an administrator" in said
    none_left(cluster, carol)


def test_one_session_of_a_connection_and_not_the_others(cluster: Cluster, carol: str) -> None:
    none_left(cluster, carol)
    with session(cluster, carol, "echo here; cat") as stays:
        kept = the_one(cluster, carol)["id"]
        with session(cluster, carol, "echo here; cat") as ended:
            (other,) = wait_for("two sessions", lambda: [one for one in live(cluster, carol) if one["id"] != kept])
            assert cluster.tctl("sessions", "kill", other["id"]).returncode == 0
            assert b"ended by" in rest(ended)[1]
        assert stays.communicate(b"still\n", timeout=LIMIT)[0] == b"still\n"


def test_what_is_not_there_cannot_be_ended(cluster: Cluster, carol: str) -> None:
    missing = cluster.tctl("sessions", "kill", "0123456789abcdef")
    assert missing.returncode == 5, text(missing)
    denied = cluster.tsh("sessions", "kill", "0123456789abcdef", home=carol)
    assert denied.returncode == 4, text(denied)
