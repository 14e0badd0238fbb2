"""A cluster without an address dials a tunnel to one behind nginx, and through an HTTP proxy on its own side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.cluster import Cluster, text, wait_for
from tests.scenarios.nginx import CLIENT, HTTP, PROXY, TCP, Nginx, start_nginx
from tests.scenarios.test_http_proxy import HOST, ConnectProxy
from tests.scenarios.test_trusted_clusters import create, keys

ROOT, LEAF = "root.example", "leaf.example"
WAYS = ("relay", "tcp ends", "tcp again", "ends", "again")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Whose people go there."""
    made = Cluster(tmp_path_factory.mktemp("root"), name=ROOT, proxy=PROXY, level="info")
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def nginx(root: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    made = start_nginx(tmp_path_factory.mktemp("nginx"), root.ready["proxy"])
    yield made
    made.stop()


@pytest.fixture(scope="module")
def way_out(nginx: Nginx) -> Iterator[ConnectProxy]:
    """The only way to nginx where that is called by a name."""
    made = ConnectProxy(int(nginx.ways["again"].rpartition(":")[2]))
    yield made
    made.close()


@pytest.fixture(scope="module")
def leaf(root: Cluster, way_out: ConnectProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    environment = {"HTTPS_PROXY": f"http://127.0.0.1:{way_out.port}"}
    made = Cluster(tmp_path_factory.mktemp("leaf"), name=LEAF, environment=environment)
    try:
        made.start()
        everywhere = {"logins": [made.login_name], "node_labels": {"*": ["*"]}}
        create(made, kind="role", name="guest", allow=everywhere)
        create(root, kind="trusted_cluster", name=LEAF, host_ca=keys(made, "host"))
        root.add_user("dev", root.login_name)
        yield made
    finally:
        made.stop()


def online(root: Cluster) -> Any:
    done = root.tsh("clusters", "--format", "json", home="dev")
    return {row["cluster"]: row["online"] for row in json.loads(done.stdout)}.get(LEAF)


@pytest.mark.parametrize("way", [*WAYS, "again, through an HTTP proxy"])
def test_a_shell_through_the_tunnel(
    root: Cluster, leaf: Cluster, nginx: Nginx, way_out: ConnectProxy, tmp_path: Path, way: str
) -> None:
    server = nginx.ways.get(way) or f"{HOST}:{nginx.ways['again'].rpartition(':')[2]}"
    entry = {"name": ROOT, "user_ca": keys(root, "user"), "role_map": [{"remote": "access", "local": ["guest"]}]}
    create(leaf, kind="trusted_cluster", **entry, server=server, ca_pin=root.ready["ca_pin"])
    try:
        wait_for("the tunnel", lambda: online(root) is True)
        where = f"{leaf.login_name}@{leaf.node}"
        done = root.tsh("ssh", "--cluster", LEAF, where, "cat; exit 7", home="dev", input=b"x" * 300_000)
        assert (done.returncode, done.stdout) == (7, b"x" * 300_000), f"{text(done)}\n{leaf.log()}"
        done = root.tsh("ssh", "--cluster", LEAF, where, "head -c 3000000 /dev/zero", home="dev")
        assert (len(done.stdout), done.returncode) == (3_000_000, 0), text(done)
        if way not in nginx.ways:
            assert server in way_out.asked
        log = root.log(10**7)
        assert f"peer={CLIENT}:" in log
        for address in (TCP, HTTP):
            assert f"peer={address}:" not in log
    finally:
        leaf.tctl("rm", f"trusted_cluster/{ROOT}")
        wait_for("the tunnel to be gone", lambda: online(root) is not True)
