"""A trixie that systemd has booted, with sshd on a port of its own and our packages at hand in both versions."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from tests.packaging import booted_root, debian_root
from tests.packaging.booted_root import BootedRoot
from tests.ports import free_port
from tests.scenarios.cluster import LIMIT, wait_for
from tinyport.core.version import VERSION

#: what our packages depend on, so that installing them needs no network
DEPENDENCIES = (
    "python3-asyncssh",
    "python3-cryptography",
    "python3-aiohttp",
    "python3-aiosqlite",
    "python3-argon2",
    "python3-prometheus-client",
    "python3-segno",
    "libpam0g",
    "libpam-runtime",
    "passwd",
    "openssh-server",
)
NODE = ("tinyport-common", "tinyport-node")
SERVER = ("tinyport-common", "tinyport-client", "tinyport-server")
NEXT = f"{VERSION}+next"
CONFIGURATION = "/etc/tinyport/tinyport.toml"

_REPACK = """
cd "$(mktemp -d)"
for package in "$@"; do
    mkdir -p "$package/DEBIAN"
    dpkg-query --listfiles "$package" | while read -r path; do
        if [ -L "$path" ] || [ -f "$path" ]; then cp -a --parents "$path" "$package"; fi
    done
    dpkg-query --status "$package" | sed '/^Status: /d; s/^Version: .*/&+security/' >"$package/DEBIAN/control"
    for script in postinst prerm; do
        found=$(dpkg-query --control-path "$package" "$script")
        [ -z "$found" ] || cp "$found" "$package/DEBIAN/$script"
    done
    dpkg-deb --build "$package" "$package.deb" >/dev/null
    rm -r "$package"
done
dpkg --install ./*.deb
"""


def build(folder: Path, deb: Path) -> Path:
    """Both versions of each package below ``folder``: NAME_VERSION_all.deb; this one's are in ``deb``. Returns where
    they are.
    """
    found = folder / "packages"
    found.mkdir()
    for built in (deb, debian_root.build(folder / "next", NEXT)):
        for path in built.glob("*.deb"):
            shutil.copy(path, found)
    return found


def says(port: int, expected: bytes) -> bool:
    """Is that what whoever serves the port says first?"""
    try:
        with socket.create_connection(("127.0.0.1", port), LIMIT) as stream:
            stream.settimeout(LIMIT)
            stream.sendall(b"SSH-2.0-test\r\n")
            return stream.recv(len(expected)) == expected
    except ConnectionError:
        return False


class Trixie:
    """The machine: ``root`` is what runs in it. ``start`` before anything is run, ``stop`` at the end."""

    def __init__(self, folder: Path, packages: Path) -> None:
        self.root: BootedRoot = booted_root.make(folder, DEPENDENCIES)
        self.sshd_port = free_port()
        shutil.copytree(packages, self.root.path("/packages"))
        # It has this machine's network.
        self.write("/etc/ssh/sshd_config.d/port.conf", f"Port {self.sshd_port}\nListenAddress 127.0.0.1\n")

    def write(self, path: str, text: str) -> None:
        self.root.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.root.path(path).write_text(text)

    def drop_in(self, unit: str, text: str) -> None:
        """Change a unit as an administrator does."""
        self.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
        self.root.run("systemctl", "daemon-reload")

    def install(self, names: tuple[str, ...], version: str = VERSION) -> None:
        self.root.run("dpkg", "--install", *(f"/packages/{name}_{version}_all.deb" for name in names))

    def upgrade_of_others(self, *names: str) -> None:
        """Packages of the distribution, upgraded in one go to versions that differ in nothing but their number."""
        self.root.run("sh", "-euc", _REPACK, "sh", *names)

    def purge(self, names: tuple[str, ...]) -> None:
        self.root.run("dpkg", "--purge", *names)
        for folder in self.root.path("/etc/systemd/system").glob("tinyport-*.d"):
            shutil.rmtree(folder)
        self.root.run("systemctl", "daemon-reload")

    def restore(self) -> None:
        """As it was booted, whatever a test that failed half-way has left: the next is to fail for its own reasons."""
        shown = self.root.run("dpkg-query", "--show", "--showformat=${Package}\n", "tinyport-*", check=False).stdout
        if shown:
            self.purge(tuple(shown.split()))
        socket_options = self.root.path("/etc/systemd/system/ssh.socket.d")
        if socket_options.exists():
            shutil.rmtree(socket_options)
            self.root.run("systemctl", "daemon-reload")
        self.root.run("systemctl", "disable", "--now", "ssh.socket")
        self.root.run("systemctl", "reset-failed")
        self.root.run("systemctl", "enable", "--now", "ssh.service")

    def banner(self, port: int, expected: bytes) -> None:
        """Whoever serves the port says this first, and soon."""
        wait_for(f"{expected!r} on port {port}", lambda: says(port, expected))
