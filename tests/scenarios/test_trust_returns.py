"""The TLS CA changes and something goes wrong: a backup from before it, a proxy that did not follow."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import need_program
from tinyport.host.identity_before import PUBLIC, SECRET

from .cluster import BIN, Cluster, text, wait_for
from .device import Device
from .test_rotation import FORWARD, cluster_name, echoes, rotation, step


def test_a_backup_from_before_a_rotation_brings_the_cas_of_then(fragile: Cluster, tmp_path: Path) -> None:
    alice = fragile.add_user("alice", fragile.login_name)
    before = fragile.tctl_json("status")["ca_pins"]
    copy = tmp_path / "farm.db"
    assert fragile.tctl("backup", copy).returncode == 0
    for phase in FORWARD:
        step(fragile, phase)
    wait_for("the node with the new CA", lambda: fragile.node_status() == "online")
    assert not set(before) & set(fragile.tctl_json("status")["ca_pins"])
    fragile.stop()
    done = fragile.tctl("restore", copy)
    assert done.returncode == 0, text(done)
    fragile.start()
    assert fragile.tctl_json("status")["ca_pins"] == before
    wait_for("the node to be back", lambda: fragile.node_status() == "online")
    fragile.login(alice)
    wait_for("a session", lambda: echoes(fragile, alice))


@contextmanager
def proxy_that_cannot_renew(cluster: Cluster) -> Iterator[None]:
    """Its disk takes no new identity: what would be written aside has the name of a folder."""
    aside = cluster.data / "proxy" / f"identity.json.{cluster.ready['pids']['proxy']}.new"
    aside.mkdir()
    try:
        yield
    finally:
        aside.rmdir()


def says(cluster: Cluster) -> str:
    """What ``tinyport status`` says on the node."""
    return cluster.run(BIN / "tinyport", "status", "--data-dir", cluster.data).stdout.decode()


def kept(cluster: Cluster) -> list[str]:
    """The identity before that of today, as far as it is there."""
    return [name for name in (PUBLIC, SECRET) if (cluster.data / "node" / name).exists()]


def test_a_proxy_that_cannot_follow_strands_no_node(fragile: Cluster) -> None:
    """A rotation was ended although a proxy still shows the old CA, which no node believes any more."""
    need_program("ssh")
    alice = fragile.add_user("alice", fragile.login_name)
    config = fragile.ssh_config(alice)
    where = f"{fragile.login_name}@{fragile.node}.{cluster_name(fragile)}"

    def ssh() -> bool:
        # By the proxy's SSH side: alice's TLS certificate is of the CA that was replaced.
        words = ("-F", config, "-o", "BatchMode=yes", "-J", f"{fragile.login_name}@{fragile.ready['proxy']}")
        return fragile.run("ssh", *words, where, "echo in", home=alice).stdout == b"in\n"

    with proxy_that_cannot_renew(fragile):
        for phase in FORWARD:
            if phase == "standby":
                # Auth does not do that by itself, nor by mistake.
                refused = fragile.tctl("auth", "rotate", "--type", "tls", "--phase", phase)
                assert refused.returncode == 1, text(refused)
                assert f"proxy-{fragile.node} would show".encode() in refused.stderr, text(refused)
            step(fragile, phase, "tls", follow=False)
            generation = {"init": 2, "update_clients": 3, "update_servers": 4, "standby": 5}[phase]
            wait_for(f"the node to renew in {phase}", lambda: f"generation {generation}," in says(fragile))  # noqa: B023
        wait_for("a tunnel with what was before", lambda: "has not followed the last renewal" in says(fragile))
        assert kept(fragile) == [PUBLIC, SECRET]
        # Sessions are dialled back to that proxy, too: plain ssh has nothing to do with the TLS CA.
        wait_for("a session", ssh)
        # Nothing of it hangs on this process.
        os.kill(fragile.ready["pids"]["node"], signal.SIGKILL)
        wait_for("the tunnel again", lambda: "has not followed the last renewal" in says(fragile))
        wait_for("a session", ssh)
        assert kept(fragile) == [PUBLIC, SECRET]
    # Its disk is mended, it is started again, and renews.
    os.kill(fragile.ready["pids"]["proxy"], signal.SIGKILL)
    wait_for("the tunnel with the certificate of today", lambda: kept(fragile) == [])
    assert "has not followed" not in says(fragile)
    assert "up for" in says(fragile)
    wait_for("auth to hear of it", lambda: fragile.node_status() == "online")


def test_rolled_back_from_any_phase_nobody_is_left_behind(fragile: Cluster, tmp_path: Path) -> None:
    """A device that joined in each phase of a rotation by mistake, and was off for the rest of it."""
    before = fragile.tctl_json("status")["ca_pins"]
    devices: dict[str, Device] = {}

    def take(phase: str) -> None:
        step(fragile, phase, follow=False)
        wait_for("whoever is on to follow", lambda: set(absent(fragile)) <= set(devices))

    def online(name: str) -> None:
        wait_for(f"{name} to be there", lambda: fragile.node_status(name) == "online")

    try:
        for phase in FORWARD[:3]:
            take(phase)
            folder = tmp_path / phase
            folder.mkdir()
            name = phase.replace("_", "-")
            devices[name] = Device(fragile, folder, fragile.ready["proxy"], name=name)
            devices[name].start()
            online(name)
            devices[name].stop()
        uuids = {node["name"]: node["uuid"] for node in fragile.tctl_json("nodes", "ls")["nodes"]}
        take("rollback")
        take("standby")
        assert set(absent(fragile)) == set(devices)
        assert fragile.tctl_json("status")["ca_pins"] == before
        for device in devices.values():
            device.start()
        wait_for("all to have followed", lambda: not absent(fragile))
        for name in devices:
            online(name)
        assert uuids == {node["name"]: node["uuid"] for node in fragile.tctl_json("nodes", "ls")["nodes"]}
    finally:
        for device in devices.values():
            device.stop()


def absent(cluster: Cluster) -> list[str]:
    return [str(one["name"]) for one in rotation(cluster)["behind"]]


def test_a_proxy_from_before_the_rotation_is_put_back(fragile: Cluster, tmp_path: Path) -> None:
    """Its machine was restored from an image; auth and nodes were not."""
    kept = tmp_path / "image"
    shutil.copytree(fragile.data / "proxy", kept)
    for phase in FORWARD:
        step(fragile, phase)
    fragile.stop()
    shutil.rmtree(fragile.data / "proxy")
    shutil.copytree(kept, fragile.data / "proxy")
    fragile.start()
    wait_for("the node to be back", lambda: fragile.node_status() == "online" and not absent(fragile))
    proxies = [proxy["online"] for proxy in fragile.tctl_json("status")["proxies"]]
    assert proxies == [True]
    fragile.login(fragile.add_user("alice", fragile.login_name))
    wait_for("a session", lambda: echoes(fragile, "alice"))
