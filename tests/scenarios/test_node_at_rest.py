"""A joined node that nobody uses: two processes, small, and the cluster's answers about names on it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench import processes
from tests.scenarios.cluster import BIN, Cluster, text, wait_for

#: Megabytes of the processes' own, monitor and link together: what a device pays, whatever else runs on it.
PRIVATE_BUDGET = 8.0


def test_an_idle_node_is_two_small_processes(cluster: Cluster, tmp_path: Path) -> None:
    made = cluster.tctl_json("tokens", "add", "--type", "node", "--labels", "room=cellar")
    config = tmp_path / "node.toml"
    config.write_text("[node]\nenabled = true\nlisten = []\n")
    words = [str(BIN / "tinyport"), "start", "--roles=node", "-c", str(config), "--data-dir", str(tmp_path / "n")]
    words += ["--server", cluster.ready["proxy"], "--ca-pin", cluster.ready["ca_pin"], "--nodename", "resting"]
    log = (tmp_path / "log").open("wb")
    with log, subprocess.Popen([*words, "--token", made["token"]], stdout=log, stderr=log, env=cluster.env()) as node:
        try:
            wait_for("the node", lambda: node.poll() is None and cluster.node_status("resting") == "online")
            # The keeper that took the first documents may still be there; it is not at rest then.
            pair = [
                pid for pid in processes.tree(node.pid) if processes.name(pid) in ("tinyport-monito", "tinyport-link")
            ]
            assert len(pair) == 2
            private = sum(processes.memory_of(pid).private for pid in pair)
            assert private <= PRIVATE_BUDGET, f"{private:.1f} MB"
            _ambiguous(cluster)
        finally:
            node.terminate()
            node.wait(60)
    removed = cluster.tctl("nodes", "rm", "resting")
    assert removed.returncode == 0, text(removed)


def _ambiguous(cluster: Cluster) -> None:
    """A label that two nodes have names neither: the candidates are listed."""
    labelled = cluster.tctl("nodes", "label", cluster.node, "room=cellar")
    assert labelled.returncode == 0, text(labelled)
    user = cluster.add_user("ivan", cluster.login_name)
    done = cluster.tsh("ssh", f"{cluster.login_name}@room=cellar", "true", home=user)
    assert done.returncode == 255
    said = done.stderr.decode()
    assert "resting" in said, text(done)
    assert cluster.node in said, text(done)
