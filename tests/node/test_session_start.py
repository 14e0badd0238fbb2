"""Starting processes without a keeper; as root, as another user; each by a fork and by a process that waited for it."""

from __future__ import annotations

import itertools
import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.node.test_session_spare import waiting
from tinyport.core.errors import AccessDenied
from tinyport.host import accounts, privileges, pty
from tinyport.host.accounts import Account
from tinyport.node.session.plan import Plan, Terminal
from tinyport.node.session.process import CANNOT_RUN, Manner
from tinyport.node.session.spare import Order, PamWish
from tinyport.node.session.start import Started, start

TERMINAL = Terminal("xterm", 100, 40, 0, 0, {53: 0, 3: 127, 72: 0, 42: 1})


def own_account(**changes: Any) -> Account:
    entry = pwd.getpwuid(os.geteuid())
    values: dict[str, Any] = {
        "name": entry.pw_name,
        "uid": entry.pw_uid,
        "gid": entry.pw_gid,
        "groups": tuple(os.getgroups()),
        "home": "/",
        "shell": "/bin/sh",
    }
    return Account(**{**values, **changes})


def planned(command: str, account: Account | None = None, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "account": account or own_account(),
        "path": "/bin/sh",
        "argv": (b"sh", b"-c", command.encode()),
        "environment": {b"PATH": b"/usr/bin:/bin"},
        "terminal": None,
        "kind": "exec",
        "command": command,
    }
    return Plan(**{**values, **changes})


@pytest.fixture(params=["fork", "spare"], autouse=True)
def spare(request: pytest.FixtureRequest) -> None:
    """Both ways a session is started."""
    SPARES[:] = [request.param == "spare"]


SPARES = [False]


def run(plan: Plan, *, privileged: bool = False) -> tuple[int, bytes, bytes]:
    """(exit status, output, errors); a terminal's errors are in its output."""
    ready = waiting() if SPARES[0] else None
    started: Started = start(Order(plan, Manner(privileged=privileged), None, None), ready)
    if ready is not None:
        ready.drop()
    stdin, *outputs = started.descriptors if plan.terminal is None else (-1, *started.descriptors)
    read = []
    for output in outputs:
        data = b""
        while True:
            try:
                piece = os.read(output, 65536)
            except OSError:
                # EIO: the terminal's last process has gone.
                break
            if not piece:
                break
            data += piece
        read.append(data)
    for descriptor in (stdin, *outputs):
        if descriptor >= 0:
            os.close(descriptor)
    _, status = os.waitpid(started.pid, 0)
    return os.waitstatus_to_exitcode(status), read[0], read[1] if len(read) > 1 else b""


def test_output_errors_and_status() -> None:
    assert run(planned("echo out; echo err >&2; exit 3")) == (3, b"out\n", b"err\n")


def test_a_terminal_with_size_and_modes() -> None:
    status, output, _ = run(planned("stty size; stty -a; echo tty=$SSH_TTY", terminal=TERMINAL))
    assert status == 0
    # onlcr is off, as asked for: no carriage returns.
    assert output.startswith(b"40 100\n")
    assert b" -echo " in output
    assert b"iutf8" in output
    assert b"tty=/dev/pts/" in output


def test_a_program_that_cannot_be_started_says_so() -> None:
    status, _, errors = run(planned("", path="/nonexistent/shell"))
    assert status == CANNOT_RUN
    assert b"cannot start /nonexistent/shell" in errors


def test_a_missing_home_is_said_and_lived_with() -> None:
    status, output, errors = run(planned("pwd", own_account(home="/nonexistent")))
    assert (status, output) == (0, b"/\n")
    assert b"home directory" in errors


def test_modes_that_do_not_exist_are_ignored() -> None:
    master, slave, _ = pty.open_pair(None)
    pty.apply_modes(slave, {250: 1, 17: 1, 128: 38400, 129: 12345, 90: 1, 1: 255})
    pty.set_size(slave, 2**31, 24)
    os.close(master)
    os.close(slave)


NOBODY = pwd.getpwnam("nobody")


def nobody(**changes: Any) -> Account:
    return own_account(name="nobody", uid=NOBODY.pw_uid, gid=NOBODY.pw_gid, groups=(NOBODY.pw_gid, 20), **changes)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@needs_root
@pytest.mark.root
def test_root_becomes_the_user_for_good() -> None:
    status, output, _ = run(planned("cat /proc/self/status", nobody()), privileged=True)
    fields = dict(line.split(":", 1) for line in output.decode().splitlines() if ":" in line)
    assert status == 0
    assert fields["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert fields["Gid"].split() == [str(NOBODY.pw_gid)] * 4
    assert sorted(map(int, fields["Groups"].split())) == sorted((NOBODY.pw_gid, 20))
    assert int(fields["CapEff"], 16) == 0


@needs_root
@pytest.mark.root
def test_the_terminal_belongs_to_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = "stat -c '%U %G %a' $SSH_TTY; echo hi > $SSH_TTY"
    status, output, _ = run(planned(command, nobody(), terminal=TERMINAL), privileged=True)
    assert (status, output) == (0, b"nobody tty 620\nhi\n")
    # Without such a group, or when it cannot be read, it is the user's alone.
    for text in ("", "tty\ntty:x\ntty:x:five:\n"):
        (tmp_path / "group").write_text(text)
        monkeypatch.setattr(pty, "GROUP", str(tmp_path / "group"))
        status, output, _ = run(planned(command, nobody(), terminal=TERMINAL), privileged=True)
        assert output.split()[2] == b"600"


@needs_root
@pytest.mark.root
def test_become_in_a_child_cannot_be_undone() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            privileges.become(NOBODY.pw_uid, NOBODY.pw_gid, ())
            os.setuid(0)
        except PermissionError:
            os.write(writing, b"refused")
        finally:
            os._exit(0)
    os.close(writing)
    assert os.read(reading, 20) == b"refused"
    os.close(reading)
    os.waitpid(pid, 0)


# ---------------------------------------------------------------------- accounts


def test_unknown_accounts() -> None:
    for login in ("no-such-account", "a\0b", ""):
        with pytest.raises(AccessDenied, match="no account"):
            accounts.lookup(login)


def test_without_privileges_only_our_own() -> None:
    accounts.check_ours(own_account())
    with pytest.raises(AccessDenied, match="can serve only"):
        accounts.check_ours(own_account(uid=os.geteuid() + 1))


def test_accounts_that_may_not_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shadow = tmp_path / "shadow"
    shadow.write_text("pi:!:19000:0:99999:7::100:\nold:x:1:0:99999:7:::\n")
    monkeypatch.setattr(accounts, "SHADOW", str(shadow))
    monkeypatch.setattr(accounts, "NOLOGIN", str(tmp_path / "nologin"))
    good: Mapping[str, Any] = {"name": "pi", "uid": 1000, "shell": "/bin/sh"}
    accounts.check_usable(own_account(**good), now=99 * 86400)
    with pytest.raises(AccessDenied, match="expired"):
        accounts.check_usable(own_account(**good), now=100 * 86400)
    accounts.check_usable(own_account(**{**good, "name": "old"}), now=1e9)
    with pytest.raises(AccessDenied, match="usable shell"):
        accounts.check_usable(own_account(**{**good, "shell": "/nonexistent"}), now=0)
    with pytest.raises(AccessDenied, match="usable shell"):
        accounts.check_usable(own_account(**{**good, "shell": "/etc/passwd"}), now=0)
    (tmp_path / "nologin").write_text("maintenance\x1b[2J until noon\n")
    with pytest.raises(AccessDenied, match=r"maintenance\\x1b\[2J until noon"):
        accounts.check_usable(own_account(**good), now=0)
    accounts.check_usable(own_account(**{**good, "uid": 0}), now=0)


def test_no_process_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's fork bomb: who comes is told so, and no descriptor stays behind."""

    def none() -> int:
        raise BlockingIOError("no process left")

    monkeypatch.setattr(os, "fork", none)
    before = os.listdir("/proc/self/fd")
    for plan, pam in itertools.product(
        (planned("true"), planned("true", terminal=TERMINAL)), (None, PamWish("x", "h"))
    ):
        with pytest.raises(OSError, match="no process left"):
            start(Order(plan, Manner(privileged=False), None, pam))
    assert os.listdir("/proc/self/fd") == before
