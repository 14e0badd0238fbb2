"""Limits on sessions, as roles and the cluster's configuration put them, with the real OpenSSH client."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.session_harness import LIMIT, LOGIN, Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.authority.roles["night"] = {"name": "night", "options": {"client_idle_timeout": "1s"}}
    rig.authority.roles["few"] = {"name": "few", "options": {"max_sessions": 1}}
    rig.authority.roles["one"] = {"name": "one", "options": {"max_connections": 1}}
    rig.authority.roles["office"] = {"name": "office", "options": {"source_networks": ["192.0.2.0/24"]}}
    rig.authority.roles["dated"] = {"name": "dated", "options": {"disconnect_expired_cert": True}}
    rig.start()
    rig.install(rig.authority.policy())
    yield rig
    rig.stop()


def held(rig: Rig) -> subprocess.Popen[bytes]:
    """A session that is there, and stays."""
    person = rig.popen("echo here; cat")
    assert person.stdout is not None
    assert person.stdout.readline() == b"here\n"
    return person


def told(person: subprocess.Popen[bytes]) -> bytes:
    """What the client says when it has been ended; its standard input stays open until then."""
    assert person.stderr is not None
    said = person.stderr.read()
    person.communicate(timeout=LIMIT)
    return said


def test_who_is_silent_is_told_why_and_who_is_not_stays(rig: Rig) -> None:
    rig.give_certificate(roles=["ops", "night"])
    since = time.monotonic()
    silent = held(rig)
    busy = rig.popen("for n in 1 2 3 4 5 6 7 8; do sleep 0.4; echo $n; done")
    assert b"idle for 1s: closed by role night" in told(silent)
    assert silent.returncode == 255
    assert time.monotonic() - since >= 1
    out, err = busy.communicate(timeout=LIMIT)
    assert (busy.returncode, out.split()[-1:], err) == (0, [b"8"], b"")
    assert "idle for 1s" in rig.event("session.end", kind="exec", signal="HUP")["reason"]


def test_the_configuration_limits_those_who_are_here_already(rig: Rig) -> None:
    person = held(rig)
    rig.install(rig.authority.policy(config={"client_idle_timeout": "1s"}))
    assert b"idle for 1s: closed by cluster_config" in told(person)


def test_a_limit_that_is_lifted(rig: Rig) -> None:
    rig.install(rig.authority.policy(config={"client_idle_timeout": "2s"}))
    person = held(rig)
    rig.install(rig.authority.policy())
    rig.ssh("sleep 2.5")
    assert person.poll() is None
    out, _ = person.communicate(b"still\n", timeout=LIMIT)
    assert out == b"still\n"


def test_the_end_of_a_certificate(rig: Rig) -> None:
    rig.give_certificate(roles=["ops"], now=int(time.time()) - 3, ttl=6)
    stays = held(rig)
    rig.give_certificate(roles=["ops", "dated"], now=int(time.time()) - 3, ttl=6)
    assert b"the certificate has expired: closed by role dated" in told(held(rig))
    assert stays.poll() is None
    out, _ = stays.communicate(b"still\n", timeout=LIMIT)
    assert out == b"still\n"


def test_one_session_at_a_time(rig: Rig) -> None:
    rig.give_certificate(roles=["ops", "few"])
    person = held(rig)
    refused = rig.ssh("true")
    assert refused.returncode == 255
    assert b"you have 1 session on this node, and role few allows 1" in refused.stderr
    rig.give_certificate(roles=["ops", "few"], user="bob")
    assert rig.ssh("true").returncode == 0
    person.communicate(timeout=LIMIT)
    rig.event("session.end", user="alice")
    rig.give_certificate(roles=["ops", "few"])
    assert rig.ssh("true").returncode == 0


def test_one_connection_at_a_time(rig: Rig) -> None:
    rig.give_certificate(roles=["ops", "one"])
    person = held(rig)
    refused = rig.ssh("true")
    assert b"you have 1 connection on this node, and role one allows 1" in refused.stderr
    assert rig.event("access.denied", login=LOGIN)["reason"].startswith("you have 1 connection")
    person.communicate(timeout=LIMIT)


def test_from_where(rig: Rig) -> None:
    rig.give_certificate(roles=["ops", "office"])
    refused = rig.ssh("true")
    assert b"role office does not let you in from 127.0.0.1" in refused.stderr
