"""``tinyport install --replace-sshd``: the node takes sshd's port, once a login through tinyport has worked.

Run from anywhere else it installs the node beside sshd and says what to do next. Run in a session of this node, that
session is the proof: sshd is stopped, its port is the node's, and if the node then does not answer there, sshd is
started again. Nothing is uninstalled.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tinyport.admin import units
from tinyport.core.errors import OperatorError
from tinyport.host.files import write_public

#: what sshd is called by distributions; the socket first, or it would start its service again. Of each kind one name
#: is the unit's: on Debian sshd.service is an alias of ssh.service, and systemd will not disable an alias
SSHD = (("ssh.socket", "sshd.socket"), ("ssh.service", "sshd.service"))
KEEPER = "tinyport-keeper"
BANNER = b"SSH-2.0-tinyport"
#: A node that starts on a slow board under load.
ANSWER_LIMIT = 60.0
_MAX_ANCESTORS = 64

Execute = Callable[[Sequence[str]], None]
#: does a command end with status 0?
Ask = Callable[[Sequence[str]], bool]


def in_a_session(pid: int, proc: Path = Path("/proc")) -> bool:
    """Does the process belong to a session of a node that runs as root? Environment variables would not do: sudo takes
    them away, and anybody can set them.
    """
    for _ in range(_MAX_ANCESTORS):
        try:
            found = (proc / str(pid) / "comm").read_text().strip()
            status = (proc / str(pid) / "status").read_text()
        except OSError:
            return False
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if found == KEEPER and fields.get("Uid", "").split()[:1] == ["0"]:
            return True
        pid = int(fields.get("PPid", "0"))
        if pid <= 1:
            return False
    return False


def sshd_ports() -> list[int]:
    """Where sshd listens, as it says itself; 22 when it does not say."""
    try:
        done = subprocess.run(["sshd", "-T"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return [22]
    return ports_of(done.stdout)


def ports_of(shown: str) -> list[int]:
    """The ports in what ``sshd -T`` prints."""
    lines = [line.split() for line in shown.splitlines()]
    found = sorted({int(words[1]) for words in lines if words[:1] == ["port"] and words[1].isdigit()})
    return found or [22]


def take_over(
    ports: Sequence[int],
    folder: Path,
    execute: Execute,
    ask: Ask,
    answers: Callable[[int], bool] | None = None,
) -> list[str]:
    """Stop sshd and give its ports to the node. Returns the units of sshd that were stopped.

    ``execute`` runs a command and raises OperatorError when it fails. ``folder``: where units are. OperatorError when
    the node does not answer on the ports; sshd is back then.
    """
    stopped = _units("is-active", ask)
    enabled = _units("is-enabled", ask)
    path = folder / units.SOCKET
    before = path.read_bytes() if path.exists() else None
    write_public(path, units.socket_unit(ports).encode())
    try:
        execute(["systemctl", "daemon-reload"])
        if stopped or enabled:
            # Sessions of sshd's own go on: it has left them to themselves.
            execute(["systemctl", "disable", "--now", *dict.fromkeys([*stopped, *enabled])])
        _restart_with_socket(execute)
        for port in ports:
            if not (answers or node_answers)(port):
                raise OperatorError(f"the node does not answer on port {port}", hint="see journalctl -u tinyport-node")
        execute(["systemctl", "enable", units.SOCKET])
    except OperatorError as error:
        _back(path, before, stopped, enabled, execute)
        raise OperatorError(f"{error.message}; sshd is back", hint=error.hint) from None
    return stopped


def _units(verb: str, ask: Ask) -> list[str]:
    """Sshd's units of which systemd says so."""
    found = (next((name for name in names if ask(["systemctl", verb, "--quiet", name])), None) for names in SSHD)
    return [name for name in found if name is not None]


def _restart_with_socket(execute: Execute) -> None:
    # A socket unit cannot be started under a service that runs. Sessions, ours too, stay with their keeper.
    execute(["systemctl", "stop", units.NODE])
    execute(["systemctl", "restart", units.SOCKET])
    execute(["systemctl", "start", units.NODE])


def _back(path: Path, before: bytes | None, stopped: list[str], enabled: list[str], execute: Execute) -> None:
    """As it was. Each step is tried whatever the one before it did: the last thing we want is a machine without SSH.
    OperatorError when sshd does not come back.
    """
    steps = [["systemctl", "stop", units.NODE, units.SOCKET], ["systemctl", "daemon-reload"]]
    # Enabled before it is started: systemd (257) forgets of a service that runs that it does, when an alias comes back.
    steps += [["systemctl", "enable", unit] for unit in enabled]
    steps += [["systemctl", "start", unit] for unit in stopped]
    if before is None:
        path.unlink(missing_ok=True)
    else:
        write_public(path, before)
    failed = []
    for words in steps:
        try:
            execute(words)
        except OperatorError as error:
            failed.append(error.message)
    with contextlib.suppress(OperatorError):
        # It may be what did not start in the first place, which the caller is about to say.
        execute(["systemctl", "start", units.NODE])
    if failed:
        raise OperatorError(f"sshd could not be started again: {'; '.join(failed)}", hint="start it by hand, now")


def node_answers(port: int, limit: float = ANSWER_LIMIT) -> bool:
    """Does a node speak SSH on this machine's port?"""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as stream:
                stream.settimeout(limit)
                # A node starts its worker for somebody who speaks first.
                stream.sendall(b"SSH-2.0-tinyport_install\r\n")
                banner = stream.recv(255)
        except OSError:
            banner = b""
        if banner:
            return banner.startswith(BANNER)
        # Nobody listens yet, or who took the connection left without a word: a node that is still starting.
        time.sleep(0.2)
    return False


def in_a_unit(words: Sequence[str]) -> list[str]:
    """A command as a unit of its own: it goes on when the session ends in the middle of it."""
    return ["systemd-run", "--quiet", "--wait", "--collect", "--unit=tinyport-replace-sshd", *words]


def ask(words: Sequence[str]) -> bool:
    """The real ``Ask``."""
    try:
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
