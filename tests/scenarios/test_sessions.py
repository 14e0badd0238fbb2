"""People reach a node: with tsh, with plain OpenSSH through the proxy, and directly."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.scenarios.cluster import Cluster, text, wait_for


@pytest.fixture(scope="session")
def alice(cluster: Cluster) -> str:
    return cluster.add_user("alice", cluster.login_name)


def test_a_command_its_output_and_status(cluster: Cluster, alice: str) -> None:
    done = cluster.tsh("ssh", f"{cluster.login_name}@{cluster.node}", "echo out; echo err >&2; exit 7", home=alice)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n"), text(done)


def test_standard_input_is_carried_whole_and_ends(cluster: Cluster, alice: str) -> None:
    data = os.urandom(3_000_000)
    done = cluster.tsh("ssh", f"{cluster.login_name}@{cluster.node}", "cat", home=alice, input=data)
    assert done.returncode == 0, text(done)
    assert done.stdout == data


def test_a_terminal_is_a_terminal(cluster: Cluster, alice: str) -> None:
    done = cluster.tsh("ssh", "-t", f"{cluster.login_name}@{cluster.node}", "tty; stty size", home=alice)
    assert done.returncode == 0, text(done)
    assert b"/dev/pts/" in done.stdout


def test_the_environment_is_that_of_a_login(cluster: Cluster, alice: str) -> None:
    done = cluster.tsh("ssh", f"{cluster.login_name}@{cluster.node}", 'echo "$USER $LOGNAME $HOME $0"; pwd', home=alice)
    assert done.returncode == 0, text(done)
    first, second = done.stdout.decode().splitlines()
    user, logname, home, _ = first.split()
    assert (user, logname) == (cluster.login_name, cluster.login_name)
    assert os.path.realpath(home) == os.path.realpath(second)


@pytest.mark.parametrize("how", ["name", "uuid", "name.cluster"])
def test_names_that_reach_a_node(cluster: Cluster, alice: str, how: str) -> None:
    (node,) = [node for node in cluster.tctl_json("nodes", "ls")["nodes"] if node["name"] == cluster.node]
    name = {"name": node["name"], "uuid": node["uuid"]}.get(how)
    if name is None:
        name = f"{node['name']}.{cluster.tctl_json('status')['cluster']}"
    done = cluster.tsh("ssh", f"{cluster.login_name}@{name}", "echo ok", home=alice)
    assert done.stdout == b"ok\n", text(done)


def test_a_label_that_means_one_node(cluster: Cluster, alice: str) -> None:
    (uuid,) = [node["uuid"] for node in cluster.tctl_json("nodes", "ls")["nodes"] if node["name"] == cluster.node]
    labelled = cluster.tctl("nodes", "label", uuid, "place=shed")
    assert labelled.returncode == 0, text(labelled)
    done = cluster.tsh("ssh", f"{cluster.login_name}@place=shed", "echo ok", home=alice)
    assert done.stdout == b"ok\n", text(done)


def test_scp_moves_a_real_file_both_ways(cluster: Cluster, alice: str, tmp_path: Path) -> None:
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    source.write_bytes(os.urandom(2_000_000))
    node = f"{cluster.login_name}@{cluster.node}"
    for words in ((source, f"{node}:{there}"), (f"{node}:{there}", back)):
        done = cluster.tsh("scp", *words, home=alice)
        assert done.returncode == 0, text(done)
    assert hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()


def test_openssh_with_our_configuration(cluster: Cluster, alice: str, tmp_path: Path) -> None:
    name = cluster.tctl_json("status")["cluster"]
    config = cluster.ssh_config(alice)
    where = f"{cluster.login_name}@{cluster.node}.{name}"
    options = ("-F", config, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes")
    done = cluster.run("ssh", *options, where, "echo through; exit 3", home=alice)
    assert (done.returncode, done.stdout) == (3, b"through\n"), text(done)
    source = tmp_path / "f"
    source.write_bytes(os.urandom(100_000))
    for protocol in ("-s", "-O"):
        target = tmp_path / f"copy{protocol}"
        copied = cluster.run("scp", "-q", protocol, *options, source, f"{where}:{target}", home=alice)
        assert copied.returncode == 0, text(copied)
        assert target.read_bytes() == source.read_bytes()


def test_openssh_jumps_through_the_proxy(cluster: Cluster, alice: str) -> None:
    config = cluster.ssh_config(alice)
    host, _, port = cluster.ready["proxy"].rpartition(":")
    options = ("-F", config, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ProxyCommand=none")
    # -J hands -F on to the inner ssh, so both hops use our configuration's keys and known hosts.
    name = cluster.tctl_json("status")["cluster"]
    jump = f"{cluster.login_name}@{host}:{port}"
    done = cluster.run(
        "ssh", *options[:-2], "-J", jump, f"{cluster.login_name}@{cluster.node}.{name}", "echo jumped", home=alice
    )
    assert done.stdout == b"jumped\n", text(done)


def test_what_happened_is_in_the_audit_log(cluster: Cluster, alice: str) -> None:
    done = cluster.tsh("ssh", f"{cluster.login_name}@{cluster.node}", "true", home=alice)
    assert done.returncode == 0, text(done)

    def seen() -> set[str]:
        listed = cluster.tctl_json("audit", "--user", alice)
        events = listed["events"] if isinstance(listed, dict) else listed
        return {event["code"] for event in events}

    wait_for("session and exec in the audit log", lambda: {"T1000I", "T2000I", "T2004I", "T3002I"} <= seen())
