"""PAM around sessions, with the real libpam and service files of the test's own."""

from __future__ import annotations

import ctypes
import os
import pwd
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.forwarding import echo_at_end, serving
from tests.node.session_harness import LIMIT, Rig, wait_for
from tinyport.host import pam


def has_libpam() -> bool:
    """Debian's is glibc's, which a Python on musl cannot load."""
    try:
        ctypes.CDLL(pam.LIBRARY)
    except OSError:
        return False
    return True


pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root"),
    pytest.mark.skipif(not has_libpam(), reason="this C library has no libpam"),
]

NOBODY = pwd.getpwnam("nobody")
Start = Callable[..., Rig]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A keeper whose sessions go through a service with these lines. ``{log}`` is a file that pam_exec writes."""
    service = f"tinyport-test-{secrets.token_hex(4)}"
    path = Path(pam.SERVICES) / service
    rigs: list[Rig] = []
    script = tmp_path / "record"
    script.write_text(f'#!/bin/sh\necho "$PAM_TYPE $PAM_USER $PAM_TTY $PAM_RHOST" >> {tmp_path}/pam.log\n')
    script.chmod(0o755)

    def begin(*lines: str) -> Rig:
        path.write_text("\n".join(lines).replace("{record}", str(script)) + "\n")
        user = {"uid": NOBODY.pw_uid, "gid": NOBODY.pw_gid}
        rigs.append(Rig(tmp_path, privileged=True, worker_user=user, worker_idle=0, pam=service).start())
        return rigs[-1]

    yield begin
    for rig in rigs:
        rig.stop()
    path.unlink(missing_ok=True)


RECORDED = (
    "account required pam_permit.so",
    "session required pam_exec.so quiet {record}",
)


def record(rig: Rig) -> list[str]:
    path = rig.folder / "pam.log"
    return path.read_text().splitlines() if path.exists() else []


def test_opened_and_closed_around_a_session(start: Start) -> None:
    rig = start(*RECORDED)
    done = rig.ssh("echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    wait_for("the session to be closed", lambda: len(record(rig)) == 2)
    assert record(rig) == ["open_session root ssh 127.0.0.1", "close_session root ssh 127.0.0.1"]
    done = rig.ssh("-tt", "tty")
    tty = done.stdout.strip().decode()
    wait_for("the session to be closed", lambda: len(record(rig)) == 4)
    assert record(rig)[2:] == [f"open_session root {tty} 127.0.0.1", f"close_session root {tty} 127.0.0.1"]


def test_no_byte_is_lost_at_the_end(start: Start) -> None:
    rig = start(*RECORDED)
    done = rig.ssh("head -c 20000000 /dev/zero")
    assert (done.returncode, len(done.stdout)) == (0, 20_000_000)
    done = rig.ssh("-tt", "head -c 300000 /dev/zero | tr '\\0' x")
    assert (done.returncode, done.stdout.count(b"x")) == (0, 300_000)


def test_signals_reach_the_session_and_back(start: Start) -> None:
    rig = start(*RECORDED)
    done = rig.ssh("kill -TERM $$")
    assert done.returncode == 255
    assert rig.event("session.end")["signal"] == "TERM"
    # A shell would tell of its sleep's end on a pipe that nobody reads any more.
    loop = "exec 2> /dev/null; echo $$; while :; do sleep 0.1; done"
    process = rig.popen(f"trap 'echo hup > {rig.folder}/hup' HUP; {loop}")
    assert process.stdout is not None
    shell = int(process.stdout.readline())
    process.kill()
    process.communicate()
    wait_for("SIGHUP", lambda: (rig.folder / "hup").exists())
    os.killpg(shell, signal.SIGKILL)


def test_closed_though_the_worker_and_the_keeper_died(start: Start) -> None:
    rig = start(*RECORDED)
    process = rig.popen("echo $$; cat")
    assert process.stdout is not None
    shell = int(process.stdout.readline())
    os.kill(rig.pid, signal.SIGKILL)
    process.communicate(timeout=LIMIT)
    # Its streams ended with the worker; what it was running is over, and the session closed.
    wait_for("the session to be closed", lambda: len(record(rig)) == 2)
    wait_for("the shell to end", lambda: not Path(f"/proc/{shell}").exists())


def test_closed_though_the_monitor_is_gone(start: Start) -> None:
    """A daemon that is restarted or upgraded leaves sessions, their status and PAM's closing whole."""
    rig = start(*RECORDED)
    process = rig.popen("echo up; read line; exit 3")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    rig.let_go()
    wait_for("the keeper to notice", lambda: "link and monitor are gone" in rig.log())
    assert len(record(rig)) == 1
    process.communicate(b"go\n", LIMIT)
    assert process.returncode == 3
    wait_for("the session to be closed", lambda: len(record(rig)) == 2)
    assert record(rig)[1].startswith("close_session ")


def test_an_account_that_may_not(start: Start) -> None:
    rig = start("account required pam_deny.so", "session required pam_exec.so quiet {record}")
    done = rig.ssh("echo in")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"tinyport: this machine does not let the account in" in done.stderr
    assert record(rig) == []
    wait_for("the log line", lambda: "PAM did not let a session begin" in rig.log())
    assert rig.event("session.end")["status"] == 255


@pytest.mark.parametrize("words", [("-W", "127.0.0.1:{port}"), ("-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:x:1")])
def test_an_account_that_may_not_forwards_nothing(start: Start, words: tuple[str, ...]) -> None:
    """``ssh -N`` starts no session, and sshd would have turned it away."""
    rig = start("account required pam_exec.so quiet {record}", "account required pam_deny.so")
    with serving(echo_at_end) as server:
        options = [word.replace("{port}", str(server.port)) for word in words]
        done = rig.ssh(options=("-v", *options), input=b"x")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"this machine does not let the account in" in done.stderr
    assert record(rig) == ["account root ssh 127.0.0.1"]
    wait_for("the log line", lambda: "PAM did not let a connection forward" in rig.log())


def test_an_account_that_may_forward(start: Start) -> None:
    rig = start("account required pam_exec.so quiet {record}", "session required pam_exec.so quiet {record}")
    with serving(echo_at_end) as server:
        done = rig.ssh(options=("-W", f"127.0.0.1:{server.port}"), input=b"x")
    assert (done.returncode, done.stdout) == (0, b"x"), done.stderr
    assert record(rig) == ["account root ssh 127.0.0.1"]


def test_a_session_that_may_not_be_opened(start: Start) -> None:
    rig = start("account required pam_permit.so", "session required pam_deny.so")
    done = rig.ssh("-tt", "echo in")
    assert done.returncode == 255
    assert b"tinyport: this machine does not let the account in" in done.stdout
    assert b"in\r\n" not in done.stdout.replace(b"account in:", b"")


def test_environment_limits_and_umask_of_modules(start: Start, tmp_path: Path) -> None:
    limits, environment = tmp_path / "limits.conf", tmp_path / "environment"
    limits.write_text("* hard nofile 333\nroot hard nofile 333\n")
    environment.write_text("FROM_PAM=yes\nUSER=somebody\nSSH_CONNECTION=x\n")
    rig = start(
        "account required pam_permit.so",
        f"session required pam_limits.so conf={limits}",
        f"session required pam_env.so readenv=1 user_readenv=0 envfile={environment}",
        "session optional pam_umask.so umask=077",
    )
    done = rig.ssh("ulimit -Hn; umask; echo $FROM_PAM $USER; echo $SSH_CONNECTION")
    lines = done.stdout.decode().split("\n")
    assert lines[:3] == ["333", "0077", "yes root"], (done, rig.log())
    assert lines[3].startswith("127.0.0.1 ")


def test_what_modules_say(start: Start, tmp_path: Path) -> None:
    motd = tmp_path / "motd"
    motd.write_text("from pam_motd\n")
    rig = start(
        "account required pam_permit.so",
        f"session optional pam_motd.so motd={motd} noupdate",
        "session required pam_permit.so",
    )
    process = subprocess.run(rig.command("-tt"), input=b"exit 3\n", capture_output=True, timeout=LIMIT, check=False)
    assert process.returncode == 3
    assert process.stdout.count(b"from pam_motd") == 1
    # Not to a program.
    assert rig.ssh("true").stdout == b""


def test_many_at_once(start: Start) -> None:
    rig = start(*RECORDED)
    running = [rig.popen(f"cat; exit {number}") for number in range(12)]
    for number, process in enumerate(running):
        output, _ = process.communicate(b"x" * 100_000, LIMIT)
        assert (process.returncode, len(output)) == (number, 100_000)
    wait_for("all to be closed", lambda: len(record(rig)) == 24)


def test_sftp_through_pam(start: Start) -> None:
    rig = start(*RECORDED)
    command = ["sftp", "-b", "-", *rig.options(), "-P", str(rig.port), "root@127.0.0.1"]
    done = subprocess.run(command, input=b"pwd\n", capture_output=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    wait_for("the session to be closed", lambda: len(record(rig)) == 2)


def test_a_service_names_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pam, "SERVICES", str(tmp_path))
    (tmp_path / "one").write_text("# pam_motd.so\nsession optional pam_exec.so\n")
    (tmp_path / "two").write_text("session optional pam_motd.so\n")
    assert [pam.mentions(name, "pam_motd") for name in ("one", "two", "absent")] == [False, True, False]
    assert [pam.has_service(name) for name in ("one", "absent")] == [True, False]
