"""A real ssh-agent takes a login's certificate and gives it back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_program
from tinyport.client.agent import offer, withdraw
from tinyport.core.certificate import certificate_line, fingerprint
from tinyport.core.issue import issue_user_certificate
from tinyport.core.signatures import Ed25519Key
from tinyport.host.user_identity import UserIdentity


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[dict[str, str]]:
    need_program("ssh-agent")
    path = tmp_path / "agent"
    said = subprocess.run(["ssh-agent", "-s", "-a", str(path)], capture_output=True, text=True, check=True).stdout
    pid = int(said.split("SSH_AGENT_PID=")[1].split(";")[0])
    try:
        yield {"SSH_AUTH_SOCK": str(path)}
    finally:
        os.kill(pid, signal.SIGTERM)


def identity() -> tuple[UserIdentity, str]:
    ca, key = Ed25519Key.generate(), Ed25519Key.generate()
    now = int(time.time())
    blob = issue_user_certificate(
        ca,
        public_key=key.public_blob,
        serial=1,
        nonce=bytes(32),
        cluster="farm.example",
        user="alice",
        logins=["pi"],
        roles=["access"],
        traits={},
        permits=(),
        now=now,
        ttl=3600,
    )
    made = UserIdentity(
        user="alice",
        cluster="farm.example",
        proxy="127.0.0.1:3080",
        ssh_key=key.to_openssh().decode(),
        ssh_certificate=certificate_line(blob),
        tls_key="-",
        tls_certificate="-",
        tls_cas=(),
        host_cas=(),
        valid_after=now,
        valid_before=now + 3600,
    )
    return made, fingerprint(key.public_blob)


def listed(agent: dict[str, str]) -> str:
    done = subprocess.run(["ssh-add", "-l"], capture_output=True, text=True, env={**os.environ, **agent}, check=False)
    return done.stdout


def test_a_login_goes_in_and_comes_out(agent: dict[str, str]) -> None:
    mine, print_ = identity()
    assert offer(mine, time.time(), agent) == ""
    assert print_ in listed(agent)
    assert "ED25519-CERT" in listed(agent)
    assert withdraw(mine.ssh_certificate, agent)
    assert print_ not in listed(agent)
    assert not withdraw(mine.ssh_certificate, agent)


def test_no_agent_is_no_trouble_and_a_dead_one_is_said(tmp_path: Path) -> None:
    mine, _ = identity()
    assert offer(mine, time.time(), {}) == ""
    assert "does not answer" in offer(mine, time.time(), {"SSH_AUTH_SOCK": str(tmp_path / "gone")})
