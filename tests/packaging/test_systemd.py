"""Our units under systemd itself: what each line of them is for is done here once."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.packaging.booted_root import BootedRoot
from tests.packaging.conftest import People
from tests.packaging.trixie import CONFIGURATION, NODE, Trixie
from tests.ports import free_port
from tests.scenarios.cluster import LIMIT, wait_for
from tinyport.core.certificate import public_line
from tinyport.core.signatures import Ed25519Key

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]

SERVICE, SOCKET = "tinyport-node.service", "tinyport-node.socket"
NAME = "unit"


@pytest.fixture(scope="module")
def machine(trixie: Trixie, people: People) -> Iterator[Trixie]:
    """A node that has joined with a token that is a credential of systemd's, and is in no file of ours."""
    trixie.install(NODE)
    token = people.cluster.tctl_json("tokens", "add", "--type", "node")["token"]
    trixie.write("/etc/credstore/tinyport.token", f"{token}\n")
    text = people.toml(NAME, "/var/lib/tinyport", '"away"')
    trixie.write(CONFIGURATION, "".join(line for line in text.splitlines(True) if not line.startswith("token")))
    try:
        try:
            trixie.root.run("systemctl", "start", SERVICE)
            people.online(NAME)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{trixie.root.log(SERVICE)}") from None
        yield trixie
        assert "Traceback" not in trixie.root.log(SERVICE)
    finally:
        trixie.restore()


@pytest.fixture
def root(machine: Trixie) -> BootedRoot:
    return machine.root


def shown(root: BootedRoot, unit: str, name: str) -> str:
    return root.run("systemctl", "show", f"--property={name}", "--value", unit).stdout.strip()


def test_sessions_are_logins_of_this_machine(root: BootedRoot, people: People) -> None:
    """pam_systemd has put the session into a scope of its own, and sees it end."""
    session = people.popen(NAME, "grep ^0:: /proc/self/cgroup; read line")
    assert session.stdout is not None
    assert "/session-" in session.stdout.readline().decode()
    listed = json.loads(root.run("loginctl", "--json=short", "list-sessions").stdout)
    assert people.cluster.login_name in [entry["user"] for entry in listed]
    session.communicate(b"on\n", LIMIT)
    wait_for("the session to be over", lambda: json.loads(root.run("loginctl", "--json=short").stdout) == [])


def test_reload_says_what_is_wrong_and_changes_nothing(machine: Trixie, people: People) -> None:
    root = machine.root
    good = root.path(CONFIGURATION).read_text()
    pid = root.main_pid(SERVICE)

    def told() -> bool:
        listed = people.cluster.tctl_json("nodes", "ls")["nodes"]
        return any(node["name"] == NAME and '"four"' in json.dumps(node) for node in listed)

    try:
        machine.write(CONFIGURATION, good.replace("listen = []", 'listen = ["no where"]'))
        assert root.run("systemctl", "reload", SERVICE, check=False).returncode != 0
        assert "node.listen" in root.log(SERVICE)
        machine.write(CONFIGURATION, good + 'labels = { shelf = "four" }\n')
        # The signal has been sent when this is back; the node reads the file after that.
        root.run("systemctl", "reload", SERVICE)
        wait_for("the label to be shown", told)
    finally:
        machine.write(CONFIGURATION, good)
    assert root.main_pid(SERVICE) == pid


def test_sessions_outlive_a_stop_and_end_when_told(root: BootedRoot, people: People) -> None:
    session = people.popen(NAME, "echo up; read line; echo got $line; exit 7")
    other = people.popen(NAME, "echo up; cat; exit 8")
    for process in (session, other):
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
    root.run("systemctl", "stop", SERVICE)
    out, err = session.communicate(b"on\n", LIMIT)
    assert (out, session.returncode) == (b"got on\n", 7), err
    assert other.poll() is None
    root.run("systemctl", "start", SERVICE)
    people.reached(NAME)
    root.run("systemctl", "kill", "--kill-whom=all", SERVICE)
    other.communicate(timeout=LIMIT)
    assert other.returncode not in (0, 8)
    people.reached(NAME)


def test_a_monitor_or_link_that_hangs_is_started_again_under_a_session(machine: Trixie, people: People) -> None:
    root = machine.root
    machine.drop_in(SERVICE, "[Service]\nWatchdogSec=15s\n")
    root.run("systemctl", "restart", SERVICE)
    people.reached(NAME)
    session = people.popen(NAME, "echo up; read line; echo got $line; exit 7")
    assert session.stdout is not None
    assert session.stdout.readline() == b"up\n"
    pid = root.main_pid(SERVICE)
    link = root.run("cat", f"/proc/{pid}/task/{pid}/children").stdout.split()[0]
    root.run("kill", "-STOP", link)
    wait_for("link to be killed", lambda: "link does not answer and is killed" in root.log(SERVICE))
    people.reached(NAME)
    assert root.main_pid(SERVICE) == pid
    root.run("kill", "-STOP", pid)
    wait_for("systemd to start another", lambda: root.main_pid(SERVICE) not in ("0", pid))
    assert "watchdog" in root.log(SERVICE).lower()
    people.reached(NAME)
    out, err = session.communicate(b"on\n", LIMIT)
    assert (out, session.returncode) == (b"got on\n", 7), err


def test_a_disk_that_has_become_read_only_keeps_nobody_out(root: BootedRoot, people: People) -> None:
    """As the kernel does it with a card that fails: under the daemon, and at its start."""
    data = "/var/lib/tinyport"
    root.run("mount", "--bind", data, data)
    root.run("mount", "-o", "remount,bind,ro", data)
    try:
        people.reached(NAME)
        session = people.popen(NAME, "echo up; read line; echo got $line; exit 7")
        assert session.stdout is not None
        assert session.stdout.readline() == b"up\n"
        root.run("systemctl", "restart", SERVICE)
        people.reached(NAME)
        assert "its socket cannot be made" in root.log(SERVICE)
        out, err = session.communicate(b"on\n", LIMIT)
        assert (out, session.returncode) == (b"got on\n", 7), err
    finally:
        root.run("umount", "--lazy", data)
    root.run("systemctl", "restart", SERVICE)
    people.reached(NAME)
    assert NAME in root.run("tinyport", "status").stdout


def test_keys_in_memory_live_through_a_restart_and_not_through_a_stop(machine: Trixie, people: People) -> None:
    """The manager has the memory file with the identity, and unseals the device key."""
    root, device = machine.root, Ed25519Key.generate()
    good = root.path(CONFIGURATION).read_text()
    line = f'ssh_key="{public_line(device.public_blob)}" name=vault\n'
    assert people.cluster.tctl("nodes", "import", "-", input=line).returncode == 0
    root.path("/root/device-key").write_bytes(device.to_openssh())
    where = "/etc/credstore.encrypted"
    seal = f"mkdir -p {where} && systemd-creds encrypt --with-key=host --name=tinyport.device-key"
    root.run("sh", "-ec", f"{seal} /root/device-key {where}/tinyport.device-key; rm /root/device-key")

    def boots() -> int:
        events = people.cluster.tctl_json("audit", "--node", "vault")["events"]
        return sum(event["event"] == "node.boot" for event in events)

    try:
        text = people.toml("vault", "/run/vault", '"away"', 'identity = "memory"\n')
        machine.write(CONFIGURATION, "".join(one for one in text.splitlines(True) if not one.startswith("token")))
        root.run("systemctl", "restart", SERVICE)
        people.reached("vault")
        before = root.main_pid(SERVICE)
        root.run("systemctl", "restart", SERVICE)
        people.reached("vault")
        assert root.main_pid(SERVICE) != before
        assert "in memory alone" in root.run("tinyport", "status").stdout
        assert boots() == 0
        root.run("systemctl", "stop", SERVICE)
        root.run("systemctl", "start", SERVICE)
        people.reached("vault")
        assert boots() == 1
        assert "identity" not in root.run("ls", "/run/vault/node").stdout
    finally:
        machine.write(CONFIGURATION, good)
        root.run("rm", "-r", where)
        root.run("systemctl", "restart", SERVICE)
    people.reached(NAME)


def test_a_port_that_systemd_holds_is_never_closed(machine: Trixie, people: People) -> None:
    root = machine.root
    port = free_port()
    machine.drop_in(SOCKET, f"[Socket]\nListenStream=\nListenStream={port}\n")
    root.run("systemctl", "stop", SERVICE)
    root.run("systemctl", "enable", "--now", SOCKET)
    root.run("systemctl", "start", SERVICE)
    machine.banner(port, b"SSH-2.0-tinyport")
    # Stopped, the next connection starts it, and is served.
    root.run("systemctl", "stop", SERVICE)
    machine.banner(port, b"SSH-2.0-tinyport")
    people.reached(NAME)
    assert root.is_("active", SERVICE)
    root.run("systemctl", "disable", "--now", SOCKET)
    root.run("systemctl", "restart", SERVICE)
    people.reached(NAME)


def test_a_machine_that_reboots_ends_its_sessions_and_comes_back(machine: Trixie, people: People) -> None:
    root = machine.root
    session = people.popen(NAME, "echo up; cat")
    assert session.stdout is not None
    assert session.stdout.readline() == b"up\n"
    root.shut_down()
    _, err = session.communicate(timeout=LIMIT)
    assert session.returncode == 255, err
    root.start()
    people.reached(NAME)
    assert people.ssh(NAME, "echo back").strip() == "back"


def test_sshd_is_back_when_the_node_does_not_start(machine: Trixie, people: People) -> None:
    """From a session, with a node that will not start again: whoever is inside stays inside, and sshd answers."""
    root = machine.root
    machine.drop_in(SERVICE, "[Service]\nExecStartPre=/usr/bin/test ! -e /run/broken\n")
    root.run("touch", "/run/broken")
    script = "tinyport install --replace-sshd 2>&1; echo status $?; systemctl is-enabled ssh.service"
    said = people.ssh(NAME, script)
    assert "sshd was not replaced" in said
    assert "journalctl -u tinyport-replace-sshd" in said
    assert said.endswith("status 1\nenabled\n"), said
    assert "sshd is back" in root.log("tinyport-replace-sshd")
    machine.banner(machine.sshd_port, b"SSH-2.0-OpenSSH")
    assert not root.is_("enabled", SOCKET)
    root.run("rm", "/run/broken")
    people.reached(NAME)
