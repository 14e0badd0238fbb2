"""Auth's disk is gone: what an operator kept elsewhere makes the cluster again, and the log tells what was done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .cluster import Cluster, text, wait_for


def test_backup_disaster_restore(fragile: Cluster, tmp_path: Path) -> None:
    alice = fragile.add_user("alice", fragile.login_name)
    copy, log, key = tmp_path / "farm.db", tmp_path / "audit.jsonl", tmp_path / "policy.pub"
    assert fragile.tctl("backup", copy).returncode == 0
    assert copy.stat().st_mode & 0o777 == 0o600
    again = fragile.tctl("backup", copy)
    assert (again.returncode, b"exists already" in again.stderr) == (1, True), text(again)
    assert fragile.tctl("audit", "export", "-o", log).returncode == 0
    exported = fragile.tctl("auth", "export", "--type", "policy")
    key.write_bytes(exported.stdout)
    fragile.add_user("bob", fragile.login_name)
    running = fragile.tctl("restore", copy)
    assert (running.returncode, b"another auth server is using" in running.stderr) == (1, True), text(running)
    fragile.stop()

    shutil.rmtree(fragile.data / "auth")
    done = fragile.tctl("restore", copy, "--format", "json")
    assert done.returncode == 0, text(done)
    assert json.loads(done.stdout)["replaced"] is None
    fragile.start()
    # The node had seen newer documents, and follows all the same.
    wait_for("the node to be back", lambda: fragile.node_status() == "online")
    assert [user["name"] for user in fragile.tctl_json("users", "ls")["users"] if user["name"] in ("alice", "bob")] == [
        "alice"
    ]
    fragile.login("alice")
    target = f"{fragile.login_name}@{fragile.node}"
    wait_for("a session", lambda: fragile.tsh("ssh", target, "echo in", home=alice).stdout == b"in\n")
    lock = fragile.tctl("lock", "--user", "alice", "--message", "after the restore")
    assert lock.returncode == 0, text(lock)
    wait_for(
        "the node to take the new epoch's lock",
        lambda: b"after the restore" in fragile.tsh("ssh", target, "true", home=alice).stderr,
    )

    # The export holds by itself. The log of today has forgotten what came after the backup, and says so.
    offline = fragile.tctl("audit", "verify", "--key", key, log)
    assert offline.returncode == 0, text(offline)
    assert b"none altered, none missing" in offline.stdout
    assert fragile.tctl("audit", "verify").returncode == 0
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:3], lines[3].replace("T", "U", 1), *lines[4:]]) + "\n")
    altered = fragile.tctl("audit", "verify", log)
    assert (altered.returncode, b"was altered" in altered.stderr) == (1, True), text(altered)
    log.write_text("\n".join(lines[:-1]) + "\n")
    cut = fragile.tctl("audit", "verify", log)
    assert (cut.returncode, b"was cut" in cut.stderr) == (1, True), text(cut)
