"""What people notice first who come from sshd, each by a test that names it. As root, where that is another matter."""

from __future__ import annotations

import os
import pwd
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.session_harness import LIMIT, Rig, wait_for
from tinyport.core.errors import AccessDenied
from tinyport.host import accounts

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    user = {"uid": NOBODY.pw_uid, "gid": NOBODY.pw_gid}
    rig = Rig(tmp_path, privileged=True, worker_user=user, worker_idle=0).start()
    yield rig
    rig.stop()


@pytest.fixture
def user() -> Iterator[str]:
    """An account of this machine, for one test. Its home is not below pytest's folders, which are root's alone."""
    name = f"tp{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        home = f"{folder}/home"
        subprocess.run(["useradd", "--create-home", "--home-dir", home, "--shell", "/bin/sh", name], check=True)
        yield name
        subprocess.run(["userdel", "--force", name], check=True, capture_output=True)


def shell(rig: Rig, login: str, typed: str = "exit\n") -> str:
    command = [*rig.command("-tt", login=login)]
    done = subprocess.run(command, input=typed.encode(), capture_output=True, timeout=LIMIT, check=False)
    return done.stdout.decode(errors="replace")


def be(rig: Rig, login: str) -> None:
    rig.give_certificate(logins=[login])


@pytest.mark.root
@ROOT
def test_environment_and_groups(rig: Rig, user: str) -> None:
    subprocess.run(["usermod", "-aG", "games", user], check=True)
    be(rig, user)
    done = subprocess.run(
        rig.command("env; id -Gn; umask; pwd", login=user), capture_output=True, timeout=LIMIT, check=True
    )
    text = done.stdout.decode()
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    home = pwd.getpwnam(user).pw_dir
    assert (found["HOME"], found["USER"], found["LOGNAME"], found["SHELL"]) == (home, user, user, "/bin/sh")
    assert found["MAIL"] == f"/var/mail/{user}"
    assert found["TINYPORT_USER"] == "alice"
    assert found["TINYPORT_CLUSTER"]
    assert found["TINYPORT_SESSION"] == rig.event("session.start")["sid"]
    assert found["SSH_CLIENT"].split()[0] == "127.0.0.1"
    assert "/usr/bin" in found["PATH"].split(":")
    assert "SSH_TTY" not in found
    assert {user, "games"} <= set(text.splitlines()[-3].split())
    assert text.splitlines()[-2:] == ["0022", home]


@pytest.mark.root
@ROOT
def test_neither_rc_nor_environment_of_the_home(rig: Rig, user: str) -> None:
    folder = Path(pwd.getpwnam(user).pw_dir) / ".ssh"
    folder.mkdir()
    (folder / "rc").write_text(f"touch {folder}/was-run\n")
    (folder / "environment").write_text("SURPRISE=yes\n")
    subprocess.run(["chown", "-R", user, str(folder)], check=True)
    be(rig, user)
    done = subprocess.run(rig.command("env", login=user), capture_output=True, timeout=LIMIT, check=True)
    assert b"SURPRISE" not in done.stdout
    assert not (folder / "was-run").exists()


@pytest.mark.root
@ROOT
def test_a_login_shell_greets(rig: Rig, user: str) -> None:
    be(rig, user)
    output = shell(rig, user, "echo $0; exit\n")
    assert "-sh" in output
    again = shell(rig, user)
    if Path("/var/log/lastlog").exists():
        assert "Last login: " in again
        assert " from 127.0.0.1" in again
        # Before the first prompt.
        assert again.index("Last login") < again.index("$ ")
    home = Path(pwd.getpwnam(user).pw_dir)
    (home / ".hushlogin").touch()
    assert "Last login" not in shell(rig, user)
    done = subprocess.run(rig.command("-tt", "true", login=user), capture_output=True, timeout=LIMIT, check=False)
    assert done.stdout == b""


@pytest.mark.root
@ROOT
def test_records_of_logins(rig: Rig, user: str) -> None:
    if not Path("/var/log/wtmp").exists():
        pytest.skip("this system has no wtmp")
    be(rig, user)
    shell(rig, user)
    wait_for(
        "the logout to be recorded",
        lambda: [line for line in last(user) if "still" not in line and "gone" not in line] and last(user),
    )
    (line,) = last(user)
    assert line.split()[0] == user
    assert line.split()[1].startswith("pts/")
    assert "127.0.0.1" in line


@pytest.mark.root
@ROOT
def test_who_is_on(rig: Rig, user: str) -> None:
    if not Path("/run/utmp").exists():
        pytest.skip("this system has no utmp")
    be(rig, user)
    done = subprocess.run(rig.command("-tt", "tty; who", login=user), capture_output=True, timeout=LIMIT, check=True)
    terminal, *lines = done.stdout.decode().splitlines()
    (line,) = [line for line in lines if line.startswith(user)]
    assert line.split()[1] == terminal.removeprefix("/dev/")
    assert "127.0.0.1" in line


@pytest.mark.root
@ROOT
def test_a_logout_is_recorded_though_the_monitor_is_gone(rig: Rig, user: str) -> None:
    if not Path("/var/log/wtmp").exists():
        pytest.skip("this system has no wtmp")
    be(rig, user)
    pipe = subprocess.PIPE
    command = rig.command("-tt", "echo up; read line", login=user)
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"up"
        rig.let_go()
        wait_for("the keeper to notice", lambda: "link and monitor are gone" in rig.log())
        assert [line for line in last(user) if "still" in line or "gone" in line]
        process.communicate(b"go\n", LIMIT)
    wait_for("the logout", lambda: [line for line in last(user) if "still" not in line and "gone" not in line])


def last(user: str) -> list[str]:
    done = subprocess.run(["last", "-w", user], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith(user)]


@pytest.mark.root
@ROOT
def test_accounts_that_are_off(rig: Rig, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be(rig, user)

    def refused() -> bytes:
        done = subprocess.run(rig.command("echo in", login=user), capture_output=True, timeout=LIMIT, check=False)
        assert (done.returncode, done.stdout) == (255, b""), done
        return done.stderr

    def let_in() -> bool:
        done = subprocess.run(rig.command("echo in", login=user), capture_output=True, timeout=LIMIT, check=False)
        return done.stdout == b"in\n"

    # A locked password forbids passwords (passwd(1)); people come with certificates.
    subprocess.run(["passwd", "-l", user], check=True, capture_output=True)
    assert let_in()
    # usermod(8) says how an account is locked: by its end.
    subprocess.run(["usermod", "--expiredate", "1", user], check=True)
    assert b"has expired" in refused()
    subprocess.run(["usermod", "--expiredate", "", user], check=True)
    assert let_in()
    subprocess.run(["usermod", "--shell", "/nonexistent/shell", user], check=True)
    assert b"no usable shell" in refused()
    # A shell that says no says it itself, as with sshd.
    nologin = next(path for path in ("/usr/sbin/nologin", "/sbin/nologin") if Path(path).exists())
    subprocess.run(["usermod", "--shell", nologin, user], check=True)
    done = subprocess.run(rig.command("echo in", login=user), capture_output=True, timeout=LIMIT, check=False)
    assert (done.returncode, b"not available" in done.stdout) == (1, True)
    subprocess.run(["usermod", "--shell", "/bin/sh", user], check=True)
    assert let_in()


def test_nologin_speaks_to_everybody_but_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nologin"
    path.write_text("down for a new disk\x1b[2J\n")
    monkeypatch.setattr(accounts, "NOLOGIN", str(path))
    root = accounts.lookup("root")
    accounts.check_usable(accounts.Account(**{**vars(root), "shell": "/bin/sh"}), time.time())
    somebody = accounts.Account("pi", 1000, 1000, (1000,), "/", "/bin/sh")
    with pytest.raises(AccessDenied, match="down for a new disk") as refused:
        accounts.check_usable(somebody, time.time())
    assert "\x1b" not in refused.value.message


def test_a_job_in_the_background_keeps_what_it_holds(tmp_path: Path) -> None:
    """As sshd: without a terminal the streams end with their last holder, with one the session ends with the shell."""
    rig = Rig(tmp_path, worker_idle=0).start()
    try:
        done = rig.ssh("sleep 30 > /dev/null 2>&1 < /dev/null & echo started")
        assert (done.returncode, done.stdout) == (0, b"started\n")
        done = rig.ssh("-tt", "sleep 30 & echo started; exit 4")
        assert (done.returncode, done.stdout) == (4, b"started\r\n")
    finally:
        rig.stop()
