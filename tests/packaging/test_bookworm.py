"""docs/install.md's environment for bookworm, line by line, under its systemd 252; and sshd's place taken there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging import booted_root, trixie
from tests.packaging.booted_root import BootedRoot
from tests.packaging.conftest import People
from tests.packaging.debian_root import ROOT
from tests.packaging.test_first_boot import blocks, board
from tests.ports import free_port
from tests.scenarios.cluster import LIMIT, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]

NAME = "bookworm"


def commands() -> list[str]:
    """What the page has people type there, without its remarks."""
    section = (ROOT / "docs/install.md").read_text().partition("\n## bookworm and others\n")[2].partition("\n## ")[0]
    return [re.split(" {4,}", line)[0] for line in re.findall("^# (.*)$", section, re.M)]


def wheels(folder: Path) -> None:
    """Ours and what it needs, as pip would get them on that machine."""
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in map(os.fsdecode, filter(None, listed.split(b"\0"))):
        if name.startswith(("tinyport/", "packaging/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={folder}", str(source)], check=True, timeout=300)
    shutil.rmtree(source)
    (ours,) = folder.glob("tinyport-*.whl")
    words = ["download", "--only-binary=:all:", "--python-version=3.11", f"--dest={folder}", str(ours)]
    subprocess.run([*pip, *words], check=True, timeout=300)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BootedRoot, int]]:
    """The machine and its sshd's port."""
    root = booted_root.make(
        tmp_path_factory.mktemp("bookworm") / "root", ("openssh-server", "python3-venv"), "bookworm"
    )
    port = free_port()
    root.path("/etc/ssh/sshd_config.d/port.conf").write_text(f"Port {port}\nListenAddress 127.0.0.1\n")
    wheels(root.path("/root"))
    shutil.copytree(ROOT / "packaging", root.path("/root/packaging"))
    try:
        yield root.start(), port
    finally:
        root.stop()


def type_in(root: BootedRoot, lines: list[str]) -> None:
    for line in lines:
        root.run("sh", "-c", f"export PIP_NO_INDEX=1 PIP_FIND_LINKS=/root; cd /root; {line}")


def test_the_environment_of_the_page(machine: tuple[BootedRoot, int], people: People) -> None:
    root, port = machine
    token = people.cluster.tctl_json("tokens", "add", "--type", "node")["token"]
    server, pin = people.cluster.ready["proxy"], people.cluster.ready["ca_pin"]
    words = f"configure --roles node --server {server} --token {token} --ca-pin {pin}"
    type_in(root, commands()[:3])
    for line in commands()[3:]:
        if line.startswith("/opt/tinyport/bin/tinyport install"):
            # Two nodes of one host name, on one network.
            text = f'nodename = "{NAME}"\n'
            path = root.path("/etc/tinyport/tinyport.toml")
            path.write_text(path.read_text().replace("# nodename", f"{text}#").replace("# listen", "listen = []  #"))
        type_in(root, [line.replace("configure ...", words)])
    people.reached(NAME)
    assert "bookworm" in people.ssh(NAME, "cat /etc/os-release")
    assert people.ssh(NAME, "tty; exit 0", tty=True).startswith("/dev/pts/")
    assert "/session-" in people.ssh(NAME, "grep ^0:: /proc/self/cgroup")
    # An upgrade by hand: a restart, under a session that goes on.
    session = people.popen(NAME, "echo up; read line; echo got $line; exit 7")
    assert session.stdout is not None
    assert session.stdout.readline() == b"up\n"
    root.run("systemctl", "restart", "tinyport-node")
    people.reached(NAME)
    out, err = session.communicate(b"on\n", LIMIT)
    assert (out, session.returncode) == (b"got on\n", 7), err
    said = people.ssh(NAME, "/opt/tinyport/bin/tinyport install --replace-sshd 2>&1; true")
    assert "sshd is stopped" in said, root.log("tinyport-replace-sshd")
    assert root.is_("active", "tinyport-node.socket")
    assert not root.is_("active", "ssh.service")
    wait_for("the node on sshd's port", lambda: trixie.says(port, b"SSH-2.0-tinyport"))
    people.reached(NAME)


def test_a_card_whose_firstrun_script_has_the_pages_lines(machine: tuple[BootedRoot, int], people: People) -> None:
    """The image: the environment and nothing else of ours. Then Imager's words on the kernel's command line, once."""
    root, _ = machine
    assert len(commands()) == 5
    type_in(root, commands()[:3])
    root.run("sh", "-c", "systemctl disable --now tinyport-node.socket tinyport-node; true")
    root.run("sh", "-c", "rm -rf /etc/tinyport /var/lib/tinyport /etc/systemd/system/tinyport*")
    root.shut_down()
    (lines,) = blocks("sh")
    lines = lines.replace("port.example.com:443", people.cluster.ready["proxy"])
    lines = lines.replace("sha256:...", people.cluster.ready["ca_pin"])
    # Ports of this machine are not the card's.
    lines = lines.replace("enabled = true\n", "enabled = true\nlisten = []\n")
    firmware = root.path("/boot/firmware")
    firmware.mkdir()
    (firmware / "tinyport-token").write_text(people.cluster.tctl_json("tokens", "add", "--type", "node")["token"])
    script = firmware / "firstrun.sh"
    script.write_text(f"#!/bin/bash\nset +e\n{lines}\nrm -f /boot/firmware/firstrun.sh\nexit 0\n")
    script.chmod(0o755)
    root.boot_once(
        "systemd.run=/boot/firmware/firstrun.sh",
        "systemd.run_success_action=reboot",
        "systemd.unit=kernel-command-line.target",
    )
    assert not script.exists()
    root.start()
    name = wait_for("a node with its board's name", lambda: board(people))
    people.reached(name)
    wait_for("the token to be gone", lambda: not (firmware / "tinyport-token").exists())
