"""Devices at the end of links as they are in the field: what is lost, late, overtaken or waits in a long queue comes
through in the end. Nothing here measures time; docs/fleet.md says what was measured.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bad_link import FAIR, SERVER, BadLink, Weather, bad_link
from tests.scenarios.cluster import BIN, LIMIT, Cluster, text, wait_for
from tests.scenarios.device import Device

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(20 * LIMIT)]

WEATHERS = {
    "every third packet is lost": Weather(loss=30, delay=0.03, jitter=0.02),
    "far, and every tenth": Weather(loss=10, delay=0.25, jitter=0.1),
    "a round trip of five seconds": Weather(delay=2.5),
    "a queue of five seconds": Weather(delay=0.05, rate=64_000, queue=5.0),
}


class Outside(Cluster):
    """A cluster at the good end; its people are there, too."""

    def __init__(self, folder: Path, link: BadLink) -> None:
        super().__init__(folder, link.server, listen=f"{SERVER}:3080", level="info")
        self._link = link

    def run(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return super().run(*self._link.server, *words, **{"limit": 5 * LIMIT, **options})


@pytest.fixture(scope="module")
def link() -> Iterator[BadLink]:
    with bad_link() as made:
        yield made


@pytest.fixture(scope="module")
def outside(link: BadLink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    made = Outside(tmp_path_factory.mktemp("outside"), link)
    try:
        made.start()
        made.add_user("nora", made.login_name)
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("weather", WEATHERS)
def test_a_device_joins_and_serves(outside: Outside, link: BadLink, tmp_path: Path, weather: str) -> None:
    link.weather = WEATHERS[weather]
    device = Device(outside, tmp_path, f"{SERVER}:3080", name="far", around=link.device)
    device.start()
    try:
        wait_for("the device", lambda: outside.node_status("far") == "online", 5 * LIMIT)
        far = f"{outside.login_name}@far"

        def reached() -> bool:
            done = outside.tsh("ssh", far, "echo in", home="nora")
            assert b"Traceback" not in done.stderr, text(done)
            return done.stdout == b"in\n"

        if WEATHERS[weather].loss:
            # A tunnel may break on such a link, and one who comes then is told so; it is there again.
            wait_for("a session", reached, 5 * LIMIT)
        command = [*link.server, str(BIN / "tsh"), "ssh", far, "cat"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=outside.env("nora")
        ) as session:
            assert session.stdin is not None
            assert session.stdout is not None
            for line in (b"one\n", b"two\n", b"three\n"):
                session.stdin.write(line)
                session.stdin.flush()
                assert session.stdout.readline() == line
            session.stdin.close()
            assert session.wait(5 * LIMIT) == 0
        if WEATHERS[weather].delay > 1:
            # Each way in takes a minute.
            return
        data = os.urandom(300_000)
        (tmp_path / "sent").write_bytes(data)
        done = outside.tsh("scp", tmp_path / "sent", f"{far}:{tmp_path}/got", home="nora")
        assert done.returncode == 0, f"{text(done)}\n{device.log()}"
        assert (tmp_path / "got").read_bytes() == data
    finally:
        link.weather = FAIR
        device.stop()
        outside.tctl("nodes", "rm", "far")
