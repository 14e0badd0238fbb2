"""Two proxies: a node keeps a tunnel to each, and people reach it through either while the other is gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.cluster import BIN, LIMIT, Cluster, text, wait_for


class SecondProxy:
    """A proxy on a machine of its own, as docs/operations.md has it: joined with a token of kind proxy."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.address = f"127.0.0.1:{found.getsockname()[1]}"
        token = cluster.tctl_json("tokens", "add", "--type", "proxy")["token"]
        self._config = folder / "proxy.toml"
        self._config.write_text(
            f'[tinyport]\nnodename = "berlin"\ndata_dir = "{folder / "data"}"\nserver = "{cluster.ready["auth"]}"\n'
            f'token = "{token}"\nca_pin = "{cluster.ready["ca_pin"]}"\n[proxy]\nlisten = "{self.address}"\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [str(BIN / "tinyport"), "start", "-c", str(self._config)]
        with (self._folder / "proxy.log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, env=self._cluster.env())

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(LIMIT)
            self._process = None


@pytest.fixture
def berlin(fragile: Cluster, tmp_path: Path) -> Iterator[SecondProxy]:
    folder = tmp_path / "berlin"
    folder.mkdir()
    made = SecondProxy(fragile, folder)
    made.start()
    yield made
    made.stop()


def proxies_of_the_node(cluster: Cluster) -> int:
    (node,) = cluster.tctl_json("nodes", "ls")["nodes"]
    return len(node["proxies"])


def test_either_of_two_proxies_leads_to_the_node(fragile: Cluster, berlin: SecondProxy) -> None:
    wait_for("a tunnel to each", lambda: proxies_of_the_node(fragile) == 2)
    user = fragile.add_user("anna", fragile.login_name)
    where = f"{fragile.login_name}@{fragile.node}"

    def says(proxy: str) -> bytes:
        admin = (BIN / "tsh", "-i", fragile.ready["admin_identity"], "--proxy", proxy)
        done = fragile.run(*admin, "ssh", where, "echo here")
        return done.stdout if done.returncode == 0 else text(done).encode()

    for proxy in (fragile.ready["proxy"], berlin.address):
        assert says(proxy) == b"here\n"
    # The first is frozen, which is worse than gone: its port still answers.
    os.kill(fragile.ready["pids"]["proxy"], signal.SIGSTOP)
    try:
        assert says(berlin.address) == b"here\n"
        # A login that knows both needs no telling.
        done = fragile.tsh("ssh", where, "echo here", home=user)
        assert done.stdout == b"here\n", text(done)
    finally:
        os.kill(fragile.ready["pids"]["proxy"], signal.SIGCONT)
    # The second is killed; what auth knows of it is a lease that runs out, and the node stays online.
    berlin.stop(signal.SIGKILL)
    assert says(fragile.ready["proxy"]) == b"here\n"
    assert fragile.node_status() == "online"
    berlin.start()
    wait_for("the way through the second", lambda: says(berlin.address) == b"here\n")
    table = fragile.tctl("nodes", "ls", "-v")
    assert b"TRAFFIC" in table.stdout, text(table)
