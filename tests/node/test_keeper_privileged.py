"""The keeper as root: its workers are nobody, its sessions are who they should be."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.session_harness import LIMIT, Rig, wait_for

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")]

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    user = {"uid": NOBODY.pw_uid, "gid": NOBODY.pw_gid}
    rig = Rig(tmp_path, privileged=True, worker_user=user, worker_idle=0).start()
    yield rig
    rig.stop()


def status_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def test_the_worker_is_nobody_and_can_start_nothing(rig: Rig) -> None:
    process = rig.popen("echo ready; cat")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (worker,) = rig.workers()
    status = status_of(worker)
    assert status["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert status["Gid"].split() == [str(NOBODY.pw_gid)] * 4
    assert status["Groups"] == ""
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    limits = Path(f"/proc/{worker}/limits").read_text()
    (processes,) = [line for line in limits.splitlines() if line.startswith("Max processes")]
    assert processes.split()[2:4] == ["0", "0"]
    process.communicate(timeout=LIMIT)


def test_a_session_is_the_user(rig: Rig) -> None:
    rig.give_certificate(logins=["nobody"])
    command = ["sftp", "-b", "-", *rig.options(), "-P", str(rig.port), "nobody@127.0.0.1"]
    target = rig.folder / "drop"
    target.mkdir()
    # Down to it from /tmp, pytest's folders are its owner's alone.
    for folder in (target, *list(target.parents)[:-2]):
        os.chmod(folder, 0o755)
    os.chmod(target, 0o777)
    (rig.folder / "text").write_text("hello")
    batch = f"put {rig.folder}/text {target}/here\n".encode()
    done = subprocess.run(command, input=batch, capture_output=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    assert (target / "here").stat().st_uid == NOBODY.pw_uid


def test_a_keeper_without_a_line_stays_with_its_sessions(rig: Rig) -> None:
    process = rig.popen("echo ready; cat")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    rig.let_go()
    wait_for("the keeper to notice", lambda: "link and monitor are gone" in rig.log())
    output, _ = process.communicate(b"still here\n", LIMIT)
    assert (output, process.returncode) == (b"still here\n", 0)
    wait_for("the keeper to leave", lambda: rig.status is not None)
    assert rig.status == 0


def test_a_keeper_that_is_told_to_stop_ends_its_sessions(rig: Rig) -> None:
    process = rig.popen("trap '' HUP; echo ready; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.kill(rig.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=LIMIT)
    assert b"shutting down" in said
    wait_for("the keeper to leave", lambda: rig.status is not None)
    assert rig.event("session.end")["signal"] == "KILL"
