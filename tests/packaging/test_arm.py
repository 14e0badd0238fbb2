"""The whole node on arm64 and armhf, emulated: Debian's Python, asyncssh 2.20 and cryptography 43, and our packages."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging import debian_root
from tests.packaging.conftest import People
from tests.packaging.debian_root import Root
from tests.scenarios.cluster import LIMIT

pytestmark = [pytest.mark.slow, pytest.mark.emulated, pytest.mark.root, pytest.mark.timeout(1200)]

INCLUDE = ("base-files", "bash", "coreutils", "python3", "python3-asyncssh", "python3-cryptography")
ACCOUNTS = """\
root:x:0:0:root:/root:/bin/bash
tinyport:x:900:900::/nonexistent:/usr/sbin/nologin
tinyport-worker:x:901:901::/nonexistent:/usr/sbin/nologin
"""
GROUPS = "root:x:0:\ntty:x:5:\ntinyport:x:900:\ntinyport-worker:x:901:\n"
PROCESSES = ("worker.worker", "keeper.process", "session.process", "sftp.sftp", "forward.forward")
COMPILED = tuple(f"tinyport.node.{name}" for name in PROCESSES)
#: An emulated board is some ten times slower, and here it compiles its byte code, too.
EMULATED_LIMIT = 4 * LIMIT


class Board:
    """An emulated machine with our packages, and the node that it starts."""

    def __init__(self, root: Root, name: str, people: People) -> None:
        self.name = name
        self.people = people
        self.root = root
        self.log = root.path("/node.log")
        root.path("/etc/passwd").write_text(ACCOUNTS)
        root.path("/etc/group").write_text(GROUPS)
        root.path("/etc/tinyport").mkdir()
        root.path("/etc/tinyport/tinyport.toml").write_text(people.toml(name, "/var/lib/tinyport"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.root.start()
        words = self.root.words("tinyport", "start", "--roles=node", "-c", "/etc/tinyport/tinyport.toml")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        # Byte code, which the packages' maintainer scripts would have made: workers may not write it.
        self.root.run("python3", "-c", f"import {', '.join(COMPILED)}", limit=EMULATED_LIMIT)
        try:
            self.people.online(self.name, EMULATED_LIMIT)
            self.people.reached(self.name, EMULATED_LIMIT)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()}") from None

    @property
    def pid(self) -> int:
        """Of what entered the namespaces; the node is below it."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        # Its namespaces take everything with them.
        self.root.stop()
        if self._process is not None:
            self._process.wait(LIMIT)


@pytest.fixture(scope="module", params=sorted(debian_root.EMULATED))
def board(
    request: pytest.FixtureRequest, people: People, deb: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Board]:
    debian_root.emulate(request.param)
    ours = [next(deb.glob(f"{name}_*.deb")) for name in ("tinyport-common", "tinyport-node")]
    root = debian_root.extract(tmp_path_factory.mktemp(request.param) / "root", request.param, INCLUDE, ours)
    made = Board(root, f"board-{request.param}", people)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_it_joins_and_serves_shells_terminals_and_files(board: Board, people: People, load: Path) -> None:
    machine = {"board-arm64": "aarch64", "board-armhf": "armv7l"}[board.name]
    shown = people.ssh(board.name, "uname -m; id -un; echo $TINYPORT_NODE", limit=EMULATED_LIMIT).split()
    assert shown == [machine, people.cluster.login_name, board.name]
    assert people.ssh(board.name, "tty; exit 0", tty=True, limit=EMULATED_LIMIT).startswith("/dev/pts/")
    people.sftp(board.name, load, "/root/there", limit=EMULATED_LIMIT)
    assert board.root.path("/root/there").read_bytes() == load.read_bytes()
    log = board.log.read_text()
    assert "Traceback" not in log, log
