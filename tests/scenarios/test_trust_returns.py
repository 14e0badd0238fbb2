"""The TLS CA changes and something goes wrong: a backup from before it, a proxy that did not follow."""

from __future__ import annotations

from pathlib import Path

from .cluster import Cluster, text, wait_for
from .test_rotation import FORWARD, echoes, step


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
