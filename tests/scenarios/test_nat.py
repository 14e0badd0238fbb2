"""A device behind a router that forgets its connections, or gets another address: its tunnel is found dead by whoever
says something first, and stands again.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.cluster import BIN, LIMIT, Cluster, text, wait_for
from tests.scenarios.device import Device
from tests.scenarios.nat import OUTER, SERVER, Nat, nat

pytestmark = [pytest.mark.root, pytest.mark.slow]


class Outside(Cluster):
    """A cluster in the server's network; its people are there, too."""

    def __init__(self, folder: Path, network: Nat) -> None:
        super().__init__(folder, network.server, listen=f"{SERVER}:3080", level="info")
        self._network = network

    def run(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return super().run(*self._network.server, *words, **options)


@pytest.fixture(scope="module")
def network() -> Iterator[Nat]:
    with nat() as made:
        yield made


@pytest.fixture(scope="module")
def outside(network: Nat, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    made = Outside(tmp_path_factory.mktemp("outside"), network)
    try:
        made.start()
        made.add_user("nora", made.login_name)
        yield made
    finally:
        made.stop()


@pytest.fixture
def device(outside: Outside, network: Nat, tmp_path: Path) -> Iterator[Device]:
    made = Device(outside, tmp_path, f"{SERVER}:3080", name="inside", around=network.device)
    made.start()
    try:
        wait_for(f"the device: {made.log()}", lambda: outside.node_status("inside") == "online")
        yield made
    finally:
        made.stop()
        outside.tctl("nodes", "rm", "inside")


def tunnels(outside: Outside) -> list[str]:
    """Where the tunnels came from that the proxy has had, but for its own machine's."""
    return [peer for peer in re.findall(r"tunnel up node=\S+ peer=(\S+):", outside.log(10**7)) if peer in OUTER]


def reached(outside: Outside) -> bool:
    done = outside.tsh("ssh", f"{outside.login_name}@inside", "echo in", home="nora")
    assert b"Traceback" not in done.stderr, text(done)
    return done.stdout == b"in\n"


@pytest.mark.parametrize("what", ["forget", "move"])
def test_what_is_dead_is_found_and_comes_back(outside: Outside, network: Nat, device: Device, what: str) -> None:
    """A tunnel on which nothing is said until its next beat, and a session in which somebody types meanwhile."""
    before = len(tunnels(outside))
    assert before
    command = [*network.server, str(BIN / "tsh"), "ssh", f"{outside.login_name}@inside", "cat"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=outside.env("nora")
    ) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        session.stdin.write(b"hello\n")
        session.stdin.flush()
        assert session.stdout.readline() == b"hello\n"
        getattr(network, what)()
        session.stdin.write(b"is anybody there?\n")
        session.stdin.flush()
        # Whoever comes now brings about that the proxy finds it dead; the device does by its beat.
        assert not reached(outside)
        wait_for("another tunnel", lambda: len(tunnels(outside)) > before, 3 * LIMIT)
        wait_for("a session", lambda: reached(outside))
        assert session.wait(3 * LIMIT) == 255
