"""A cluster moves to another address: nodes are told, follow, and find their way back from a wrong one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.cluster import BIN, LIMIT, Cluster, text, wait_for
from tests.scenarios.relay import Relay


class Device:
    """A node of its own that knows the cluster at one address."""

    def __init__(self, cluster: Cluster, folder: Path, server: str) -> None:
        self._cluster = cluster
        self._folder = folder
        token = cluster.tctl_json("tokens", "add", "--type", "node")["token"]
        config = folder / "device.toml"
        config.write_text(f'[tinyport]\nnodename = "device"\ndata_dir = "{folder}/data"\n[node]\nlisten = []\n')
        self._words = [str(BIN / "tinyport"), "start", "-c", str(config), "--roles=node", "--server", server]
        self._words += ["--token", token, "--ca-pin", cluster.ready["ca_pin"]]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "device.log").open("ab") as log:
            self._process = subprocess.Popen(self._words, stdout=log, stderr=log, env=self._cluster.env())

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(LIMIT)
            self._process = None

    def stands_at(self, relay: Relay) -> bool:
        done = self._cluster.run(BIN / "tinyport", "status", "--data-dir", self._folder / "data")
        return relay.address.encode() in done.stdout and b"up since" in done.stdout


@pytest.fixture
def old(cluster: Cluster) -> Iterator[Relay]:
    made = Relay(cluster.ready["proxy"])
    yield made
    made.cut()


@pytest.fixture
def new(cluster: Cluster) -> Iterator[Relay]:
    made = Relay(cluster.ready["proxy"])
    yield made
    made.cut()


@pytest.fixture
def device(cluster: Cluster, tmp_path: Path, old: Relay) -> Iterator[Device]:
    made = Device(cluster, tmp_path, old.address)
    made.start()
    yield made
    made.stop()
    push(cluster, tmp_path)
    cluster.tctl("nodes", "rm", "device")


def push(cluster: Cluster, folder: Path, *addresses: str) -> None:
    """What docs/fleet.md tells an administrator to do."""
    file = folder / "config.toml"
    listed = ", ".join(f'"{address}"' for address in addresses)
    file.write_text(f'kind = "cluster_config"\nname = "cluster"\nproxy_addresses = [{listed}]\n')
    done = cluster.tctl("create", "-f", file)
    assert done.returncode == 0, text(done)


def test_nodes_follow_and_a_wrong_address_strands_nobody(
    cluster: Cluster, device: Device, old: Relay, new: Relay, tmp_path: Path
) -> None:
    wait_for("the device", lambda: device.stands_at(old))
    push(cluster, tmp_path, new.address)
    wait_for("the device at the new address", lambda: device.stands_at(new))
    # The old address is switched off, and the device reboots with it in its configuration.
    old.cut()
    device.stop()
    device.start()
    wait_for("the device after a reboot", lambda: device.stands_at(new))
    # Somebody pushes an address at which nobody is.
    nobody = Relay(cluster.ready["proxy"])
    nobody.cut()
    push(cluster, tmp_path, nobody.address)
    serial = cluster.tctl_json("status")["policy_serial"]
    wait_for("the device to have read it", lambda: _policy_serial(tmp_path) == serial)
    assert device.stands_at(new)
    # It even reboots meanwhile.
    device.stop()
    device.start()
    wait_for("the device where it was", lambda: device.stands_at(new))
    assert cluster.node_status("device") == "online"


def _policy_serial(folder: Path) -> int:
    signed = json.loads((folder / "data" / "node" / "policy.json").read_text())
    return int(json.loads(signed["document"])["serial"])
