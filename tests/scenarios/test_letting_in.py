"""How devices get in, are put out, and take each other's places: with the commands that people type."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.scenarios.cluster import BIN, LIMIT, Cluster, text, wait_for
from tests.scenarios.device import Device
from tinyport.host.console import DENIED


def node_of(cluster: Cluster, name: str) -> dict[str, Any]:
    found = [node for node in cluster.tctl_json("nodes", "ls")["nodes"] if node["name"] == name]
    return found[0] if found else {}


def test_the_line_to_paste_makes_a_node(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.tctl("nodes", "add", "--labels", "site=berlin")
    assert done.returncode == 0, text(done)
    (line,) = done.stdout.decode().splitlines()
    # All of it but what changes this machine.
    token, _, rest = line.strip().partition(" | sudo sh -c '")
    inside = rest.removesuffix(" && tinyport install'")
    assert token.startswith("printf ")
    assert inside not in ("", rest)
    file = tmp_path / "etc" / "tinyport.toml"
    pasted = cluster.run("sh", "-c", f"{token} | ({inside.replace('/etc/tinyport', str(file.parent))})")
    assert pasted.returncode == 0, text(pasted)
    # The port is this machine's, where others may run.
    file.write_text(re.sub(r"(?m)^# listen = .*", "listen = []", file.read_text()))
    words = [str(BIN / "tinyport"), "start", "-c", str(file), "--data-dir", str(tmp_path / "data")]
    words += ["--nodename", "pasted"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(words, stderr=log, env=cluster.env()) as node:
        try:
            wait_for("the node", lambda: cluster.node_status("pasted") == "online")
            assert node_of(cluster, "pasted")["labels"] == {"site": "berlin"}
        finally:
            node.terminate()
            node.wait(LIMIT)
    assert cluster.tctl("nodes", "rm", "pasted").returncode == 0


def test_an_administrator_elsewhere_registers_devices(cluster: Cluster) -> None:
    def remote(*words: str, input: str = "") -> str:
        through = ("-i", cluster.ready["admin_identity"], "--proxy", cluster.ready["proxy"])
        done = cluster.run(BIN / "tctl", *through, "nodes", *words, input=input)
        assert done.returncode == 0, text(done)
        return done.stdout.decode()

    fleet = "".join(f"serial=1000{number:04x} name=far-{number} batch=9\n" for number in range(600))
    assert remote("import", "-", input=fleet) == "600 devices are registered\n"
    assert "far-599  waiting  batch=9" in remote("registered", "batch=9")
    # One is enough to see that it goes through the proxy.
    (id,) = (line.split()[0] for line in remote("registered").splitlines() if " far-7 " in line)
    assert remote("unregister", id) == f"registration {id} is gone\n"


def test_who_was_put_out_stays_out(cluster: Cluster, tmp_path: Path) -> None:
    device = Device(cluster, tmp_path, cluster.ready["proxy"], name="leaver")
    device.start()
    try:
        wait_for("the device", lambda: cluster.node_status("leaver") == "online")
        uuid = node_of(cluster, "leaver")["uuid"]
        assert cluster.tctl("nodes", "rm", "leaver").returncode == 0
        wait_for("the tunnel to be refused", lambda: device.log().count("removed from the cluster") >= 2)
        assert cluster.node_status("leaver") == "absent"
        # Nor by a restart: it has its keys and certificates still.
        device.stop()
        device.start()
        seen = device.log().count("removed from the cluster")
        wait_for("another refusal", lambda: device.log().count("removed from the cluster") > seen)
        assert uuid not in {node["uuid"] for node in cluster.tctl_json("nodes", "ls")["nodes"]}
        # By another token it comes as somebody new.
        device.stop()
        device.token = cluster.tctl_json("tokens", "add")["token"]
        device.start()
        wait_for("the device, once more", lambda: cluster.node_status("leaver") == "online")
        assert node_of(cluster, "leaver")["uuid"] != uuid
        assert cluster.tctl("nodes", "rm", "leaver").returncode == 0
    finally:
        device.stop()
    # A token that was taken back is none.
    made = cluster.tctl_json("tokens", "add")
    assert cluster.tctl("tokens", "rm", made["id"]).returncode == 0
    words = ("start", "--roles=node", "--server", cluster.ready["proxy"], "--token", made["token"])
    late = cluster.run(BIN / "tinyport", *words, "--ca-pin", cluster.ready["ca_pin"], "--data-dir", tmp_path / "late")
    assert late.returncode == DENIED, text(late)


def test_a_board_that_is_written_anew_takes_its_old_place(cluster: Cluster, tmp_path: Path) -> None:
    device = Device(cluster, tmp_path, cluster.ready["proxy"], name="board")
    device.start()
    try:
        wait_for("the board", lambda: cluster.node_status("board") == "online")
        before = node_of(cluster, "board")
        device.stop()
        shutil.rmtree(device.data)
        wait_for("the board to be offline", lambda: cluster.node_status("board") == "offline")
        device.token = cluster.tctl_json("tokens", "add", "--replaces", "board")["token"]
        device.start()
        wait_for("the board again", lambda: cluster.node_status("board") == "online")
        assert node_of(cluster, "board")["uuid"] == before["uuid"]
        user = cluster.add_user("rosa", cluster.login_name)
        done = cluster.tsh("ssh", f"{cluster.login_name}@board", "echo in", home=user)
        assert done.stdout == b"in\n", text(done)
    finally:
        device.stop()
        cluster.tctl("nodes", "rm", "board")


def test_a_device_that_waits_is_accepted_rejected_or_given_an_old_place(cluster: Cluster, tmp_path: Path) -> None:
    names = ("old", "new", "let-in", "turned-away")
    devices = {}
    for name in names:
        (tmp_path / name).mkdir()
        devices[name] = Device(cluster, tmp_path / name, cluster.ready["proxy"], name=name)
        if name != "old":
            devices[name].token = cluster.tctl_json("tokens", "add", "--pending")["token"]
    user = cluster.add_user("nora", cluster.login_name)
    try:
        for device in devices.values():
            device.start()
        wait_for("the old one", lambda: cluster.node_status("old") == "online")
        waiting = [devices[name] for name in names[1:]]
        wait_for("the others", lambda: all(cluster.node_status(name) == "pending" for name in names[1:]))
        wait_for("their tunnels", lambda: all("tunnel up" in device.log() for device in waiting))
        refused = cluster.tsh("ssh", f"{cluster.login_name}@let-in", "echo in", home=user)
        assert refused.returncode == 255, text(refused)
        assert "is pending" in text(refused)
        assert cluster.tctl("nodes", "accept", "let-in").returncode == 0
        assert cluster.tctl("nodes", "reject", "turned-away").returncode == 0
        wait_for("it to be let in", lambda: cluster.node_status("let-in") == "online")
        done = cluster.tsh("ssh", f"{cluster.login_name}@let-in", "echo in", home=user)
        assert done.stdout == b"in\n", text(done)
        wait_for("it to be turned away", lambda: "removed from the cluster" in devices["turned-away"].log())
        assert cluster.node_status("turned-away") == "absent"
        uuid = node_of(cluster, "old")["uuid"]
        early = cluster.tctl("nodes", "accept", "new", "--replaces", "old")
        assert early.returncode == 1, text(early)
        devices["old"].stop()
        wait_for("the old one to leave", lambda: cluster.node_status("old") == "offline")
        assert cluster.tctl("nodes", "accept", "new", "--replaces", "old").returncode == 0
        wait_for("the old place to be taken", lambda: cluster.node_status("old") == "online")
        assert node_of(cluster, "old")["uuid"] == uuid
        assert cluster.node_status("new") == "absent"
        done = cluster.tsh("ssh", f"{cluster.login_name}@old", "echo in", home=user)
        assert done.stdout == b"in\n", text(done)
    finally:
        for device in devices.values():
            device.stop()
        cluster.tctl("nodes", "rm", "old", "let-in")


def test_a_node_gets_another_name(cluster: Cluster, tmp_path: Path) -> None:
    device = Device(cluster, tmp_path, cluster.ready["proxy"], name="before")
    user = cluster.add_user("renate", cluster.login_name)
    device.start()
    try:
        wait_for("the device", lambda: cluster.node_status("before") == "online")
        uuid = node_of(cluster, "before")["uuid"]
        done = cluster.tctl("nodes", "rename", "before", "after")
        assert done.stdout == b"node before is after now\n", text(done)
        # Its certificate follows by itself; until then no client would take it for "after".
        wait_for("the renewal", lambda: "tunnel up" in device.log().partition("certificate renewed")[2])
        wait_for("the device", lambda: cluster.node_status("after") == "online")
        assert node_of(cluster, "after")["uuid"] == uuid
        done = cluster.tsh("ssh", f"{cluster.login_name}@after", "echo in", home=user)
        assert done.stdout == b"in\n", text(done)
        done = cluster.tsh("ssh", f"{cluster.login_name}@before", "echo in", home=user)
        assert done.returncode == 255
        assert device.log().count("certificate renewed") == 1
    finally:
        device.stop()
        cluster.tctl("nodes", "rm", "after")


def test_a_node_goes_to_another_cluster_and_back(cluster: Cluster, tmp_path: Path) -> None:
    """As docs/fleet.md has it."""
    (tmp_path / "other").mkdir()
    other = Cluster(tmp_path / "other").start()
    here = Device(cluster, tmp_path, cluster.ready["proxy"], name="wanderer")
    there = Device(other, tmp_path, other.ready["proxy"], name="wanderer")
    try:
        here.start()
        wait_for("the device", lambda: cluster.node_status("wanderer") == "online")
        here.stop()
        (here.data / "node").rename(tmp_path / "kept")
        there.start()
        wait_for("the device in the other cluster", lambda: other.node_status("wanderer") == "online")
        user = other.add_user("walter", other.login_name)
        done = other.tsh("ssh", f"{other.login_name}@wanderer", "echo in", home=user)
        assert done.stdout == b"in\n", text(done)
        there.stop()
        shutil.rmtree(there.data / "node")
        (tmp_path / "kept").rename(here.data / "node")
        here.start()
        wait_for("the device again", lambda: cluster.node_status("wanderer") == "online")
    finally:
        here.stop()
        there.stop()
        other.stop()
        cluster.tctl("nodes", "rm", "wanderer")


def test_of_a_copied_card_the_later_device_waits_and_becomes_a_node(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = (Device(cluster, tmp_path / word, cluster.ready["proxy"], name="card") for word in "ab")
    user = cluster.add_user("clementine", cluster.login_name)
    one.start()
    try:
        wait_for("the device", lambda: cluster.node_status("card") == "online")
        uuid = node_of(cluster, "card")["uuid"]
        one.stop()
        shutil.copytree(one.data, other.data)
        one.start()
        wait_for("the first", lambda: cluster.node_status("card") == "online")
        other.start()
        # Both are seen, and the first goes on.
        copy = wait_for("the copy", lambda: (node_of(cluster, "card").get("copies") or [{}])[0].get("online"))
        assert copy, node_of(cluster, "card")
        assert "quarantined" in cluster.tctl("nodes", "ls").stdout.decode()
        # The first is told to renew, and its link starts again with the new certificate.
        wait_for("the renewal", lambda: "tunnel up" in one.log().partition("certificate renewed")[2])
        wait_for("the first", lambda: cluster.node_status("card") == "online")
        for _ in range(3):
            done = cluster.tsh("ssh", f"{cluster.login_name}@card", "echo in", home=user)
            assert done.stdout.endswith(b"in\n"), text(done)
        assert "gets no sessions" in other.log()
        assert "gets no sessions" not in one.log()
        # It is one device however often it starts, and the first has a newer certificate by now.
        told = other.log().count("gets no sessions")
        other.stop()
        other.start()
        wait_for("the copy to hear what it is", lambda: other.log().count("gets no sessions") > told)
        wait_for("the copy again", lambda: [one["online"] for one in node_of(cluster, "card")["copies"]] == [True])
        wait_for("the first", lambda: cluster.node_status("card") == "online")
        done = cluster.tctl("nodes", "split", "card", "--name", "twin", "--labels", "site=attic")
        assert done.returncode == 0, text(done)
        wait_for("the twin", lambda: cluster.node_status("twin") == "online")
        twin = node_of(cluster, "twin")
        assert twin["uuid"] != uuid == node_of(cluster, "card")["uuid"]
        assert twin["labels"] == {"site": "attic"}
        wait_for("nothing to be left of it", lambda: not node_of(cluster, "card")["copies"])
        identities = [json.loads((one_.data / "node" / "identity.json").read_text()) for one_ in (one, other)]
        assert len({identity["ssh_key"] for identity in identities}) == 2
        for name in ("card", "twin"):
            done = cluster.tsh("ssh", f"{cluster.login_name}@{name}", "echo in", home=user)
            assert done.stdout == b"in\n", text(done)
    finally:
        one.stop()
        other.stop()
        cluster.tctl("nodes", "rm", "card", "twin")
