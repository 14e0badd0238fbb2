"""Clocks that are wrong: a board that boots in 1970, and one that lay in a drawer for a year.

libfaketime gives processes another time. Ours clean the environment of their children, so the board's interpreter is
a wrapper that sets it again, found by its children as any interpreter is.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.ports import free_port
from tests.scenarios.cluster import Cluster, text, wait_for
from tests.scenarios.device import Device
from tests.scenarios.test_rotation import FORWARD, audit, step
from tinyport.core.certificate import Certificate, parse_public_line, public_line
from tinyport.core.issue import sign
from tinyport.core.signatures import Ed25519Key


def fake(moment: str) -> dict[str, str]:
    """The environment that has a process live at ``moment`` (libfaketime's FAKETIME)."""
    need_program("faketime")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    # Timers are as the kernel's, and so is what files say of themselves.
    kept = ("DONT_FAKE_MONOTONIC", "FAKETIME_DONT_FAKE_MONOTONIC", "NO_FAKE_STAT")
    return {"LD_PRELOAD": str(library), "FAKETIME": moment, **dict.fromkeys(kept, "1")}


DAWN = "@1970-01-01 00:01:00"


def python_at(folder: Path, moment: str) -> str:
    """An interpreter whose every process, however it was started, believes that it is ``moment``."""
    (folder / "bin").mkdir(parents=True)
    real = Path(sys.executable).resolve()
    (folder / "pyvenv.cfg").write_text(f"home = {real.parent}\n")
    wrapper = folder / "bin" / "python"
    setting = " ".join(f"{name}={shlex.quote(value)}" for name, value in fake(moment).items())
    wrapper.write_text(f'#!/bin/bash\nexport {setting}\nexec -a {wrapper} {real} "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def modules() -> dict[str, str]:
    """What such an interpreter needs to find ours."""
    return {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}


@pytest.fixture
def python_of_1970(tmp_path: Path) -> str:
    return python_at(tmp_path / "old", DAWN)


@pytest.fixture
def board(cluster: Cluster, tmp_path: Path, python_of_1970: str) -> Iterator[Device]:
    device = Device(cluster, tmp_path, cluster.ready["proxy"], name="board", around=[python_of_1970], env=modules())
    device.start()
    yield device
    device.stop()
    cluster.tctl("nodes", "rm", "board")


def test_a_board_that_boots_in_1970_joins_and_serves_by_its_clusters_time(cluster: Cluster, board: Device) -> None:
    wait_for("the board", lambda: cluster.node_status("board") == "online")
    user = cluster.add_user("clara", cluster.login_name)
    done = cluster.tsh("ssh", f"{cluster.login_name}@board", "date +%Y", home=user)
    # The session lives in the system's time, which is nobody's to change; its certificate was judged by auth's.
    assert done.returncode == 0, text(done)
    wait_for("the clock to be compared", lambda: "behind the cluster's" in board.status())
    wait_for("the clock in the list", lambda: b"slow" in cluster.tctl("nodes", "ls", "-v").stdout)
    # It boots again, in 1970 again.
    board.stop()
    board.start()
    wait_for("the board again", lambda: "up for" in board.status())
    again = cluster.tsh("ssh", f"{cluster.login_name}@board", "echo in", home=user)
    assert again.stdout == b"in\n", text(again)
    # And it was 1970, for the launcher, the monitor, link and the keeper alike: they stamp their lines.
    said = [line for line in board.log().splitlines() if " node." in line]
    assert {line.partition(" node.")[2].partition(":")[0] for line in said} >= {"monitor", "link", "enrol"}
    assert [line for line in said if not line.startswith("1970-01-01T")] == []


class Straight:
    """OpenSSH to a board's own port, with somebody's certificate at other dates: only the board judges it there."""

    def __init__(self, cluster: Cluster, folder: Path, user: str, port: int, log: Callable[[], str]) -> None:
        self._cluster, self._folder, self._port, self._log = cluster, folder, port, log
        profile = next((cluster.folder / user).rglob("id-cert.pub")).parent
        self._key = profile / "id"
        self._genuine = Certificate.decode(parse_public_line((profile / "id-cert.pub").read_text()))
        database = f"file:{cluster.data}/auth/auth.db?mode=ro"
        with closing(sqlite3.connect(database, uri=True)) as rows:
            (pem,) = rows.execute("SELECT private FROM authorities WHERE type = 'user'").fetchone()
        self._ca = Ed25519Key.from_openssh(pem.encode())

    def ssh(self, begins: float, ends: float) -> subprocess.CompletedProcess[bytes]:
        """``begins``, ``ends``: of the certificate, in seconds from now."""
        now = time.time()
        old = struct.pack(">QQ", self._genuine.valid_after, self._genuine.valid_before)
        assert self._genuine.signed.count(old) == 1
        signed = self._genuine.signed.replace(old, struct.pack(">QQ", int(now + begins), int(now + ends)))
        certificate = self._folder / "dated-cert.pub"
        certificate.write_text(public_line(sign(self._ca, signed)) + "\n")
        options = ["BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "StrictHostKeyChecking=no"]
        options += ["UserKnownHostsFile=/dev/null", f"CertificateFile={certificate}", "LogLevel=INFO"]
        words = [word for option in options for word in ("-o", option)]
        words += ["-F", "none", "-p", str(self._port), "-i", str(self._key), f"{self._cluster.login_name}@127.0.0.1"]
        return self._cluster.run("ssh", *words, "echo in")

    def gets_in(self, begins: float, ends: float) -> None:
        done = self.ssh(begins, ends)
        assert (done.returncode, done.stdout) == (0, b"in\n"), text(done)

    def is_refused(self, begins: float, ends: float, words: str) -> None:
        done = self.ssh(begins, ends)
        assert (done.returncode, done.stdout, words.encode() in done.stderr) == (255, b"", True), (
            f"{text(done)}\n{self._log()}"
        )


HOUR = 3600.0


def test_a_board_in_1970_refuses_what_has_ended_and_what_has_not_begun(tmp_path: Path, python_of_1970: str) -> None:
    """With the time of auth, and, when auth was never reached since boot, by the last time that it knew."""
    need_program("ssh")
    port = free_port()
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster").start()
    board = Device(
        cluster,
        tmp_path,
        cluster.ready["proxy"],
        name="board",
        around=[python_of_1970],
        env=modules(),
        listen=f'"127.0.0.1:{port}"',
    )
    try:
        board.start()
        wait_for("the board", lambda: cluster.node_status("board") == "online")
        straight = Straight(cluster, tmp_path, cluster.add_user("cleo", cluster.login_name), port, board.log)
        straight.gets_in(-HOUR, HOUR)
        straight.is_refused(-2 * HOUR, -HOUR, "expired")
        straight.is_refused(HOUR, 2 * HOUR, "not valid yet")
        # To the board both are in its future.
        cluster.stop()
        board.stop()
        board.start()
        wait_for("the board again", lambda: "tunnel" in board.status())
        straight.is_refused(-HOUR, HOUR, "time")
        straight.is_refused(-2 * HOUR, -HOUR, "expired")
        straight.gets_in(HOUR, 2 * HOUR)
    finally:
        board.stop()
        cluster.stop()


YEAR = 400 * 86400.0
#: name of a device → what its clock says when it comes out of the drawer (libfaketime), None: the day it went in
DRAWER = {"stopped-clock": None, "right-clock": "+400d", "no-clock": DAWN, "removed": "+400d"}


@pytest.mark.slow
def test_a_year_in_a_drawer_and_two_rotations_later(tmp_path: Path) -> None:
    """The cluster's time runs on; devices wake up with certificates that ended long ago, of a CA whose successor is
    gone, too. Whatever their own clocks say; but not the one that was removed meanwhile."""
    future = [f"{name}={value}" for name, value in fake("+400d").items()]
    cluster = Cluster(tmp_path).start()
    devices: dict[str, Device] = {}

    def is_online(name: str) -> None:
        wait_for(f"{name} to be there", lambda: cluster.node_status(name) == "online")

    def opens(name: str) -> None:
        words = ("ssh", f"{cluster.login_name}@{name}", "echo in")
        wait_for(f"a session on {name}", lambda: cluster.tsh(*words, home="drew", env=fake("+400d")).stdout == b"in\n")

    def compares(name: str, word: str) -> None:
        wait_for(f"{name} to compare", lambda: f"{word} the cluster's" in devices[name].status())

    try:
        for name in DRAWER:
            (tmp_path / name).mkdir()
            devices[name] = Device(cluster, tmp_path / name, cluster.ready["proxy"], name=name)
            devices[name].start()
        for name, device in devices.items():
            is_online(name)
            device.stop()
        uuids = {node["name"]: node["uuid"] for node in cluster.tctl_json("nodes", "ls")["nodes"]}
        pins = set(cluster.tctl_json("status")["ca_pins"])
        for phase in (*FORWARD, *FORWARD):
            step(cluster, phase, follow=False)
        assert not pins & set(cluster.tctl_json("status")["ca_pins"])
        removed = cluster.tctl("nodes", "rm", "removed", "--yes")
        assert removed.returncode == 0, text(removed)
        del uuids["removed"]
        before = cluster.ready["proxy"]
    finally:
        for device in devices.values():
            device.stop()
        cluster.stop()
    cluster = Cluster(tmp_path, around=["env", *future]).start()
    try:
        assert cluster.ready["proxy"] == before
        for name, moment in DRAWER.items():
            if moment is not None:
                devices[name].clock(python_at(tmp_path / name / "python", moment), modules())
            devices[name].start()
        home = [name for name in DRAWER if name != "removed"]
        for name in home:
            is_online(name)
        assert uuids == {node["name"]: node["uuid"] for node in cluster.tctl_json("nodes", "ls")["nodes"]}
        assert {event["node"] for event in audit(cluster, "node.return")} >= set(home)
        cluster.add_user("drew", cluster.login_name)
        for name in home:
            # What they came back with is of the cluster's time, and opens sessions.
            identity = json.loads((devices[name].data / "node" / "identity.json").read_text())
            assert identity["valid_after"] > time.time() + YEAR - 86400
            assert len(identity["tls_cas"]) == 1
            opens(name)
        for name, word in {"stopped-clock": "behind", "no-clock": "behind", "right-clock": "as"}.items():
            compares(name, word)
        wait_for("the removed one to be told", lambda: "no machine is registered" in devices["removed"].log())
        assert cluster.node_status("removed") == "absent"
    finally:
        for device in devices.values():
            device.stop()
        cluster.stop()
