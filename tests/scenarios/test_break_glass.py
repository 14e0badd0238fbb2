"""The drill: auth's disk is gone, the node is entered with plain ssh and what lay in the safe, auth is made again
from a backup, and the log tells of it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest

from .cluster import Cluster, text, wait_for
from .test_rotation import audit


@pytest.mark.needs("ssh")
def test_the_fleet_is_entered_while_auth_is_lost(fragile: Cluster, tmp_path: Path) -> None:
    safe = tmp_path / "safe"
    safe.mkdir()
    key, backup = safe / "node", safe / "farm.db"
    node, login = fragile.node, fragile.login_name
    words = ("auth", "sign", "--break-glass", "--node", node, "--login", login, "--out", key)
    made = fragile.tctl(*words)
    assert made.returncode == 0, text(made)
    assert key.stat().st_mode & 0o777 == 0o600
    assert fragile.tctl("backup", backup).returncode == 0
    uuid = fragile.tctl_json("nodes", "ls")["nodes"][0]["uuid"]

    # Auth and its disk are gone, and the proxy with it; the node stays as it is.
    pids = fragile.ready["pids"]
    for role in ("supervisor", "auth", "proxy"):
        if role in pids:
            os.kill(pids[role], signal.SIGSTOP)
    shutil.move(fragile.data / "auth", tmp_path / "lost")
    (fragile.data / "auth").mkdir()
    command = shlex.split(made.stdout.decode().splitlines()[-1])
    host, _, port = fragile.ready["node"].rpartition(":")
    command = [word if word != command[-1] else f"{login}@{host}" for word in command]
    command[command.index("-p") + 1] = port
    options = ["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    ssh = [command[0], *options, *command[1:]]
    done = fragile.run(*ssh, "id -un; echo repaired")
    assert done.stdout.decode().split() == [login, "repaired"], text(done)
    again = fragile.run(*ssh, "true")
    assert again.returncode == 255, text(again)

    # The node is not told of the end of the story by anybody but itself.
    for role in ("supervisor", "auth", "proxy"):
        if role in pids:
            os.kill(pids[role], signal.SIGCONT)
    fragile.stop()
    shutil.rmtree(fragile.data / "auth")
    restored = fragile.tctl("restore", backup)
    assert restored.returncode == 0, text(restored)
    fragile.start()
    wait_for("the node to be back", lambda: fragile.node_status() == "online")
    used = wait_for("the use in the log", lambda: audit(fragile, "break_glass.use"))
    assert [(event["node"], event["node_uuid"], event["login"], event["user"]) for event in used] == [
        (node, uuid, login, "break-glass")
    ]
    issued = audit(fragile, "break_glass.issue")
    assert [event["serial"] for event in issued] == [event["certificate_serial"] for event in used]
    commands = [event["command"] for event in audit(fragile, "exec") if event["user"] == "break-glass"]
    assert commands == ["id -un; echo repaired"]
    # It is used, on the node of after as well.
    command[command.index("-p") + 1] = fragile.ready["node"].rpartition(":")[2]
    assert fragile.run(command[0], *options, *command[1:], "true").returncode == 255


def test_what_is_asked_for_wrongly(cluster: Cluster, tmp_path: Path) -> None:
    for words, status in (
        (("--break-glass",), 2),
        (("--break-glass", "--node", "nobody-knows"), 5),
        (("--user", "x", "--node", cluster.node), 2),
        (("--break-glass", "--node", cluster.node, "--ttl", "20d", "--login", "no such login!"), 1),
    ):
        done = cluster.tctl("auth", "sign", *words, "-o", tmp_path / "out")
        assert done.returncode == status, text(done)
        assert not (tmp_path / "out").exists()
    reserved = cluster.tctl("users", "add", "break-glass", "--logins", "pi", "--roles", "access")
    assert (reserved.returncode, b"reserved" in reserved.stderr) == (1, True), text(reserved)
