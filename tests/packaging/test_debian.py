"""The Debian packages on a trixie that systemd has booted: installed, used, upgraded in use, removed, purged."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.packaging import debian_root
from tests.packaging.booted_root import BootedRoot
from tests.packaging.conftest import People
from tests.packaging.trixie import CONFIGURATION, NEXT, NODE, SERVER, Trixie
from tests.ports import free_port
from tests.scenarios.cluster import LIMIT, wait_for
from tinyport.core.version import VERSION

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]

INSTALL = Path(__file__).resolve().parents[2] / "docs" / "install.md"
MODULES = "/usr/lib/python3/dist-packages/tinyport"


@pytest.fixture
def root(trixie: Trixie) -> Iterator[BootedRoot]:
    yield trixie.root
    trixie.restore()


def owners(root: BootedRoot, name: str) -> set[str]:
    """Who runs the processes of that name."""
    script = f'for p in /proc/[0-9]*; do read c < $p/comm; [ "$c" != {name} ] || stat -c %U $p; done'
    return set(root.run("sh", "-c", script, check=False).stdout.split())


def starts(root: BootedRoot) -> int:
    """How often the node has been started since the machine was."""
    return root.log("tinyport-node.service").count("node starts")


def test_the_packages_say_what_they_are(packages: Path) -> None:
    for name in (*NODE, *SERVER):
        path = packages / f"{name}_{VERSION}_all.deb"
        shown = subprocess.run(["dpkg-deb", "--contents", str(path)], capture_output=True, text=True, check=True).stdout
        assert {line.split()[1] for line in shown.splitlines()} == {"root/root"}
        assert "__pycache__" not in shown
    shown = subprocess.run(
        ["dpkg-deb", "--field", str(packages / f"tinyport-node_{VERSION}_all.deb"), "Depends"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "python3-asyncssh" in shown
    assert f"tinyport-common (= {VERSION})" in shown


def test_the_packages_are_as_debian_wants_them_and_built_alike_anywhere(packages: Path, tmp_path: Path) -> None:
    """lintian has nothing to say, and whoever builds them again, wherever and as whoever, gets the same bytes."""
    mask = os.umask(0o077)
    try:
        again = debian_root.build(tmp_path)
    finally:
        os.umask(mask)
    built = sorted(again.glob("*.deb"))
    assert {path.name for path in built} == {f"{name}_{VERSION}_all.deb" for name in {*NODE, *SERVER}}
    for path in built:
        assert path.read_bytes() == (packages / path.name).read_bytes(), path.name
    words = [need_program("lintian"), "--profile=debian", "--fail-on=error,warning", "--allow-root"]
    done = subprocess.run([*words, *map(str, built)], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_node_from_installation_to_purge(trixie: Trixie, root: BootedRoot, people: People, load: Path) -> None:
    before = set(root.find(""))
    trixie.install(NODE)

    # Set up, and waiting for a configuration.
    assert root.is_("enabled", "tinyport-node.service")
    assert not root.is_("active", "tinyport-node.service")
    assert not list(root.path("/etc/systemd/system").rglob("*.socket"))
    for account in ("tinyport", "tinyport-worker"):
        assert root.run("getent", "passwd", account).stdout.strip().endswith(":/nonexistent:/usr/sbin/nologin")
    sources = list(root.path(MODULES).rglob("*.py"))
    assert len(sources) > 100
    for source in sources:
        assert list((source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc")), source
    assert not root.path(f"{MODULES}/auth").exists()
    assert (
        "/etc/pam.d/tinyport" in root.run("dpkg-query", "--show", "--showformat=${Conffiles}", "tinyport-node").stdout
    )
    assert VERSION in root.run("tinyport", "version").stdout
    for path in ("/usr/share/man/man1/tinyport.1.gz", "/usr/share/bash-completion/completions/tinyport"):
        assert root.path(path).exists(), path

    # It joins with a token in a file, which is gone then.
    token = people.cluster.tctl_json("tokens", "add", "--type", "node")["token"]
    root.path("/etc/tinyport/token").write_text(f"{token}\n")
    place = '{ path = "/etc/tinyport/token", erase = true }'
    trixie.write(CONFIGURATION, people.toml("trixie", "/var/lib/tinyport", place))
    root.run("systemctl", "start", "tinyport-node.service")
    try:
        people.online("trixie")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{root.log('tinyport-node.service')}") from None
    assert not root.path("/etc/tinyport/token").exists()
    assert "trixie" in people.ssh("trixie", "cat /etc/os-release")
    assert people.ssh("trixie", "tty; exit 0", tty=True).startswith("/dev/pts/")
    people.sftp("trixie", load, "/root/there")
    assert owners(root, "tinyport-link") == {"tinyport"}
    assert owners(root, "tinyport-worker") == {"tinyport-worker"}

    # Upgraded under a session that goes on, and with a configuration file that somebody has changed.
    with root.path("/etc/pam.d/tinyport").open("a") as pam:
        pam.write("# ours\n")
    session = people.popen("trixie", "echo up; read line; echo got $line; exit 7")
    assert session.stdout is not None
    assert session.stdout.readline() == b"up\n"
    first = root.main_pid("tinyport-node.service")
    trixie.install(NODE, NEXT)
    assert root.main_pid("tinyport-node.service") != first
    people.reached("trixie")
    assert people.ssh("trixie", "echo new").strip() == "new"
    # Started again, once, when libraries that strangers talk to are upgraded.
    earlier = starts(root)
    trixie.upgrade_of_others("libssl3t64", "python3-asyncssh")
    people.reached("trixie")
    assert starts(root) == earlier + 1
    out, err = session.communicate(b"on\n", LIMIT)
    assert (out, session.returncode) == (b"got on\n", 7), err
    assert root.path("/etc/pam.d/tinyport").read_text().endswith("# ours\n")

    # Whoever has stopped it finds it stopped.
    root.run("systemctl", "stop", "tinyport-node.service")
    trixie.upgrade_of_others("python3-cryptography")
    assert not root.is_("active", "tinyport-node.service")
    root.run("systemctl", "start", "tinyport-node.service")
    people.reached("trixie")

    # Removed: it stops; what it is and how it was configured stays.
    root.run("dpkg", "--remove", *NODE)
    assert not root.is_("active", "tinyport-node.service")
    assert root.path("/var/lib/tinyport/node/identity.json").exists()
    assert root.path("/etc/tinyport/tinyport.toml").exists()
    assert not root.path(MODULES).exists()
    # Installed again it is the same node.
    trixie.install(NODE)
    people.reached("trixie")
    assert people.ssh("trixie", "echo again").strip() == "again"

    trixie.purge(NODE)
    assert "Traceback" not in root.log("tinyport-node.service")
    assert root.find("tinyport") == []
    assert root.run("getent", "passwd", "tinyport", "tinyport-worker", check=False).stdout == ""
    left = {path for path in set(root.find("")) - before if not re.match("/root/|/etc/.*-$", path)}
    assert left <= {"/var/lib/systemd/deb-systemd-helper-enabled", "/var/lib/systemd/deb-systemd-helper-masked"}


def test_what_starts_the_node_again_is_what_it_has_loaded(root: BootedRoot) -> None:
    """Each path that a trigger names is some package's here, but for other architectures' and the next Python's."""
    listed = (debian_root.ROOT / "packaging/debian/tinyport-node.triggers").read_text()
    named = set(re.findall("^interest-noawait (.*)$", listed, re.M))
    script = "import sys, sysconfig; print(sys.version_info.minor, sysconfig.get_config_var('MULTIARCH'))"
    minor, triplet = root.run("python3", "-c", script).stdout.split()
    wanted = {f"/usr/lib/{triplet}/{name}.so.3" for name in ("libssl", "libcrypto")}
    wanted |= {"/usr/bin/python3", f"/usr/bin/python3.{minor}", f"/usr/lib/python3.{minor}"}
    wanted |= {f"/usr/lib/python3/dist-packages/{name}" for name in ("asyncssh", "cryptography")}
    assert wanted <= named
    root.run("dpkg-query", "--search", *sorted(wanted))
    others = {path for path in named - wanted if not re.search(r"/python3\.\d+$|-linux-gnu\w*/lib\w+\.so\.3$", path)}
    assert others == set()


def test_sshds_port_is_taken_over_from_a_session_of_the_node(trixie: Trixie, root: BootedRoot, people: People) -> None:
    trixie.install(NODE)
    trixie.write(CONFIGURATION, people.toml("taker", "/var/lib/tinyport"))

    # From elsewhere: the node runs beside sshd.
    said = root.run("tinyport", "install", "--replace-sshd").stdout
    assert "log in through tinyport, and there: sudo /usr/bin/tinyport install --replace-sshd" in said
    people.reached("taker")
    trixie.banner(trixie.sshd_port, b"SSH-2.0-OpenSSH")
    # From a session: that one goes on while its daemon is stopped and started under it.
    assert "sshd is stopped and disabled" in people.ssh("taker", "tinyport install --replace-sshd")
    trixie.banner(trixie.sshd_port, b"SSH-2.0-tinyport")
    for state in ("active", "enabled"):
        assert not root.is_(state, "ssh.service")
        assert root.is_(state, "tinyport-node.socket")
    people.reached("taker")
    assert people.ssh("taker", "echo still").strip() == "still"
    assert listens(root, "tinyport-node.socket") == f"127.0.0.1:{trixie.sshd_port} (Stream)"
    assert "nothing to replace" in people.ssh("taker", "tinyport install --replace-sshd")
    # And back, as the page has it, in a session of the node again.
    back = re.search("^# (systemctl disable .* ssh)$", INSTALL.read_text(), re.M)
    assert back is not None
    people.ssh("taker", back[1])
    trixie.banner(trixie.sshd_port, b"SSH-2.0-OpenSSH")
    trixie.purge(NODE)
    assert root.find("tinyport") == []


def listens(root: BootedRoot, unit: str) -> str:
    return root.run("systemctl", "show", "--property=Listen", "--value", unit).stdout.strip()


def test_an_sshd_that_systemd_holds_is_replaced_though_the_power_fails(
    trixie: Trixie, root: BootedRoot, people: People
) -> None:
    """Its port and address are known to the socket alone; and whenever the machine goes down, it boots with sshd or the
    node on it.
    """
    trixie.install(NODE)
    trixie.write(CONFIGURATION, people.toml("holder", "/var/lib/tinyport"))
    port = free_port()
    trixie.drop_in("ssh.socket", f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n")
    root.run("systemctl", "disable", "--now", "ssh.service")
    root.run("systemctl", "enable", "--now", "ssh.socket")
    trixie.drop_in("tinyport-node.service", "[Service]\nExecStartPre=/usr/bin/test ! -e /run/broken\n")
    root.run("systemctl", "start", "tinyport-node.service")
    people.reached("holder")
    # sshd is stopped, the node does not come up, and the power goes.
    root.run("touch", "/run/broken")
    session = people.popen("holder", "tinyport install --replace-sshd")
    wait_for("sshd to be stopped", lambda: not root.is_("active", "ssh.socket"))
    root.stop()
    session.communicate(timeout=LIMIT)
    root.start()
    trixie.banner(port, b"SSH-2.0-OpenSSH")
    people.reached("holder")
    said = people.ssh("holder", "tinyport install --replace-sshd")
    assert said.endswith("systemctl enable --now ssh.socket\n")
    trixie.banner(port, b"SSH-2.0-tinyport")
    assert listens(root, "tinyport-node.socket") == f"127.0.0.1:{port} (Stream)"
    # Who removes the node, in a session of it, has sshd again.
    assert "ssh.socket is enabled again" in people.ssh("holder", "dpkg --remove tinyport-node 2>&1")
    trixie.banner(port, b"SSH-2.0-OpenSSH")
    assert root.is_("enabled", "ssh.socket")
    trixie.purge(NODE)
    assert root.find("tinyport") == []


def test_a_server_with_all_its_hardening(trixie: Trixie, root: BootedRoot) -> None:
    """On the distribution's libraries and a privileged port, with its keys encrypted by a credential's passphrase."""
    trixie.install(SERVER)
    for program in ("tctl", "tsh"):
        assert "usage" in root.run(program, "--help").stdout
    port = free_port(below=1024)
    trixie.write(
        CONFIGURATION,
        '[auth]\ncluster_name = "shed"\nlisten = "127.0.0.1:0"\n'
        f'[proxy]\nlisten = "127.0.0.1:{port}"\npublic_addr = ["127.0.0.1:{port}"]\n',
    )
    passphrase = "/etc/credstore/tinyport.key-passphrase"
    trixie.write(passphrase, "correct horse battery staple\n")
    unit = "tinyport-server.service"
    root.run("systemctl", "start", unit)
    trixie.banner(port, b"SSH-2.0-tinyport")
    status = root.run("tctl", "status").stdout
    assert "shed" in status
    invited = root.run("tctl", "users", "add", "bob", "--logins", "root", "--roles", "access").stdout
    assert "signup" in invited
    root.run("systemctl", "reload", unit)
    first = root.main_pid(unit)
    trixie.install(SERVER, NEXT)
    assert root.main_pid(unit) != first
    assert "bob" in root.run("tctl", "users", "ls").stdout
    trixie.banner(port, b"SSH-2.0-tinyport")
    # Without the passphrase nobody could sign anything, and it is said.
    root.path(passphrase).unlink()
    assert root.run("timeout", "20", "systemctl", "restart", unit, check=False).returncode != 0
    assert "the cluster's keys are encrypted, and there is no passphrase" in root.log(unit)
    trixie.purge(SERVER[::-1])
    assert root.find("tinyport") == []
