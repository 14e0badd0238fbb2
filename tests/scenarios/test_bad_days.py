"""Bad input and bad days: wrong tokens and pins, killed processes, auth away. Each with a clear message, nothing
lost.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.cluster import BIN, Cluster, alive, text, wait_for
from tinyport.host.console import DENIED


def node_words(cluster: Cluster, folder: Path, token: str, pin: str, name: str = "second") -> list[str]:
    return [
        str(BIN / "tinyport"),
        "start",
        "--roles=node",
        "--data-dir",
        str(folder),
        "--server",
        cluster.ready["proxy"],
        "--token",
        token,
        "--ca-pin",
        pin,
        "--nodename",
        name,
    ]


def new_token(cluster: Cluster, *more: str) -> dict[str, Any]:
    made: dict[str, Any] = cluster.tctl_json("tokens", "add", "--type", "node", *more)
    return made


def test_a_wrong_token_is_a_clear_end(cluster: Cluster, tmp_path: Path) -> None:
    words = node_words(cluster, tmp_path / "n", "abcdefghij.klmnopqrstuvwxyz234567ab", cluster.ready["ca_pin"])
    done = cluster.run(*words)
    assert done.returncode == DENIED, text(done)
    assert b"token" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_wrong_pin_ends_before_the_token_is_sent(cluster: Cluster, tmp_path: Path) -> None:
    token = new_token(cluster)
    done = cluster.run(*node_words(cluster, tmp_path / "n", token["token"], "sha256:" + "0" * 64))
    assert done.returncode == 1, text(done)
    assert b"pin" in done.stderr
    assert token["token"].encode() not in done.stderr
    (kept,) = [t for t in cluster.tctl_json("tokens", "ls")["tokens"] if t["id"] == token["id"]]
    assert kept.get("used", 0) == 0


def test_configuration_errors_come_all_at_once(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "tinyport.toml"
    path.write_text('[tinyport]\nnodname = "x"\n[node]\nworker_idle = "soon"\n[proxy]\nlisten = 7\n')
    done = cluster.run(BIN / "tinyport", "check-config", path)
    assert done.returncode == 1, text(done)
    for word in (b"nodname", b"worker_idle", b"listen"):
        assert word in done.stderr + done.stdout


def test_a_port_that_is_taken_is_named(cluster: Cluster, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = cluster.run(BIN / "tinyport", "quickstart", "--data-dir", tmp_path / "d", "--listen", address)
    assert done.returncode == 1, text(done)
    assert address.rpartition(":")[2].encode() in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_second_node_joins_and_a_used_token_does_not_serve_twice(fragile: Cluster, tmp_path: Path) -> None:
    token = new_token(fragile)["token"]
    config = tmp_path / "second.toml"
    config.write_text("[node]\nenabled = true\nlisten = []\n")
    words = node_words(fragile, tmp_path / "n2", token, fragile.ready["ca_pin"])
    log = (tmp_path / "n2.log").open("wb")
    with log, subprocess.Popen([*words, "-c", str(config)], stdout=log, stderr=log, env=fragile.env()) as second:
        try:
            wait_for("the second node", lambda: second.poll() is None and fragile.node_status("second") == "online")
            user = fragile.add_user("frank", fragile.login_name)
            done = fragile.tsh("ssh", f"{fragile.login_name}@second", "echo ok", home=user)
            assert done.stdout == b"ok\n", text(done)
            again = fragile.run(*node_words(fragile, tmp_path / "n3", token, fragile.ready["ca_pin"], "third"))
            assert again.returncode == DENIED, text(again)
            assert b"used" in again.stderr
        finally:
            second.terminate()
            second.wait(60)
    # It never vanishes.
    wait_for("the second node to be offline", lambda: fragile.node_status("second") == "offline")


@pytest.mark.parametrize("role", ["proxy", "auth"])
def test_a_killed_role_comes_back_and_everything_with_it(fragile: Cluster, role: str) -> None:
    user = fragile.add_user("grace", fragile.login_name)
    pid = fragile.ready["pids"][role]
    os.kill(pid, signal.SIGKILL)
    wait_for(f"{role} to be gone", lambda: not alive(pid))

    def reached() -> bool:
        done = fragile.tsh("ssh", f"{fragile.login_name}@{fragile.node}", "echo back", home=user)
        assert b"Traceback" not in done.stderr, text(done)
        return done.stdout == b"back\n"

    wait_for("a session after the kill", reached)
    wait_for("the node to be online", lambda: fragile.node_status() == "online")
    # What was acknowledged before is still there.
    assert "grace" in json.dumps(fragile.tctl_json("users", "ls"))


@contextmanager
def auth_hangs(cluster: Cluster) -> Iterator[None]:
    """Auth takes connections and says nothing: worse than one that is gone."""
    pid = cluster.ready["pids"]["auth"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_sessions_go_on_while_auth_is_away(fragile: Cluster) -> None:
    user = fragile.add_user("heidi", fragile.login_name)
    with auth_hangs(fragile):
        done = fragile.tsh("ssh", f"{fragile.login_name}@{fragile.node}", "echo still", home=user)
        assert done.stdout == b"still\n", text(done)


@pytest.mark.slow
def test_a_login_while_auth_is_away_says_so(fragile: Cluster) -> None:
    user = fragile.add_user("heidi", fragile.login_name)
    with auth_hangs(fragile):
        words = ("login", "--proxy", fragile.ready["proxy"], "--user", user, "--ca-pin", fragile.ready["ca_pin"])
        refused = fragile.tsh(*words, home=user, input="correct horse battery\n")
        assert refused.returncode == 1, text(refused)
        assert b"auth" in refused.stderr
        assert b"Traceback" not in refused.stderr
    fragile.login(user)


def test_stopping_leaves_nothing_behind(tmp_path: Path) -> None:
    made = Cluster(tmp_path).start()
    pids = list(made.ready["pids"].values())
    made.stop()
    wait_for("all processes to end", lambda: not any(alive(pid) for pid in pids))
    found = [
        entry
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and str(tmp_path).encode() in _command_line(entry)
    ]
    assert found == []


def _command_line(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
    except OSError:
        return b""
