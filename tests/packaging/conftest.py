"""A cluster for packaged nodes to join, what a person then does with them, and a machine for the packages."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.packaging import debian_root
from tests.packaging import trixie as trixie_machine
from tests.packaging.trixie import Trixie
from tests.scenarios.cluster import LIMIT, Cluster, text, wait_for


class People:
    """A cluster, and somebody who uses its nodes by OpenSSH."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.add_user("ann", cluster.login_name)
        self.config = cluster.ssh_config("ann")
        self.domain = str(cluster.tctl_json("status")["cluster"])

    def toml(self, name: str, data_dir: str, token: str = "", more: str = "") -> str:
        """The configuration of a node that joins: with ``token`` (TOML), or else a new one in it."""
        given = token or f'"{self.cluster.tctl_json("tokens", "add", "--type", "node")["token"]}"'
        return (
            f'[tinyport]\nnodename = "{name}"\ndata_dir = "{data_dir}"\nserver = "{self.cluster.ready["proxy"]}"\n'
            f'token = {given}\nca_pin = "{self.cluster.ready["ca_pin"]}"\n[node]\nenabled = true\nlisten = []\n{more}'
        )

    def online(self, name: str, limit: float = LIMIT) -> None:
        wait_for(f"{name} to be online", lambda: self.cluster.node_status(name) == "online", limit)

    def reached(self, name: str, limit: float = LIMIT) -> None:
        """Wait until a session works: a node that has just been restarted may still be listed as what it was before,
        and an emulated one needs longer for its first worker than a proxy waits.
        """

        def reaches() -> bool:
            session = self.popen(name, "exit 0")
            session.communicate(timeout=limit)
            return session.returncode == 0

        wait_for(f"a session on {name}", reaches, limit)

    def _words(self, program: str, name: str) -> list[str]:
        options = ["-F", str(self.config), "-o", "BatchMode=yes"]
        return [program, *options, f"{self.cluster.login_name}@{name}.{self.domain}"]

    def popen(self, name: str, command: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        words = [*self._words("ssh", name), command]
        return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=self.cluster.env("ann"))

    def ssh(self, name: str, command: str, *, tty: bool = False, limit: float = LIMIT) -> str:
        """What a command prints; it must succeed."""
        words = self._words("ssh", name)
        if tty:
            words.insert(1, "-tt")
        done = self.cluster.run(*words, command, home="ann", limit=limit)
        assert done.returncode == 0, text(done)
        return done.stdout.decode()

    def sftp(self, name: str, source: Path, target: str, *, limit: float = LIMIT) -> None:
        """Put a file there and get it back; they must be the same."""
        back = self.cluster.folder / f"back.{name}"
        words = self._words("sftp", name)
        words[1:1] = ["-b", "-"]
        batch = f"put {source} {target}\nget {target} {back}\n"
        done = self.cluster.run(*words, input=batch, home="ann", limit=limit)
        assert done.returncode == 0, text(done)
        assert back.read_bytes() == source.read_bytes()


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    cluster = Cluster(tmp_path_factory.mktemp("packages"))
    try:
        yield People(cluster.start())
    finally:
        cluster.stop()


@contextmanager
def once(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """The folder ``name`` of all workers of this run, for one of them at a time; and whether it has been made before.

    Whoever is the first makes it. If that fails the next one tries again.
    """
    base = tmp_path_factory.getbasetemp()
    # Below each other: a worker's folder is in its run's.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder.with_name(f"{name}.done")
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        yield folder, done.exists()
        done.touch()


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian packages of this version. Who uses them only reads them."""
    need_program("dh")
    with once(tmp_path_factory, "debs") as (folder, made):
        return folder / "deb" if made else debian_root.build(folder)


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory, deb: Path) -> Path:
    """Both versions of each Debian package. Who uses them only reads them."""
    with once(tmp_path_factory, "both-debs") as (folder, made):
        return folder / "packages" if made else trixie_machine.build(folder, deb)


@pytest.fixture(scope="session")
def trixie(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Trixie]:
    """The machine that tests of one group share; each leaves it without packages of ours."""
    made = Trixie(tmp_path_factory.mktemp("trixie") / "root", packages)
    try:
        made.root.start()
        yield made
    finally:
        made.root.stop()


@pytest.fixture
def load(tmp_path: Path) -> Path:
    """A file that has every byte in it, and more than one packet."""
    path = tmp_path / "load"
    path.write_bytes(bytes(range(256)) * 400 + os.urandom(1000))
    return path
