"""A cluster moves to another address: nodes are told, follow, and find their way back from a wrong one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.cluster import Cluster, text, wait_for
from tests.scenarios.device import Device
from tests.scenarios.relay import Relay


def stands_at(device: Device, relay: Relay) -> bool:
    said = device.status()
    return relay.address in said and "up for" in said


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
    wait_for("the device", lambda: stands_at(device, old))
    push(cluster, tmp_path, new.address)
    wait_for("the device at the new address", lambda: stands_at(device, new))
    # The old address is switched off, and the device reboots with it in its configuration.
    old.cut()
    device.stop()
    device.start()
    wait_for("the device after a reboot", lambda: stands_at(device, new))
    # Somebody pushes an address at which nobody is.
    nobody = Relay(cluster.ready["proxy"])
    nobody.cut()
    push(cluster, tmp_path, nobody.address)
    serial = cluster.tctl_json("status")["policy_serial"]
    wait_for("the device to have read it", lambda: _policy_serial(device) == serial)
    assert stands_at(device, new)
    # It even reboots meanwhile.
    device.stop()
    device.start()
    wait_for("the device where it was", lambda: stands_at(device, new))
    wait_for("auth to hear of it", lambda: cluster.node_status("device") == "online")


def _policy_serial(device: Device) -> int:
    signed = json.loads((device.data / "node" / "policy.json").read_text())
    return int(json.loads(signed["document"])["serial"])
