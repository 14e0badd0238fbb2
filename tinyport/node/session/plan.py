"""What a session runs, and with which environment: decided here, from a Grant and what the client asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from tinyport.core.access import Grant
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.host.accounts import Account
from tinyport.node.session import scp_fallback
from tinyport.node.session.bounds import MAX_COMMAND, MAX_ENVIRONMENT, MAX_VALUE, client_variable_allowed
from tinyport.node.sftp import command as sftp_command

KINDS = frozenset(("shell", "exec", "subsystem"))
# What sshd's login does without PAM and login.defs.
USER_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Terminal:
    """A pty-req (RFC 4254 section 6.2). Sizes in characters and pixels; modes by opcode (section 8)."""

    term: str
    columns: int
    rows: int
    width: int
    height: int
    modes: Mapping[int, int]


@dataclass(frozen=True)
class Asked:
    """What the client asked for, as the worker tells it. ``command`` is bytes: file names need not be UTF-8."""

    kind: str
    command: bytes = b""
    subsystem: str = ""
    terminal: Terminal | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    #: SSH_AUTH_SOCK and DISPLAY, which the keeper itself has made for this session
    forwarded: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """Where the connection comes from and which node it reached: for the environment."""

    peer: tuple[str, int]
    local: tuple[str, int]
    node: str
    cluster: str = ""
    #: the session's name in the audit log
    session: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything that starting needs. ``drops_itself``: the program is ours and becomes ``account`` on its own."""

    account: Account
    path: str
    argv: tuple[bytes, ...]
    environment: Mapping[bytes, bytes]
    terminal: Terminal | None
    #: what is written into the audit log: "shell", "exec" or "sftp"
    kind: str
    command: str
    drops_itself: bool = False


def _value_allowed(value: str) -> bool:
    # Not every text that JSON can carry is one that an environment can.
    return len(value) <= MAX_VALUE and "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def plan(
    grant: Grant, account: Account, asked: Asked, origin: Origin, *, sftp: tuple[str, ...], inherited: Mapping[str, str]
) -> Plan:
    """The plan; AccessDenied when the grant does not permit it, PeerError when the request makes no sense.

    ``sftp``: the command line of our SFTP server. ``inherited``: TZ and the like of the machine, below all others.
    """
    if account.name != grant.login:
        raise AccessDenied("access denied", detail=f"account {account.name} is not the grant's {grant.login}")
    if asked.kind not in KINDS:
        raise PeerError(f"no such kind of session: {asked.kind!r:.20}")
    if len(asked.command) > MAX_COMMAND or b"\0" in asked.command:
        raise AccessDenied("the command is too long, or has a NUL in it", code="command")
    if asked.terminal is not None and "pty" not in grant.permits:
        raise AccessDenied("your roles do not permit terminals on this node", code="denied")
    environment = _environment(grant, account, asked, origin, inherited)
    original = asked.command if asked.kind == "exec" else asked.subsystem.encode("utf-8", "replace")
    forced = grant.force_command
    if forced is not None:
        # sshd: SSH_ORIGINAL_COMMAND is set only when there was one.
        if original:
            environment[b"SSH_ORIGINAL_COMMAND"] = original
        if sftp_command.is_internal_sftp(forced):
            return _sftp(grant, account, environment, sftp)
        return _command(grant, account, forced.encode(), environment, asked.terminal)
    if asked.kind == "subsystem":
        if asked.subsystem != "sftp":
            raise AccessDenied(f"there is no subsystem {asked.subsystem!r:.40} on this node", code="subsystem")
        return _sftp(grant, account, environment, sftp)
    if asked.kind == "exec":
        return _command(grant, account, asked.command, environment, asked.terminal)
    if asked.terminal is None and "exec" not in grant.permits:
        # Without a terminal it runs what comes on its standard input: as good as a command.
        raise AccessDenied("your roles do not permit commands on this node", code="denied")
    name = account.shell.rpartition("/")[2]
    return Plan(
        account=account,
        path=account.shell,
        # login(1) and sshd: a "-" before its name makes it a login shell.
        argv=(os.fsencode(f"-{name}"),),
        environment=environment,
        terminal=asked.terminal,
        kind="shell",
        command="",
    )


def _command(
    grant: Grant, account: Account, command: bytes, environment: dict[bytes, bytes], terminal: Terminal | None
) -> Plan:
    if "exec" not in grant.permits:
        raise AccessDenied("your roles do not permit commands on this node", code="denied")
    name = account.shell.rpartition("/")[2]
    path = os.fsdecode(environment[b"PATH"])
    return Plan(
        account=account,
        path=account.shell,
        argv=(os.fsencode(name), b"-c", scp_fallback.with_scp(command, account.shell, path)),
        environment=environment,
        terminal=terminal,
        kind="exec",
        command=command.decode("utf-8", "backslashreplace"),
    )


def _sftp(grant: Grant, account: Account, environment: dict[bytes, bytes], sftp: tuple[str, ...]) -> Plan:
    if "sftp" not in grant.permits:
        raise AccessDenied("your roles do not permit file transfer on this node", code="denied")
    words = [*sftp, *sftp_command.options(grant, account, grant.force_command)]
    return Plan(
        account=account,
        path=sftp[0],
        argv=tuple(os.fsencode(word) for word in words),
        environment=environment,
        terminal=None,
        kind="sftp",
        command="",
        drops_itself=True,
    )


def _environment(
    grant: Grant, account: Account, asked: Asked, origin: Origin, inherited: Mapping[str, str]
) -> dict[bytes, bytes]:
    (peer, peer_port), (local, local_port) = origin.peer, origin.local
    values = {
        name: value
        for name, value in list(asked.environment.items())[:MAX_ENVIRONMENT]
        if client_variable_allowed(name) and _value_allowed(value)
    }
    made = {
        **inherited,
        **values,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": account.shell,
        "PATH": inherited.get("PATH") or (ROOT_PATH if account.uid == 0 else USER_PATH),
        "MAIL": f"/var/mail/{account.name}",
        "SSH_CLIENT": f"{peer} {peer_port} {local_port}",
        "SSH_CONNECTION": f"{peer} {peer_port} {local} {local_port}",
        "TINYPORT_USER": grant.user,
        "TINYPORT_NODE": origin.node,
        "TINYPORT_CLUSTER": origin.cluster,
        "TINYPORT_SESSION": origin.session,
        **asked.forwarded,
    }
    if asked.terminal is not None:
        made["TERM"] = asked.terminal.term or "dumb"
    return {os.fsencode(name): value.encode("utf-8", "surrogateescape") for name, value in made.items()}
