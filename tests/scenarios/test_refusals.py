"""Truthful refusals: unknown, offline, denied by role, locked and clock are different answers; strangers hear none
of them.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.cluster import Cluster, text, wait_for


@pytest.fixture(scope="session")
def bob(cluster: Cluster) -> str:
    return cluster.add_user("bob", cluster.login_name)


def refusal(cluster: Cluster, user: str, target: str, *words: str) -> str:
    done = cluster.tsh("ssh", *words, target, "true", home=user)
    assert done.returncode == 255, text(done)
    assert b"Traceback" not in done.stderr
    return done.stderr.decode()


def test_no_such_node(cluster: Cluster, bob: str) -> None:
    assert "there is no node nowhere" in refusal(cluster, bob, f"{cluster.login_name}@nowhere")


def test_a_login_that_is_not_yours(cluster: Cluster, bob: str) -> None:
    said = refusal(cluster, bob, f"daemon@{cluster.node}")
    assert "login daemon is not one of yours" in said


def test_a_role_that_denies_is_named(cluster: Cluster) -> None:
    document = {"name": "hands-off", "deny": {"logins": [cluster.login_name]}, "allow": {"node_labels": {"*": ["*"]}}}
    path = cluster.folder / "role.json"
    path.write_text(json.dumps({"kind": "role", **document}))
    created = cluster.tctl("create", "-f", path)
    assert created.returncode == 0, text(created)
    user = cluster.add_user("cora", f"{cluster.login_name},other", roles="access,hands-off")
    said = refusal(cluster, user, f"{cluster.login_name}@{cluster.node}")
    assert "hands-off" in said or "not one of yours" in said


@pytest.fixture
def locked(cluster: Cluster, bob: str) -> Iterator[str]:
    done = cluster.tctl("lock", "--user", bob, "--message", "lost laptop", "--format", "json")
    assert done.returncode == 0, text(done)
    lock = json.loads(done.stdout)
    yield bob
    undone = cluster.tctl("unlock", lock.get("id") or lock["lock"]["id"])
    assert undone.returncode == 0, text(undone)


def test_locked_says_why(cluster: Cluster, locked: str) -> None:
    assert "lost laptop" in refusal(cluster, locked, f"{cluster.login_name}@{cluster.node}")


def test_a_stranger_hears_access_denied(cluster: Cluster) -> None:
    path = cluster.folder / "blind.json"
    path.write_text(json.dumps({"kind": "role", "name": "blind", "allow": {"logins": ["{{internal.logins}}"]}}))
    assert cluster.tctl("create", "-f", path).returncode == 0
    user = cluster.add_user("dave", cluster.login_name, roles="blind")
    existing = refusal(cluster, user, f"{cluster.login_name}@{cluster.node}")
    missing = refusal(cluster, user, f"{cluster.login_name}@nowhere")
    assert "access denied" in existing
    assert existing.replace(cluster.node, "X") == missing.replace("nowhere", "X")


def test_openssh_users_read_the_refusal_too(cluster: Cluster, bob: str) -> None:
    config = cluster.ssh_config(bob)
    name = cluster.tctl_json("status")["cluster"]
    done = cluster.run("ssh", "-F", config, "-o", "BatchMode=yes", f"x@nowhere.{name}", "true", home=bob)
    assert done.returncode == 255
    assert b"there is no node nowhere" in done.stderr, text(done)


def test_offline_says_since_when(fragile: Cluster) -> None:
    user = fragile.add_user("eve", fragile.login_name)
    monitor = fragile.ready["pids"]["node"]
    os.kill(monitor, signal.SIGSTOP)
    children = [int(pid) for pid in Path(f"/proc/{monitor}/task/{monitor}/children").read_text().split()]
    try:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        wait_for("the node to be offline", lambda: fragile.node_status() == "offline")
        assert "offline since" in refusal(fragile, user, f"{fragile.login_name}@{fragile.node}")
    finally:
        os.kill(monitor, signal.SIGCONT)
    wait_for("the node to be back", lambda: fragile.node_status() == "online")
    done = fragile.tsh("ssh", f"{fragile.login_name}@{fragile.node}", "echo back", home=user)
    assert done.stdout == b"back\n", text(done)


def test_a_login_at_another_port_is_told_what_that_is(cluster: Cluster) -> None:
    for name, said in (("node", b" is a tinyport node, no proxy of a cluster"), ("auth", b" is auth's own port")):
        words = ("login", "--proxy", cluster.ready[name], "--user", "ana", "--ca-pin", cluster.ready["ca_pin"])
        done = cluster.tsh(*words, home="nobody", input="secret\n")
        assert (done.returncode, said in done.stderr) == (1, True), text(done)
    # Auth knows where its proxies are.
    assert f'"tsh login --proxy {cluster.ready["proxy"]}"'.encode() in done.stderr, text(done)
