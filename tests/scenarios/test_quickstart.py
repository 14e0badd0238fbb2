"""From an empty folder to a shell: the real quickstart, and what it says to type next."""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.scenarios.cluster import LIMIT, Cluster, alive, text, wait_for


def test_the_ready_file_says_where_everything_is(cluster: Cluster) -> None:
    ready = cluster.ready
    assert sorted(ready) == sorted(
        ("proxy", "auth", "node", "ca_pin", "nodename", "login", "pids", "admin_identity"),
    )
    for name in ("proxy", "auth", "node"):
        host, _, port = ready[name].rpartition(":")
        assert (host, int(port) > 0) == ("127.0.0.1", True)
    assert ready["ca_pin"] == cluster.tctl_json("status")["ca_pins"][0]
    assert sorted(ready["pids"]) == ["auth", "node", "proxy"]
    assert all(alive(pid) for pid in ready["pids"].values())
    assert len(set(ready["pids"].values())) == 3
    assert Path(ready["admin_identity"]).stat().st_mode & 0o777 == 0o600
    assert ready["login"] == getpass.getuser()


def test_the_node_is_online_and_the_administrator_is_there(cluster: Cluster) -> None:
    assert cluster.node_status() == "online"
    (admin,) = [user for user in cluster.tctl_json("users", "ls")["users"] if user["name"] == "admin"]
    assert sorted(admin["roles"]) == ["access", "admin"]
    assert admin["logins"] == [cluster.login_name]


def test_tctl_from_anywhere_with_the_identity_file(cluster: Cluster) -> None:
    done = cluster.run("tctl", "-i", cluster.ready["admin_identity"], "nodes", "ls")
    assert done.returncode == 0, text(done)
    assert cluster.node.encode() in done.stdout


def test_tsh_with_the_identity_file(cluster: Cluster) -> None:
    words = ("tsh", "-i", cluster.ready["admin_identity"], "ssh", f"{cluster.login_name}@{cluster.node}")
    done = cluster.run(*words, "echo out; exit 3")
    assert (done.returncode, done.stdout) == (3, b"out\n"), text(done)


@pytest.fixture
def openssh(cluster: Cluster) -> list[str]:
    """Plain ssh with what ``tctl auth`` gives: a key, its certificate, and whom to trust."""
    ssh = need_program("ssh")
    key, known = cluster.folder / "openssh-key", cluster.folder / "openssh-known"
    signed = cluster.tctl("auth", "sign", "--user", "admin", "--format", "openssh", "-o", key)
    assert signed.returncode == 0, text(signed)
    exported = cluster.tctl("auth", "export", "--type", "host")
    known.write_bytes(b"".join(b"@cert-authority * " + line for line in exported.stdout.splitlines(keepends=True)))
    options = {
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "IdentityFile": str(key),
        "BatchMode": "yes",
    }
    return [ssh, "-F", "none", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def test_plain_ssh_straight_to_the_node(cluster: Cluster, openssh: list[str]) -> None:
    host, _, port = cluster.ready["node"].rpartition(":")
    words = ["-p", port, "-o", f"HostKeyAlias={cluster.node}", f"{cluster.login_name}@{host}", "echo direct; exit 4"]
    done = cluster.run(*openssh, *words)
    assert (done.returncode, done.stdout) == (4, b"direct\n"), text(done)


def test_plain_ssh_through_the_proxy(cluster: Cluster, openssh: list[str]) -> None:
    host, _, port = cluster.ready["proxy"].rpartition(":")
    jump = " ".join([*openssh, "-p", port, "-W", "%h:%p", f"x@{host}"])
    alias = cluster.tctl_json("status")["cluster"]
    # The proxy is dialled by its address, which its certificate names.
    done = cluster.run(
        *openssh, "-o", f"ProxyCommand={jump}", f"{cluster.login_name}@{cluster.node}.{alias}", "echo in"
    )
    assert (done.returncode, done.stdout) == (0, b"in\n"), text(done)


def test_the_daemon_answers_for_itself(cluster: Cluster) -> None:
    done = cluster.run("tinyport", "status", "--data-dir", cluster.data, "--format", "json")
    assert done.returncode == 0, text(done)
    assert json.loads(done.stdout)["name"] == cluster.node
    shown = cluster.run("tinyport", "status", "--data-dir", cluster.data)
    assert b"tunnel:       up for" in shown.stdout, text(shown)


def test_inside_a_session_status_says_who_and_where(cluster: Cluster) -> None:
    words = ("tsh", "-i", cluster.ready["admin_identity"], "ssh", f"{cluster.login_name}@{cluster.node}")
    program = next(Path(folder) / "tinyport" for folder in cluster.env()["PATH"].split(":"))
    done = cluster.run(*words, f"{program} status --format json")
    assert done.returncode == 0, text(done)
    found = json.loads(done.stdout)
    assert (found["user"], found["node"]) == ("admin", cluster.node)


@pytest.fixture
def twice(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made.start()
    finally:
        made.stop()


def test_running_it_again_finds_what_is_there(twice: Cluster) -> None:
    before = twice.ready
    uuid = twice.tctl_json("nodes", "ls")["nodes"][0]["uuid"]
    identity = Path(before["admin_identity"]).read_bytes()
    configuration = (twice.data / "tinyport.toml").read_bytes()
    twice.stop()
    twice.start()
    assert (twice.data / "tinyport.toml").read_bytes() == configuration
    assert twice.ready["ca_pin"] == before["ca_pin"]
    assert [node["uuid"] for node in twice.tctl_json("nodes", "ls")["nodes"]] == [uuid]
    assert [user["name"] for user in twice.tctl_json("users", "ls")["users"]] == ["admin"]
    assert twice.ready["proxy"] == before["proxy"]
    # The certificate in the file lasts for hours, so each run makes a new one.
    assert Path(before["admin_identity"]).read_bytes() != identity


def test_nothing_stays_when_quickstart_is_killed(twice: Cluster) -> None:
    pids = list(twice.ready["pids"].values())
    assert twice._process is not None
    os.kill(twice._process.pid, signal.SIGKILL)
    wait_for("all roles to end", lambda: not any(alive(pid) for pid in pids))


def test_a_second_one_on_the_same_folder_is_refused(twice: Cluster) -> None:
    again = twice.run("tinyport", "quickstart", "--data-dir", twice.data)
    assert again.returncode == 1, text(again)
    assert b"is running" in again.stderr, text(again)
    assert twice.node_status() == "online"


def test_a_session_that_would_outlive_the_node_ends_with_quickstart(twice: Cluster, tmp_path: Path) -> None:
    # Straight to the node: through the proxy it would end with the proxy.
    ssh, key = need_program("ssh"), tmp_path / "key"
    assert twice.tctl("auth", "sign", "--user", "admin", "--format", "openssh", "-o", key).returncode == 0
    host, _, port = twice.ready["node"].rpartition(":")
    options = ("UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no", "BatchMode=yes", "IdentitiesOnly=yes")
    words = [ssh, "-F", "none", "-i", str(key), "-p", port, *(word for option in options for word in ("-o", option))]
    command = [*words, f"{twice.login_name}@{host}", "echo $$; exec sleep 1000"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=twice.env()) as session:
        assert session.stdout is not None
        pid = int(session.stdout.readline())
        twice.stop()
        wait_for("the session to end", lambda: not alive(pid))
        assert session.wait(LIMIT) != 0
