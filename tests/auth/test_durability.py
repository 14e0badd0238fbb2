"""kill -9 at any moment: whatever was acknowledged is there after a restart, and what was not is whole or absent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tinyport.auth.server import run
from tinyport.auth.service import open_service
from tinyport.auth.settings import AuthSettings, PasswordCost, StaticToken
from tinyport.core.errors import ConfigError, OperatorError

from .conftest import CLUSTER, AuthServer, Client, _UnixConnection

_PROGRAM = """
import sys
from pathlib import Path
from tinyport.auth.server import run
from tinyport.auth.settings import AuthSettings, PasswordCost

def ready(addresses):
    print("ready", flush=True)

settings = AuthSettings(
    Path(sys.argv[1]), "farm.example", ("127.0.0.1", 0), log_level="error", password_cost=PasswordCost(8, 1)
)
raise SystemExit(run(settings, ready))
"""


def _start(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(folder)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _end(process: subprocess.Popen[str], number: int) -> int:
    process.send_signal(number)
    status = process.wait(20)
    assert process.stdout is not None
    process.stdout.close()
    return status


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    client = Client(lambda: _UnixConnection(tmp_path / "auth" / "api.sock"))
    users: list[str] = []
    tokens: list[str] = []
    pin = None
    for turn in range(3):
        process = _start(tmp_path)
        status = client.get("/v1/status").body
        pin = pin or status["ca_pins"]
        assert status["ca_pins"] == pin
        killed, enough = threading.Event(), threading.Event()

        def write(
            name: str, turn: int = turn, killed: threading.Event = killed, enough: threading.Event = enough
        ) -> None:
            number = 0
            while not killed.is_set():
                number += 1
                body = {"name": f"{name}-{turn}-{number}", "roles": ["access"], "logins": ["pi"]}
                try:
                    if client.post("/v1/users", body).status == 200:
                        users.append(str(body["name"]))
                    made = client.post("/v1/tokens", {"type": "node"})
                    if made.status == 200:
                        tokens.append(str(made.body["id"]))
                except (OSError, ValueError):
                    return
                if number == 15:
                    enough.set()

        writers = [threading.Thread(target=write, args=(f"w{index}",)) for index in range(2)]
        for writer in writers:
            writer.start()
        assert enough.wait(20)
        # In the middle of whatever it is doing.
        _end(process, signal.SIGKILL)
        killed.set()
        for writer in writers:
            writer.join(20)
    process = _start(tmp_path)
    assert {user["name"] for user in client.get("/v1/users").body["users"]} >= set(users)
    assert {token["id"] for token in client.get("/v1/tokens").body["tokens"]} >= set(tokens)
    assert client.get("/v1/audit/head").body["broken_at"] is None
    assert len(users) >= 45
    assert _end(process, signal.SIGTERM) == 0
    assert not (tmp_path / "auth" / "api.sock").exists()


def test_joined_machines_survive_a_restart(start: Callable[..., AuthServer]) -> None:
    auth = start()
    node = auth.join("greenhouse")
    client, _ = auth.user("alice", ["admin", "access"], ["pi"])
    port = auth.addresses.listen[1]
    auth.stop()
    again = start(listen=("127.0.0.1", port))
    assert node.client.get("/v1/policy").status == 200
    assert [item["name"] for item in client.get("/v1/nodes").body["nodes"]] == ["greenhouse"]
    assert again.local().get("/v1/status").body["users"] == 1


# -------------------------------------------------------------------- starts that fail


def _run(settings: AuthSettings, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    # It is written for a process of its own, and takes that one's umask.
    before = os.umask(0o022)
    try:
        status = run(settings)
    finally:
        os.umask(before)
    return status, capfd.readouterr().err


def test_a_port_that_is_taken(auth: AuthServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = AuthSettings(tmp_path / "other", CLUSTER, auth.addresses.listen)
    status, said = _run(settings, capfd)
    assert status == 1
    assert "Address already in use" in said
    assert "ss -ltnp" in said
    assert not (tmp_path / "other").exists()


def test_another_clusters_folder(auth: AuthServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    auth.stop()
    status, said = _run(AuthSettings(tmp_path, "other.example", ("127.0.0.1", 0)), capfd)
    assert status == 1
    assert f"is of cluster {CLUSTER}" in said


def test_a_folder_in_use(auth: AuthServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, said = _run(AuthSettings(tmp_path, CLUSTER, ("127.0.0.1", 0)), capfd)
    assert status == 1
    assert "another auth server is using" in said


def test_settings_name_every_problem(tmp_path: Path) -> None:
    tokens = (StaticToken("user", "short"), StaticToken("node", "a.0123456789abcdef", labels={"a b": "c"}))
    with pytest.raises(ConfigError) as caught:
        AuthSettings(tmp_path, "Not A Name", static_tokens=tokens).check()
    assert len(caught.value.problems) == 4
    assert "short" not in str(caught.value).replace("shorter", "")


def test_a_data_dir_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(OperatorError, match="another user"):
        asyncio.run(open_service(AuthSettings(tmp_path, CLUSTER, password_cost=PasswordCost(8, 1))))


def test_a_deep_folder_has_a_socket_too(start: Callable[..., AuthServer], tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    auth = start(data_dir=deep)
    assert auth.addresses.socket.is_socket()
    assert json.dumps(auth.anyone().get("/v1/hello").body["cluster"]) == f'"{CLUSTER}"'
    assert os.path.getsize(deep / "auth" / "auth.db") > 0
