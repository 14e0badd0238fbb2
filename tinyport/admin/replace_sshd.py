"""``tinyport install --replace-sshd``: the node takes sshd's port, once a login through tinyport has worked.

Run from anywhere else it installs the node beside sshd and says what to do next. Run in a session of this node, that
session is the proof: sshd is stopped, its port is the node's, and if the node then does not answer there, sshd is
started again. Nothing is uninstalled.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tinyport.admin import units
from tinyport.admin.sshd_addresses import Listening, asked_at, where
from tinyport.core.errors import OperatorError
from tinyport.host.files import write_public

#: what sshd is called by distributions; the socket first, or it would start its service again. Of each kind one name
#: is the unit's: on Debian sshd.service is an alias of ssh.service, and systemd will not disable an alias
SSHD = (("ssh.socket", "sshd.socket"), ("ssh.service", "sshd.service"))
KEEPER = "tinyport-keeper"
BANNER = b"SSH-2.0-tinyport"
#: first in the socket's unit: what was enabled before. The package reads it when it is removed
INSTEAD_OF = "# In place of: "
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


def replaced(execute: Execute, ask: Ask) -> bool:
    """Has the node sshd's place already? What a reboot has kept from being disabled then is."""
    if active(ask) or not _is("active", units.SOCKET, ask):
        return False
    enabled = _units("enabled", ask)
    if enabled:
        execute(["systemctl", "disable", *enabled])
    return True


def listening() -> Listening:
    """Where the node is to listen. OperatorError when it could not listen like that."""
    return where([*active(ask), *([units.SOCKET] if _is("active", units.SOCKET, ask) else [])], read)


def active(ask: Ask) -> list[str]:
    """Sshd's units that run, or wait for connections."""
    return _units("active", ask)


def take_over(
    place: Listening,
    folder: Path,
    execute: Execute,
    ask: Ask,
    answers: Callable[[str], bool] | None = None,
) -> list[str]:
    """Stop sshd and give its ports to the node. Returns the units of sshd that were stopped or disabled.

    ``execute`` runs a command and raises OperatorError when it fails. ``folder``: where units are. OperatorError when
    the node does not answer on the ports; sshd is back then. A machine that goes down in between boots with sshd, or
    with both enabled, of which one gets the port: sshd is disabled last.
    """
    stopped, enabled = active(ask), _units("enabled", ask)
    running, starting = (
        [*names, units.SOCKET] if _is(state, units.SOCKET, ask) else names
        for state, names in (("active", stopped), ("enabled", enabled))
    )
    path = folder / units.SOCKET
    before = path.read_bytes() if path.exists() else None
    text = units.socket_unit(place.streams, only_ipv6=place.only_ipv6)
    write_public(path, f"{INSTEAD_OF}{' '.join(enabled)}\n{text}".encode())
    try:
        execute(["systemctl", "daemon-reload"])
        if stopped:
            # Sessions of sshd's own go on: it has left them to themselves.
            execute(["systemctl", "stop", *stopped])
        _restart_with_socket(execute)
        for stream in place.streams:
            if not (answers or node_answers)(stream):
                raise OperatorError(f"the node does not answer on {stream}", hint="see journalctl -u tinyport-node")
        execute(["systemctl", "enable", units.SOCKET])
        os.sync()
        if enabled:
            execute(["systemctl", "disable", *enabled])
    except OperatorError as error:
        _back(path, before, running, starting, execute)
        raise OperatorError(f"{error.message}; sshd is back", hint=error.hint) from None
    return list(dict.fromkeys([*stopped, *enabled]))


def _units(state: str, ask: Ask) -> list[str]:
    """Sshd's units of which systemd says so."""
    found = (next((name for name in names if _is(state, name, ask)), None) for names in SSHD)
    return [name for name in found if name is not None]


def _is(state: str, unit: str, ask: Ask) -> bool:
    return ask(["systemctl", f"is-{state}", "--quiet", unit])


def _restart_with_socket(execute: Execute) -> None:
    # A socket unit cannot be started under a service that runs. Sessions, ours too, stay with their keeper.
    execute(["systemctl", "stop", units.NODE])
    execute(["systemctl", "restart", units.SOCKET])
    execute(["systemctl", "start", units.NODE])


def _back(path: Path, before: bytes | None, active: list[str], enabled: list[str], execute: Execute) -> None:
    """As it was. Each step is tried whatever the one before it did: the last thing we want is a machine without SSH.
    OperatorError when sshd does not come back.
    """
    for words in (["disable", units.SOCKET], ["stop", units.NODE, units.SOCKET]):
        with contextlib.suppress(OperatorError):
            # What did not come as far as that is no loss; who else has the port now is told below.
            execute(["systemctl", *words])
    if before is None:
        path.unlink(missing_ok=True)
    else:
        write_public(path, before)
    steps = [["systemctl", "daemon-reload"]]
    # Enabled before it is started: systemd (257) forgets of a service that runs that it does, when an alias comes back.
    steps += [["systemctl", "enable", unit] for unit in enabled]
    steps += [["systemctl", "start", unit] for unit in active]
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


def node_answers(stream: str, limit: float = ANSWER_LIMIT) -> bool:
    """Does a node speak SSH there? ``stream`` is what a socket unit has."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            with socket.create_connection(asked_at(stream), 5) as line:
                line.settimeout(limit)
                # A node starts its worker for somebody who speaks first.
                line.sendall(b"SSH-2.0-tinyport_install\r\n")
                banner = line.recv(255)
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


def way_back(stopped: Sequence[str]) -> str:
    """What a person types to have sshd again."""
    back = f"systemctl disable --now {units.SOCKET} && systemctl restart {units.NODE.removesuffix('.service')}"
    # Where systemd holds sshd's port, its service is started by that.
    names = [name for name in stopped if name.endswith(".socket")] or [
        name.removesuffix(".service") for name in stopped
    ]
    return f"{back} && systemctl enable --now {' '.join(names)}" if names else back


def read(words: Sequence[str]) -> str:
    """What a command prints; "" when it fails or is not there."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return "" if done.returncode else done.stdout


def ask(words: Sequence[str]) -> bool:
    """The real ``Ask``."""
    try:
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
