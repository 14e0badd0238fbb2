"""Devices whose keys are in memory only: the same node after each boot, and nothing for whoever has the card."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need_program
from tests.scenarios.cluster import LIMIT, Cluster, text, wait_for
from tests.scenarios.device import Device


@pytest.fixture
def devices() -> Iterator[list[Device]]:
    made: list[Device] = []
    yield made
    for device in made:
        device.stop()


def device_key(folder: Path) -> tuple[Path, str]:
    """A device key as an operator makes one: its file and its public line."""
    need_program("ssh-keygen")
    path = folder / "device-key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, timeout=LIMIT)
    return path, path.with_name("device-key.pub").read_text().strip()


def register(cluster: Cluster, name: str, line: str) -> None:
    done = cluster.tctl("nodes", "import", "-", input=f'ssh_key="{line}" name={name} site=berlin\n')
    assert done.returncode == 0, text(done)


def in_memory(how: str) -> str:
    return f'identity = "memory"\ndevice_key = {{ {how} }}'


def listed(cluster: Cluster, name: str) -> dict[str, Any]:
    found = [node for node in cluster.tctl_json("nodes", "ls")["nodes"] if node["name"] == name]
    return dict(found[0]) if found else {"status": "absent"}


def online(cluster: Cluster, device: Device, name: str) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        assert device.runs, device.log()
        node = listed(cluster, name)
        return node if node["status"] == "online" else None

    try:
        return dict(wait_for(f"{name} to be online", there))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{device.log()}") from None


def shown_key(cluster: Cluster, user: str, name: str) -> str:
    """The host key that an OpenSSH client is shown which takes certificates alone, after it got in."""
    where = f"{cluster.login_name}@{name}.{cluster.tctl_json('status')['cluster']}"
    options = ["-v", "-F", str(cluster.ssh_config(user)), "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
    done = cluster.run("ssh", *options, where, "echo in", home=user)
    assert done.stdout == b"in\n", text(done)
    # The last: the hop over the proxy has one, too.
    shown: list[bytes] = re.findall(rb"Server host certificate: \S+ (SHA256:\S+)", done.stderr)
    return shown[-1].decode()


def kept(device: Device) -> dict[str, Any]:
    """The identity in the memory file that the monitor holds."""
    folder = Path(f"/proc/{device.pid}/fd")
    found = next(one for one in folder.iterdir() if "memfd:tinyport-identity" in os.readlink(one))
    return dict(json.loads(found.read_bytes().rstrip(b"\0")))


def secrets_of(identity: dict[str, Any]) -> list[bytes]:
    """Each line of its private keys: however they were written, one of them would be there."""
    lines = [*str(identity["ssh_key"]).splitlines(), *str(identity["tls_key"]).splitlines()]
    return [line.encode() for line in lines if len(line) > 40 and not line.startswith("-----")]


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def reads(device: Device, why: str) -> bool:
    return why in device.log()


def test_a_device_is_the_same_node_after_each_boot(cluster: Cluster, tmp_path: Path, devices: list[Device]) -> None:
    user = cluster.add_user("memory", cluster.login_name)
    stick = tmp_path / "stick"
    stick.mkdir()
    path, line = device_key(stick)
    folder = tmp_path / "card"
    folder.mkdir()
    device = Device(cluster, folder, cluster.ready["proxy"], node=in_memory(f'path = "{path}"'), token="")
    devices.append(device)
    device.start()
    # Nobody has registered it: it waits, and says so.
    wait_for("the device to say why it waits", lambda: "no device is registered" in device.log())
    waits = cluster.run("tinyport", "status", "--data-dir", device.data)
    assert b"it waits to be let into its cluster: no device is registered" in waits.stderr, text(waits)
    register(cluster, "orchard", line)
    first = online(cluster, device, "orchard")
    keys = [shown_key(cluster, user, "orchard")]
    identities = [kept(device)]
    device.stop()
    device.start()
    second = online(cluster, device, "orchard")
    assert second["uuid"] == first["uuid"]
    assert second["labels"] == first["labels"] == {"site": "berlin"}
    # Another key, and whoever believes the cluster's certificates is asked nothing.
    keys.append(shown_key(cluster, user, "orchard"))
    assert keys[0] != keys[1]
    identities.append(kept(device))
    assert identities[0]["ssh_key"] != identities[1]["ssh_key"]
    codes = [event["code"] for event in cluster.tctl_json("audit", "--node", "orchard")["events"]]
    assert (codes.count("TJ002I"), codes.count("TJ017I")) == (1, 1)

    # What lies on the card: nothing of a key, of this boot or the one before.
    there = files_below(folder)
    assert any(name.name == "policy.json" for name in there)
    for identity in identities:
        for secret in secrets_of(identity):
            assert not [name for name, data in there.items() if secret in data]
    assert not [name for name in there if name.name.startswith("identity")]
    # Link, which faces the network, has neither the file nor a mapping of it. It is not dumpable: only root may look.
    if os.geteuid() == 0:
        status = cluster.run("tinyport", "status", "--data-dir", device.data, "--format", "json")
        place = Path(f"/proc/{json.loads(status.stdout)['pids']['link']}")
        held = [os.readlink(one) for one in (place / "fd").iterdir()]
        assert "tinyport-identity" not in " ".join(held) + (place / "maps").read_text()
        told = json.loads(status.stdout)["keys"]
        if told["locked"]:
            # Where root may lock memory, what holds the TLS key is locked, too.
            assert "VmLck:\t       0 kB" not in (place / "status").read_text()
    assert "Max core file size        0" in Path(f"/proc/{device.pid}/limits").read_text()


def test_the_card_alone_is_nobody_and_two_at_once_are_not_both(
    cluster: Cluster, tmp_path: Path, devices: list[Device]
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    path, line = device_key(stick)
    register(cluster, "vineyard", line)
    first, second, thief = (tmp_path / name for name in ("first", "second", "thief"))
    for folder in (first, second):
        folder.mkdir()
        device = Device(cluster, folder, cluster.ready["proxy"], node=in_memory(f'path = "{path}"'), token="")
        devices.append(device)
    devices[0].start()
    uuid = online(cluster, devices[0], "vineyard")["uuid"]

    shutil.copytree(first, thief, ignore=lambda folder, names: [name for name in names if name.endswith(".sock")])
    other, _ = device_key(thief)
    for how in (f'path = "{thief}/not-there"', f'path = "{other}"'):
        stolen = Device(cluster, thief, cluster.ready["proxy"], node=in_memory(how), token="")
        devices.append(stolen)
        stolen.start()
        why = "cannot be read" if "not-there" in how else "no device is registered with this device key"
        wait_for(f"the thief to read: {why}", partial(reads, stolen, why))
        stolen.stop()

    # A copy with its key, while the first is there: it waits, and the first does not notice.
    devices[1].start()
    wait_for("the copy to wait", lambda: "another device is connected as vineyard" in devices[1].log())
    assert online(cluster, devices[0], "vineyard")["uuid"] == uuid
    refused = cluster.tctl_json("audit", "--type", "node.boot.failed")["events"]
    assert "in_use" in {event["refusal"] for event in refused}
    devices[0].stop()
    wait_for("the copy to be let in", lambda: devices[1].status())
    assert online(cluster, devices[1], "vineyard")["uuid"] == uuid


def test_a_key_behind_an_agent_and_a_token_for_the_first_time(
    cluster: Cluster, tmp_path: Path, devices: list[Device]
) -> None:
    """As with a TPM or a secure element: the key never leaves the agent. The token is good for one boot, the key for
    all others."""
    for program in ("ssh-agent", "ssh-add"):
        need_program(program)
    path, _ = device_key(tmp_path)
    place = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(place)], stdout=subprocess.DEVNULL) as agent:
        try:
            wait_for("the agent", place.exists)
            subprocess.run(["ssh-add", "-q", str(path)], check=True, env={**os.environ, "SSH_AUTH_SOCK": str(place)})
            path.unlink()
            device = Device(
                cluster, tmp_path, cluster.ready["proxy"], name="barn", node=in_memory(f'agent = "{place}"')
            )
            devices.append(device)
            device.start()
            uuid = online(cluster, device, "barn")["uuid"]
            device.stop()
            device.token = ""
            device.start()
            assert online(cluster, device, "barn")["uuid"] == uuid
        finally:
            agent.terminate()


def test_a_restart_under_a_service_manager_is_no_boot(cluster: Cluster, tmp_path: Path, devices: list[Device]) -> None:
    """The manager is given the memory file with the identity, and passes it to the next process (FDSTORE)."""
    path, line = device_key(tmp_path)
    register(cluster, "dairy", line)
    place = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place))
        manager.settimeout(LIMIT)
        env = {"NOTIFY_SOCKET": str(place)}
        told = in_memory(f'path = "{path}"')
        devices.append(Device(cluster, tmp_path, cluster.ready["proxy"], node=told, token="", env=env))
        devices[0].start()
        while True:
            message, descriptors, _, _ = socket.recv_fds(manager, 4096, 4)
            if descriptors:
                break
        assert message.decode().splitlines() == ["FDSTORE=1", "FDNAME=tinyport-identity", "FDPOLL=0"]
        uuid = online(cluster, devices[0], "dairy")["uuid"]
        before = kept(devices[0])
        devices[0].stop()
        # Without its device key, and with nobody to ask.
        path.unlink()
        (stored,) = descriptors
        script = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=tinyport-identity"
        around = ["sh", "-c", f'exec 3<>/proc/self/fd/{stored}; {script}; exec "$@"', "sh"]
        devices.append(Device(cluster, tmp_path, cluster.ready["proxy"], node=told, token="", env=env, around=around))
        devices[1].start(passed=[stored])
        assert online(cluster, devices[1], "dairy")["uuid"] == uuid
        after = kept(devices[1])
        assert {key: after[key] for key in ("ssh_key", "generation")} == {
            key: before[key] for key in ("ssh_key", "generation")
        }
        os.close(stored)
    codes = [event["code"] for event in cluster.tctl_json("audit", "--node", "dairy")["events"]]
    assert "TJ017I" not in codes


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root: mounts")
def test_a_wholly_read_only_machine_boots_for_ever(cluster: Cluster, tmp_path: Path, devices: list[Device]) -> None:
    need_program("unshare")
    path, line = device_key(tmp_path)
    register(cluster, "mill", line)
    folder = tmp_path / "machine"
    (folder / "data").mkdir(parents=True)
    # What is in memory on such a machine is its /run; nothing else can be written to.
    script = f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}; mount -t tmpfs tmpfs {folder}/data"
    script += '; mount -o remount,bind,ro /; exec "$@"'
    around = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh"]
    told = in_memory(f'path = "{path}"')
    device = Device(cluster, folder, cluster.ready["proxy"], node=told, token="", around=around)
    devices.append(device)
    user = cluster.add_user("miller", cluster.login_name)
    where = f"{cluster.login_name}@mill"
    uuids = set()
    for _ in range(2):
        device.start()
        uuids.add(online(cluster, device, "mill")["uuid"])
        done = cluster.tsh("ssh", where, "touch /etc/tinyport-test; echo in", home=user)
        assert (done.stdout, b"Read-only" in done.stderr) == (b"in\n", True), text(done)
        device.stop()
    assert len(uuids) == 1
    assert list((folder / "data").iterdir()) == []
    assert "Traceback" not in device.log()
