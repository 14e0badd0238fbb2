"""Accounts of this machine: who a login is, and whether it may be used."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass

from tinyport.core.errors import AccessDenied, Unavailable
from tinyport.core.names import printable

DEFAULT_SHELL = "/bin/sh"
NOLOGIN = "/etc/nologin"
SHADOW = "/etc/shadow"
_DAY = 86400


@dataclass(frozen=True)
class Account:
    """One account, as looked up once: everything that becoming it needs. ``groups`` has the primary one, too."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


def lookup(login: str) -> Account:
    """The account of that name; AccessDenied when there is none. May ask the network (NSS)."""
    try:
        entry = pwd.getpwnam(login)
    except (KeyError, ValueError):
        message = f"there is no account {printable(login, 40)} on this machine"
        raise AccessDenied(message, code="account") from None
    return Account(
        name=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        groups=tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)),
        home=entry.pw_dir or "/",
        # getpwent(3): an empty field means the Bourne shell.
        shell=entry.pw_shell or DEFAULT_SHELL,
    )


def check_usable(account: Account, now: float) -> None:
    """AccessDenied when nobody may log in as it: its shell is missing, it expired, or logins are off. Unavailable when
    that cannot be found out.

    ``now``: Unix seconds. The password is not asked for: a locked password forbids passwords, not certificates.
    """
    name = printable(account.name, 40)
    if account.uid != 0 and os.path.exists(NOLOGIN):
        raise AccessDenied(f"logins are turned off on this machine{_nologin_text()}", code="account")
    try:
        mode = os.stat(account.shell).st_mode
    except OSError:
        mode = 0
    if not stat.S_ISREG(mode) or not mode & 0o111:
        shell = printable(account.shell, 60)
        raise AccessDenied(f"the account {name} has no usable shell", detail=f"shell {shell}", code="account")
    expires = _expiry_day(account.name)
    if expires is not None and now >= expires * _DAY:
        raise AccessDenied(f"the account {name} has expired", detail=f"on day {expires} of 1970", code="account")


def _nologin_text() -> str:
    try:
        with open(NOLOGIN, encoding="utf-8", errors="replace") as file:
            text = file.read(400).strip()
    except OSError:
        return ""
    return f": {printable(text, 200)}" if text else ""


def _expiry_day(login: str) -> int | None:
    """shadow(5), eighth field: days since 1970. None without one, or when we may not read the file."""
    name = os.fsencode(login)
    try:
        # As bytes, and all at once: for each command that somebody starts.
        with open(SHADOW, "rb", buffering=0) as file:
            lines = file.readall().splitlines()
    except (FileNotFoundError, PermissionError):
        return None
    except OSError as error:
        # No descriptor left, a bad disk: whoever has expired must not profit by it.
        message = f"this machine cannot find out whether the account {printable(login, 40)} may be used"
        raise Unavailable(message, detail=str(error), code="account") from None
    for line in lines:
        fields = line.split(b":")
        if fields[0] == name and len(fields) > 7 and fields[7].isdigit():
            return int(fields[7])
    return None


def check_ours(account: Account) -> None:
    """For a node without privileges: AccessDenied unless the account is the one that we run as."""
    if account.uid != os.geteuid():
        me = own_name()
        raise AccessDenied(f"this node runs as {me} and can serve only {me}", code="account")


def own_name() -> str:
    """The name of the account that this process runs as, or its number."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"
