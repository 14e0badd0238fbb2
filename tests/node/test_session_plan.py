from __future__ import annotations

import os
from typing import Any

import pytest

from tinyport.core.access import Grant
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.host.accounts import Account
from tinyport.node.session.bounds import client_variable_allowed
from tinyport.node.session.plan import Asked, Origin, Plan, Terminal, plan

ACCOUNT = Account("pi", 1000, 1000, (1000, 20), "/home/pi", "/bin/bash")
SFTP = ("/usr/bin/python3", "-c", "x", "--become", "1000:1000")
TERMINAL = Terminal("xterm", 80, 24, 0, 0, {})


def grant(**changes: Any) -> Grant:
    values: dict[str, Any] = {
        "user": "alice",
        "login": "pi",
        "node": "uuid",
        "permits": frozenset(("pty", "exec", "sftp")),
        "force_command": None,
        "expires": 2**40,
        "role_names": ("ops",),
        "certificate_serial": 1,
        "key_id": "alice",
        "fingerprint": "SHA256:x",
    }
    return Grant(**{**values, **changes})


def planned(asked: Asked, granted: Grant | None = None, account: Account = ACCOUNT) -> Plan:
    origin = Origin(("10.0.0.9", 5022), ("10.0.0.1", 3022), "shed", "farm.example", "51d")
    return plan(granted or grant(), account, asked, origin, sftp=SFTP, inherited={"TZ": "UTC", "LANG": "C.UTF-8"})


def test_a_shell_is_a_login_shell() -> None:
    made = planned(Asked("shell", terminal=TERMINAL))
    assert (made.path, made.argv, made.kind) == ("/bin/bash", (b"-bash",), "shell")
    assert made.environment[b"TERM"] == b"xterm"


def test_a_command_goes_to_the_shell() -> None:
    made = planned(Asked("exec", command=b"ls \xff"))
    assert made.argv == (b"bash", b"-c", b"ls \xff")
    assert b"TERM" not in made.environment
    assert (made.kind, made.command) == ("exec", "ls \\xff")


def test_sftp_drops_its_own_privileges() -> None:
    made = planned(Asked("subsystem", subsystem="sftp"))
    assert made.argv == tuple(os.fsencode(word) for word in SFTP)
    assert made.drops_itself


@pytest.mark.parametrize(
    ("asked", "missing", "words"),
    [
        (Asked("exec", command=b"x"), "exec", "commands"),
        (Asked("shell"), "exec", "commands"),
        (Asked("subsystem", subsystem="sftp"), "sftp", "file transfer"),
        (Asked("shell", terminal=TERMINAL), "pty", "terminals"),
    ],
)
def test_what_is_not_permitted(asked: Asked, missing: str, words: str) -> None:
    with pytest.raises(AccessDenied, match=words):
        planned(asked, grant(permits=grant().permits - {missing}))


@pytest.mark.parametrize("asked", [Asked("subsystem", subsystem="netconf"), Asked("exec", command=b"a\0b")])
def test_what_does_not_exist(asked: Asked) -> None:
    with pytest.raises(AccessDenied):
        planned(asked)


def test_an_unknown_kind_is_the_workers_fault() -> None:
    with pytest.raises(PeerError):
        planned(Asked("root"))


def test_a_grant_is_for_one_account() -> None:
    with pytest.raises(AccessDenied):
        planned(Asked("shell"), grant(login="root"))


def test_a_forced_command_replaces_everything() -> None:
    forced = grant(force_command="/usr/bin/backup")
    made = planned(Asked("exec", command=b"rm -rf /"), forced)
    assert made.argv == (b"bash", b"-c", b"/usr/bin/backup")
    assert made.environment[b"SSH_ORIGINAL_COMMAND"] == b"rm -rf /"
    assert planned(Asked("subsystem", subsystem="sftp"), forced).argv[-1] == b"/usr/bin/backup"
    assert b"SSH_ORIGINAL_COMMAND" not in planned(Asked("shell"), forced).environment


def test_a_certificate_for_file_transfer_alone() -> None:
    made = planned(Asked("exec", command=b"sh"), grant(force_command="internal-sftp"))
    assert made.kind == "sftp"
    with pytest.raises(AccessDenied):
        planned(Asked("shell"), grant(force_command="internal-sftp", permits=frozenset(("exec",))))


def test_the_environment_belongs_to_the_node() -> None:
    sent = {
        "LANG": "de_DE.UTF-8",
        "LC_ALL": "C",
        "HOME": "/tmp",
        "PATH": "/tmp",
        "LD_PRELOAD": "x",
        "TINYPORT_USER": "root",
        "LC_TIME": "\ud800",
        "LC_NAME": "x" * 2000,
        "COLORTERM": "a\0b",
    }
    made = planned(Asked("shell", environment=sent)).environment
    assert made == {
        b"TZ": b"UTC",
        b"LANG": b"de_DE.UTF-8",
        b"LC_ALL": b"C",
        b"HOME": b"/home/pi",
        b"USER": b"pi",
        b"LOGNAME": b"pi",
        b"SHELL": b"/bin/bash",
        b"PATH": b"/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games",
        b"MAIL": b"/var/mail/pi",
        b"SSH_CLIENT": b"10.0.0.9 5022 3022",
        b"SSH_CONNECTION": b"10.0.0.9 5022 10.0.0.1 3022",
        b"TINYPORT_USER": b"alice",
        b"TINYPORT_NODE": b"shed",
        b"TINYPORT_CLUSTER": b"farm.example",
        b"TINYPORT_SESSION": b"51d",
    }


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "BASH_ENV", "ENV", "LC_", "LC_a=b", "LC_é", "lang", "", "LC_" + "x" * 99]
)
def test_variables_that_are_not_the_clients(name: str) -> None:
    assert not client_variable_allowed(name)
