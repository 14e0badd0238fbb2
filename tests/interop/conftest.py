"""Peers meet the same cluster that the scenarios use, with a user who may log in as whoever runs the tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.scenarios.cluster import Cluster


@dataclass(frozen=True)
class Peer:
    """What a client of somebody else's needs. ``via_proxy`` and ``direct``: options and destination for ssh."""

    cluster: Cluster
    user: str
    config: Path
    name: str
    host: str
    port: str
    key: Path
    certificate: Path

    @property
    def via_proxy(self) -> list[str]:
        return ["-F", str(self.config), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]

    @property
    def direct(self) -> list[str]:
        alias = ["-o", f"HostKeyAlias={self.name}", "-o", f"HostName={self.host}", "-p", self.port]
        return [*self.via_proxy[:2], *self.via_proxy[2:], "-o", "ProxyCommand=none", *alias]

    @property
    def destination(self) -> str:
        return f"{self.cluster.login_name}@{self.name}"


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    cluster = Cluster(tmp_path_factory.mktemp("interop"))
    try:
        cluster.start()
        user = cluster.add_user("judge", cluster.login_name)
        name = f"{cluster.node}.{cluster.tctl_json('status')['cluster']}"
        host, _, port = cluster.ready["node"].rpartition(":")
        (certificate,) = (cluster.folder / user).rglob("*-cert.pub")
        yield Peer(
            cluster=cluster,
            user=user,
            config=cluster.ssh_config(user),
            name=name,
            host=host,
            port=port,
            key=certificate.with_name(certificate.name.removesuffix("-cert.pub")),
            certificate=certificate,
        )
    finally:
        cluster.stop()
