"""``tinyport install``: the service of this machine, as systemd or procd has it."""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tinyport.admin import config_file, replace_sshd, units
from tinyport.core.config import Config, General
from tinyport.core.errors import OperatorError
from tinyport.host.files import write_public

UNIT_FOLDER = Path("/etc/systemd/system")
SYSTEMD_RUNS = Path("/run/systemd/system")
#: where packages have their units
PACKAGED = Path("/usr/lib/systemd/system")
#: OpenWrt's
PROCD, INIT_SCRIPT = Path("/sbin/procd"), Path("/etc/init.d/tinyport")
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+")

Execute = Callable[[Sequence[str]], None]


def run(args: argparse.Namespace) -> int:
    """Print the units, or write, enable and start them. OperatorError when this machine is not one for that."""
    path = config_file.chosen_path(args.config)
    if path is None:
        raise OperatorError(
            f"there is no {config_file.DEFAULT} to run a service from", hint="tinyport configure -o FILE writes one"
        )
    config = config_file.load(path)
    roles, program = _roles(config, shown=args.show), _safe(_program())
    found = units.units(roles, program, _safe(str(path.absolute())))
    if args.show:
        for name, text in found.items():
            print(f"# {UNIT_FOLDER / name}\n{text}")
        return 0
    if PROCD.exists():
        return procd(_execute)
    if not SYSTEMD_RUNS.is_dir():
        raise OperatorError("this machine does not run systemd", hint='"tinyport install --print" shows the units')
    if os.geteuid() != 0:
        raise OperatorError("installing a service takes root", hint="try with sudo")
    if args.replace_sshd:
        return _replace_sshd(found, path, program, now=args.now)
    install(found, path, UNIT_FOLDER, _execute)
    print(f"enabled and started: {', '.join(found)}; see systemctl status {next(iter(found))}")
    return 0


def _replace_sshd(found: dict[str, str], path: Path, program: str, *, now: bool) -> int:
    if units.NODE not in found:
        raise OperatorError("this configuration has no node that could replace sshd", hint="enable [node]")
    if replace_sshd.replaced(_execute, replace_sshd.ask):
        print(f"sshd does not run, and {units.SOCKET} has the node listen: there is nothing to replace")
        return 0
    if now:
        place = replace_sshd.listening()
        stopped = replace_sshd.take_over(place, UNIT_FOLDER, _execute, replace_sshd.ask)
        said = ", ".join(stopped) or "nothing, sshd did not run"
        print(f"the node listens on {', '.join(place.streams)}; stopped: {said}")
        return 0
    if not replace_sshd.in_a_session(os.getpid()):
        install(found, path, UNIT_FOLDER, _execute)
        print("the node runs beside sshd, which stays until a login through tinyport has worked.")
        print(f"log in through tinyport, and there: sudo {program} install --replace-sshd")
        return 0
    words = [program, "install", "-c", str(path.absolute()), "--replace-sshd", "--now"]
    back = replace_sshd.way_back(replace_sshd.active(replace_sshd.ask))
    try:
        _execute(replace_sshd.in_a_unit(words))
    except OperatorError:
        raise OperatorError("sshd was not replaced", hint="journalctl -u tinyport-replace-sshd says why") from None
    print("sshd is stopped and disabled, and the node has its ports; openssh-server may be removed")
    print(f"the way back, from a session of the node: {back}")
    return 0


def install(found: dict[str, str], configuration: Path, folder: Path, execute: Execute) -> None:
    """Write units and start them. ``execute`` runs a command and raises OperatorError when it fails."""
    account = _account(units.ACCOUNT, execute)
    if units.NODE in found:
        _account(units.WORKER_ACCOUNT, execute)
    if units.SERVER in found:
        # The server is not root, and the file may hold secrets: its group may read it, others may not.
        gid = account.pw_gid if account is not None else pwd.getpwnam(units.ACCOUNT).pw_gid
        os.chown(configuration, -1, gid)
        os.chmod(configuration, 0o640)
    for name, text in found.items():
        packaged = PACKAGED / name
        # A copy in /etc would hide what later versions of the package bring.
        if not packaged.exists() or packaged.read_text() != text:
            write_public(folder / name, text.encode())
    execute(["systemctl", "daemon-reload"])
    # It may wait for its cluster; whoever installs it need not.
    execute(["systemctl", "enable", *found])
    execute(["systemctl", "restart", "--no-block", *found])


def procd(execute: Execute) -> int:
    """On OpenWrt the package has brought the service; it is disabled until somebody says otherwise."""
    if not INIT_SCRIPT.exists():
        raise OperatorError(f"there is no {INIT_SCRIPT}", hint="install the tinyport package")
    execute(["uci", "set", "tinyport.node.enabled=1"])
    execute(["uci", "commit", "tinyport"])
    execute([str(INIT_SCRIPT), "enable"])
    execute([str(INIT_SCRIPT), "restart"])
    print(f"enabled and started; see {INIT_SCRIPT} status")
    return 0


def _account(name: str, execute: Execute) -> pwd.struct_passwd | None:
    """A system account; None when it was made just now."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        shell = shutil.which("nologin") or "/usr/sbin/nologin"
        execute(["useradd", "--system", "--home-dir", "/nonexistent", "--shell", shell, name])
        return None


def _roles(config: Config, *, shown: bool) -> tuple[str, ...]:
    """``shown``: units are printed to be adapted, and need not fit."""
    if not config.roles:
        raise OperatorError("the configuration enables no role", hint="enable one, then run this again")
    if not shown and config.tinyport.data_dir != General.data_dir and config.roles != ("node",):
        raise OperatorError(
            f"the server's unit keeps its data in {General.data_dir}, the configuration in {config.tinyport.data_dir}",
            hint='take data_dir out, or adapt what "tinyport install --print" shows',
        )
    return config.roles


def _program() -> str:
    """How this program was called, as an absolute path."""
    found = shutil.which(sys.argv[0])
    if found is None or Path(found).name != "tinyport":
        found = shutil.which("tinyport")
    if found is None:
        raise OperatorError("cannot tell where the tinyport program is", hint="run it by its full path")
    return os.path.abspath(found)


def _safe(path: str) -> str:
    # systemd has its own quoting, specifiers and variables; we need none of them.
    if not _SAFE.issuperset(path):
        raise OperatorError(f"{path!r} has characters that a unit cannot name simply", hint="move it somewhere plainer")
    return path


def _execute(words: Sequence[str]) -> None:
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise OperatorError(f"{words[0]} is not on this machine") from None
    if done.returncode:
        raise OperatorError(f"{' '.join(words)} failed: {' '.join(done.stderr.split())[-500:]}")
