"""The CAs of a living cluster are replaced: by hand and back, with people at work, and a node that slept through."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .cluster import BIN, Cluster, text, wait_for

FORWARD = ("init", "update_clients", "update_servers", "standby")


def rotation(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.tctl_json("status")["rotation"]
    return found


def step(cluster: Cluster, phase: str, type: str = "all", *, follow: bool = True) -> None:
    """``follow``: wait for everybody; without, not even the proxies are."""
    forced = [] if follow else ["--force"]
    done = cluster.tctl("auth", "rotate", "--type", type, "--phase", phase, *forced)
    assert done.returncode == 0, text(done)
    if follow:
        wait_for(f"everybody to follow to {phase}", lambda: not rotation(cluster)["behind"])


def target(cluster: Cluster) -> str:
    return f"{cluster.login_name}@{cluster.node}"


@contextmanager
def session(cluster: Cluster, home: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell that echoes what it is sent."""
    running = subprocess.Popen(
        [str(BIN / "tsh"), "ssh", target(cluster), 'while read line; do echo "got $line"; done'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=cluster.env(home),
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def says(running: subprocess.Popen[bytes], word: str) -> bool:
    assert running.stdin is not None
    assert running.stdout is not None
    running.stdin.write(f"{word}\n".encode())
    running.stdin.flush()
    return running.stdout.readline() == f"got {word}\n".encode()


def echoes(cluster: Cluster, home: str) -> bool:
    return cluster.tsh("ssh", target(cluster), "echo in", home=home).stdout == b"in\n"


def test_people_go_on_working_through_a_rotation_and_a_rollback(fragile: Cluster) -> None:
    alice = fragile.add_user("alice", fragile.login_name)
    before = fragile.tctl_json("status")["ca_pins"]
    config = fragile.ssh_config(alice)
    with session(fragile, alice) as running:
        assert says(running, "before")
        step(fragile, "init")
        step(fragile, "update_clients")
        step(fragile, "update_servers")
        step(fragile, "rollback")
        assert says(running, "rolled back")
        step(fragile, "standby")
        assert fragile.tctl_json("status")["ca_pins"] == before
        wait_for("a session after the rollback", lambda: echoes(fragile, alice))

        step(fragile, "init")
        fragile.login(alice)
        bob = fragile.add_user("bob", fragile.login_name)
        step(fragile, "update_clients")
        assert {one["user"] for one in rotation(fragile)["logins"]} >= {"alice", "bob"}
        fragile.login(alice)
        assert says(running, "on the way")
        wait_for("a session in update_clients", lambda: echoes(fragile, alice))
        step(fragile, "update_servers")
        wait_for("a session in update_servers", lambda: echoes(fragile, alice))
        known = next(line for line in config.read_text().splitlines() if "UserKnownHostsFile" in line)
        lines = Path(known.split()[-1].strip('"')).read_text()
        assert lines.count("@cert-authority *.") == 2
        shown = fragile.tctl("status")
        assert b"rotation: " in shown.stdout, text(shown)
        assert b"user CA: update_servers since" in shown.stdout, text(shown)
        assert b"followed by 1 of 1 nodes, 1 of 1 proxies" in shown.stdout, text(shown)
        step(fragile, "standby")
        # It was let in by a CA that is gone, and it goes on.
        assert says(running, "after")
        stale = fragile.tsh("ls", home=bob)
        assert (stale.returncode, b'run "tsh login"' in stale.stderr) == (3, True), text(stale)
        fragile.login(bob)
        assert fragile.tsh("ls", home=bob).returncode == 0
        fragile.login(alice)
        wait_for("a session after the rotation", lambda: echoes(fragile, alice))
        assert says(running, "still here")
    after = fragile.tctl_json("status")["ca_pins"]
    assert not set(before) & set(after)
    if (Path("/usr/bin/ssh")).exists():
        # The block is that of before the rotation.
        done = fragile.run(
            "ssh", "-F", config, "-o", "BatchMode=yes", f"{target(fragile)}.{cluster_name(fragile)}", "id -un"
        )
        assert done.stdout.decode().strip() == fragile.login_name, text(done)
    phases = [event["phase"] for event in audit(fragile, "ca.rotate") if event["type"] == "tls"]
    assert phases == ["init", "update_clients", "update_servers", "rollback", "standby", *FORWARD]


def cluster_name(cluster: Cluster) -> str:
    return str(cluster.tctl_json("status")["cluster"])


def audit(cluster: Cluster, type: str) -> list[dict[str, Any]]:
    found = cluster.tctl_json("audit", "--type", type)
    return list(found["events"] if isinstance(found, dict) else found)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def asleep(pid: int) -> Iterator[None]:
    """A process that stands still, and whose children are gone."""
    below = _children(pid)
    os.kill(pid, signal.SIGSTOP)
    for child in below:
        os.kill(child, signal.SIGKILL)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_when_everybody_but_auth_was_away(fragile: Cluster, tmp_path: Path) -> None:
    alice = fragile.add_user("alice", fragile.login_name)
    pids = fragile.ready["pids"]
    uuid = fragile.tctl_json("nodes", "ls")["nodes"][0]["uuid"]
    with asleep(pids["node"]):
        with asleep(pids["proxy"]):
            for _ in range(2):
                for phase in FORWARD:
                    step(fragile, phase, follow=False)
        # Its connections are of before; a proxy that was away has none.
        os.kill(pids["proxy"], signal.SIGKILL)
        wait_for(
            "the proxy to come home", lambda: [one["name"] for one in rotation(fragile)["behind"]] == [fragile.node]
        )
    wait_for("the node to come home", lambda: fragile.node_status() == "online" and not rotation(fragile)["behind"])
    assert [node["uuid"] for node in fragile.tctl_json("nodes", "ls")["nodes"]] == [uuid]
    # Somebody's login of before is enough to log in again, without a pin.
    done = fragile.tsh("login", home=alice, input="correct horse battery\n")
    assert done.returncode == 0, text(done)
    wait_for("a session", lambda: echoes(fragile, alice))

    # An SD card that was written before.
    token = fragile.tctl_json("tokens", "add", "--type", "node")["token"]
    config = tmp_path / "card.toml"
    config.write_text(
        f'[tinyport]\nnodename = "card"\ndata_dir = "{tmp_path}/card"\nserver = "{fragile.ready["proxy"]}"\n'
        f'token = "{token}"\nca_pin = "{fragile.ready["ca_pin"]}"\n[node]\nlisten = []\n'
    )
    log = (tmp_path / "card.log").open("wb")
    card = subprocess.Popen(
        [str(BIN / "tinyport"), "start", "-c", str(config)], stdout=log, stderr=log, env=fragile.env()
    )
    try:
        wait_for("the card to join", lambda: fragile.node_status("card") == "online")
    finally:
        card.terminate()
        card.wait(60)
        log.close()


def test_a_node_that_slept_through_all_of_it_comes_home(fragile: Cluster) -> None:
    alice = fragile.add_user("alice", fragile.login_name)
    monitor = fragile.ready["pids"]["node"]
    uuid = fragile.tctl_json("nodes", "ls")["nodes"][0]["uuid"]
    with asleep(monitor):
        for _ in range(2):
            for phase in FORWARD:
                step(fragile, phase, follow=False)
                wait_for(
                    "the proxy to follow",
                    lambda: [one["name"] for one in rotation(fragile)["behind"]] == [fragile.node],
                )
    wait_for("the node to come home", lambda: fragile.node_status() == "online" and not rotation(fragile)["behind"])
    node = fragile.tctl_json("nodes", "ls")["nodes"][0]
    assert node["uuid"] == uuid
    assert [event["node"] for event in audit(fragile, "node.return")] == [fragile.node]
    # The old pin vouches for the cluster of today, and so does a login from before.
    fragile.login(alice)
    wait_for("a session", lambda: echoes(fragile, alice))
    fragile.add_user("bob", fragile.login_name)


def test_a_rotation_with_a_grace_period_goes_by_itself(fragile: Cluster) -> None:
    done = fragile.tctl("auth", "rotate", "--type", "tls", "--grace-period", "10s")
    assert done.returncode == 0, text(done)
    assert b"tls CA: init since" in done.stdout
    assert b"update_clients at" in done.stdout
    wait_for("the rotation to be over", lambda: rotation(fragile)["types"][2]["phase"] == "standby")
    assert [event["by"] for event in audit(fragile, "ca.rotate")][1:] == ["grace period"] * 3
    wait_for("everybody to have followed", lambda: not rotation(fragile)["behind"])
    wait_for("the node to be back", lambda: fragile.node_status() == "online")


def test_after_a_compromise_nobody_follows_and_the_operator_knows_what_to_do(fragile: Cluster) -> None:
    alice = fragile.add_user("alice", fragile.login_name)
    uuid = fragile.tctl_json("nodes", "ls")["nodes"][0]["uuid"]
    asked = fragile.tctl("auth", "rotate", "--type", "all", "--compromised")
    assert (asked.returncode, b"--yes" in asked.stderr) == (1, True), text(asked)
    single = fragile.tctl("auth", "rotate", "--type", "user", "--compromised", "--yes")
    assert single.returncode == 2, text(single)
    with session(fragile, alice) as running:
        assert says(running, "before")
        done = fragile.tctl("auth", "rotate", "--type", "all", "--compromised", "--yes")
        assert done.returncode == 0, text(done)
        # Whoever was let in by the old CA may be anybody.
        running.wait(60)
    assert b"mv identity.json identity.pending.json" in done.stdout
    assert f"closed to the old keys: proxy-{fragile.node},{fragile.node}".encode() in done.stdout, text(done)
    pin = fragile.tctl_json("status")["ca_pins"][0]
    assert pin.encode() in done.stdout
    assert pin != fragile.ready["ca_pin"]
    verified = fragile.tctl("audit", "verify")
    assert verified.returncode == 0, text(verified)
    refused = fragile.tsh("ls", home=alice)
    assert refused.returncode != 0
    pinned = fragile.tsh(
        "login",
        "--proxy",
        fragile.ready["proxy"],
        "--user",
        "alice",
        "--ca-pin",
        fragile.ready["ca_pin"],
        home="fresh",
        input="correct horse battery\n",
    )
    assert (pinned.returncode, b"CA pin does not match" in pinned.stderr) == (1, True), text(pinned)

    fragile.stop()
    for role in ("proxy", "node"):
        folder = fragile.data / role
        (folder / "identity.json").rename(folder / "identity.pending.json")
    fragile.start()
    assert fragile.ready["ca_pin"] == pin
    wait_for("the node to be back", lambda: fragile.node_status() == "online")
    assert [node["uuid"] for node in fragile.tctl_json("nodes", "ls")["nodes"]] == [uuid]
    fragile.login(alice)
    wait_for("a session", lambda: echoes(fragile, alice))
