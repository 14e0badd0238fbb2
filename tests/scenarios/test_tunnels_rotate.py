"""A tunnel between two clusters while CAs of both are replaced, and their proxies are killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.cluster import Cluster, text, wait_for
from tests.scenarios.test_rotation import FORWARD, step

ROOT, LEAF = "root.example", "leaf.example"

pytestmark = pytest.mark.slow


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Cluster, Cluster]]:
    """The one whose people go, the one that dials."""
    made = []
    try:
        for name in (ROOT, LEAF):
            folder = tmp_path / name
            folder.mkdir()
            made.append(Cluster(folder, name=name).start())
        yield made[0], made[1]
    finally:
        for cluster in made:
            cluster.stop()


def create(cluster: Cluster, **document: Any) -> None:
    path = cluster.folder / "resource.json"
    path.write_text(json.dumps(document))
    done = cluster.tctl("create", "-f", path)
    assert done.returncode == 0, text(done)


def keys(cluster: Cluster, type: str) -> str:
    return cluster.tctl("auth", "export", "--type", type).stdout.decode()


def proxy_of(cluster: Cluster) -> int:
    for pid in Path(f"/proc/{cluster.pid}/task/{cluster.pid}/children").read_text().split():
        if b"proxy" in Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/comm").read_bytes():
            return int(pid)
    raise AssertionError("there is no proxy")


def test_a_tunnel_follows_rotations_and_outlives_proxies(two: tuple[Cluster, Cluster]) -> None:
    root, leaf = two
    everywhere = {"node_labels": {"*": ["*"]}}
    create(leaf, kind="role", name="guest", allow={"logins": [leaf.login_name], **everywhere})
    entry = {
        "kind": "trusted_cluster",
        "name": ROOT,
        "user_ca": keys(root, "user"),
        "role_map": [{"remote": "access", "local": ["guest"]}],
        "server": root.ready["proxy"],
        "ca_pin": root.ready["ca_pin"],
    }
    create(leaf, **entry)
    create(root, kind="trusted_cluster", name=LEAF, host_ca=keys(leaf, "host"))
    root.add_user("dev", root.login_name, "access")

    def gets_there() -> bool:
        words = ("ssh", "--cluster", LEAF, f"{leaf.login_name}@{leaf.node}", "echo in")
        return root.tsh(*words, home="dev").stdout == b"in\n"

    wait_for("the tunnel", gets_there)
    for kill in (root, leaf):
        os.kill(proxy_of(kill), signal.SIGKILL)
        wait_for("the tunnel after a proxy was killed", gets_there)
    # The pin is that of before, and leads to today's CA by the statements that auth has signed.
    for phase in FORWARD:
        step(root, phase, "tls")
        root.login("dev")
    os.kill(proxy_of(root), signal.SIGKILL)
    wait_for("the tunnel after the TLS CA of the one side", gets_there)
    # Keys of partners are exchanged during init (docs/rotation.md).
    step(leaf, "init", "host")
    create(root, kind="trusted_cluster", name=LEAF, host_ca=keys(leaf, "host"))
    for phase in FORWARD[1:]:
        step(leaf, phase, "host")
    create(root, kind="trusted_cluster", name=LEAF, host_ca=keys(leaf, "host"))
    wait_for("the tunnel after the host CA of the other", gets_there)
