"""The sftp server's command line: from the grant's terms, and from ``force-command internal-sftp`` with options."""

from __future__ import annotations

from typing import Any

import pytest

from tests.node.test_session_plan import ACCOUNT, grant, planned
from tinyport.core.errors import AccessDenied
from tinyport.core.sftp_terms import SftpTerms
from tinyport.host.accounts import Account
from tinyport.node.session.plan import Asked
from tinyport.node.sftp import sftp
from tinyport.node.sftp.command import is_internal_sftp, options

ROOT = Account("root", 0, 0, (0,), "/root", "/bin/sh")


def words(command: str | None = None, account: Account = ACCOUNT, **terms: Any) -> list[str]:
    return options(grant(sftp=SftpTerms(**terms)), account, command)


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("internal-sftp", []),
        ("internal-sftp -R", ["--read-only"]),
        ("internal-sftp  -e\t-l INFO -f AUTH -R", ["--read-only"]),
        ("internal-sftp -d /in -u 0027", ["--folder", "/in", "--umask", "0027"]),
        ("internal-sftp -d~/up", ["--folder", "/home/pi/up"]),
        ("internal-sftp -d %d/%u/%U/%%d", ["--folder", "/home/pi/pi/1000/%d"]),
        ("internal-sftp -P remove,rmdir -p stat", ["--deny", "remove,rmdir", "--allow", "stat"]),
    ],
)
def test_what_sshd_understands(command: str, wanted: list[str]) -> None:
    assert is_internal_sftp(command)
    assert words(command) == wanted
    # And our server understands it, too.
    sftp.Options(words(command))


@pytest.mark.parametrize(
    "command",
    [
        "internal-sftp -x",
        "internal-sftp -d",
        "internal-sftp /srv",
        "internal-sftp -u 9",
        "internal-sftp -u 1000",
        "internal-sftp -u -1",
        "internal-sftp -P everything",
        "internal-sftp -h",
    ],
)
def test_what_cannot_be_obeyed_is_refused(command: str) -> None:
    with pytest.raises(AccessDenied, match="cannot be obeyed"):
        words(command)


@pytest.mark.parametrize("command", ["", "internal-sftpd", "/bin/internal-sftp", "sh -c internal-sftp"])
def test_other_commands(command: str) -> None:
    assert not is_internal_sftp(command)


def test_the_grants_terms() -> None:
    assert words(read_only=True, root="/srv/x") == ["--root", "/srv/x", "--read-only"]
    # A force-command makes it tighter and nothing wider.
    assert words("internal-sftp -u 077", read_only=True) == ["--read-only", "--umask", "077"]
    with pytest.raises(AccessDenied, match="beside each other"):
        words(refusal="beside each other")
    with pytest.raises(AccessDenied, match="root cannot be confined"):
        words(account=ROOT, root="/srv/x")


def test_a_plan_has_them() -> None:
    confined = grant(sftp=SftpTerms(read_only=True, root="/srv/x"), permits=frozenset(("sftp",)))
    made = planned(Asked("subsystem", subsystem="sftp"), confined)
    assert made.argv[-3:] == (b"--root", b"/srv/x", b"--read-only")
    for asked in (Asked("exec", command=b"scp -f x"), Asked("shell")):
        with pytest.raises(AccessDenied):
            planned(asked, confined)
    forced = grant(force_command="internal-sftp -R")
    assert planned(Asked("exec", command=b"sh"), forced).argv[-1] == b"--read-only"
