#!/usr/bin/python3
"""In place of systemctl in a root without systemd: what maintainer scripts ask of it, done as our units say.

A service's process is started with its notification socket and the sockets of its socket unit, is stopped by SIGTERM to
itself alone (KillMode=process), and its unit's conditions are heeded. Unlike systemd's, sockets are not held while
their service is away. Everything asked is appended to /run/stand-in/asked.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

STATE = Path("/run/stand-in")
FOLDERS = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"))
LIMIT = 60.0


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit, by key; exit status 5 when there is no such unit."""
    for folder in FOLDERS:
        path = folder / name
        if path.exists():
            settings: dict[str, list[str]] = {}
            for line in path.read_text().splitlines():
                key, equals, value = line.partition("=")
                if equals and not line.startswith("#"):
                    settings.setdefault(key, []).append(value)
            return settings
    raise SystemExit(5)


def pid_of(name: str) -> int:
    """The main process of a service that runs, else 0."""
    try:
        pid = int((STATE / f"{name}.pid").read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return 0
    return 0 if state == "Z" else pid


#: descriptors as systemd passes them: from 3 on, for the process that LISTEN_PID names
PASS = """
import os, sys
end = sys.argv.index("--")
for number, descriptor in enumerate(sys.argv[1:end], 3):
    os.dup2(int(descriptor), number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(end - 1))
os.execv(sys.argv[end + 1], sys.argv[end + 1:])
"""


def sockets(service: str) -> list[socket.socket]:
    """What the service's socket unit listens on, if it is started."""
    name = f"{service.removesuffix('.service')}.socket"
    if not (STATE / f"{name}.on").exists():
        return []
    made = []
    for port in unit(name)["ListenStream"]:
        made.append(socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True))
    return made


def command(settings: dict[str, list[str]]) -> list[str]:
    """ExecStart= without variables, which are empty here."""
    return [word for word in shlex.split(settings["ExecStart"][0]) if not word.startswith("$")]


def start(name: str) -> int:
    settings = unit(name)
    if name.endswith(".socket"):
        (STATE / f"{name}.on").touch()
        return 0
    if pid_of(name):
        return 0
    for folder in " ".join(settings.get("RuntimeDirectory", ())).split():
        os.makedirs(f"/run/{folder}", exist_ok=True)
    for path in settings.get("ConditionPathExists", ()):
        if os.path.exists(path.lstrip("!")) == path.startswith("!"):
            return 0
    for folder in " ".join(settings.get("StateDirectory", ())).split():
        os.makedirs(f"/var/lib/{folder}", exist_ok=True)
        os.chown(f"/var/lib/{folder}", *_ids(settings))
    address = STATE / f"{name}.notify"
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, open(STATE / f"{name}.log", "ab") as log:
        listener.bind(str(address))
        address.chmod(0o777)
        listener.settimeout(LIMIT)
        uid, gid = _ids(settings)
        passed = sockets(name)
        words = command(settings)
        if passed:
            numbers = [str(stream.fileno()) for stream in passed]
            words = [sys.executable, "-c", PASS, *numbers, "--", *words]
        process = subprocess.Popen(
            words,
            pass_fds=[stream.fileno() for stream in passed],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            user=uid,
            group=gid,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET": str(address)},
        )
        (STATE / f"{name}.pid").write_text(str(process.pid))
        try:
            while b"READY=1" not in listener.recv(4096).split(b"\n"):
                pass
        except TimeoutError:
            raise SystemExit(f"{name} did not become ready:\n{(STATE / f'{name}.log').read_text()}") from None
    return 0


def _ids(settings: dict[str, list[str]]) -> tuple[int, int]:
    import pwd

    user = settings.get("User", ["root"])[0]
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def stop(name: str) -> int:
    (STATE / f"{name}.on").unlink(missing_ok=True)
    pid = pid_of(name)
    if pid:
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + LIMIT
        while pid_of(name) and time.monotonic() < end:
            time.sleep(0.05)
    return 0 if not pid_of(name) else 1


def enable(name: str) -> int:
    """What ``preset`` does where nobody says otherwise, too."""
    for target in " ".join(unit(name).get("WantedBy", ())).split():
        link = FOLDERS[0] / f"{target}.wants" / name
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(FOLDERS[1] / name)
    return 0


def disable(name: str) -> int:
    for link in FOLDERS[0].glob(f"*.wants/{name}"):
        link.unlink()
    return 0


def is_enabled(name: str) -> int:
    unit(name)
    return 0 if any(FOLDERS[0].glob(f"*.wants/{name}")) else 1


def main(words: Sequence[str]) -> int:
    STATE.mkdir(exist_ok=True)
    with open(STATE / "asked", "a") as asked:
        asked.write(shlex.join(words) + "\n")
    verb, *names = [word for word in words if not word.startswith("-")] or [""]
    names = [name if "." in name else f"{name}.service" for name in names]
    if verb == "is-enabled":
        status = max([is_enabled(name) for name in names], default=1)
        print("disabled" if status else "enabled")
        return status
    if verb == "is-active":
        return 0 if any(pid_of(name) or (STATE / f"{name}.on").exists() for name in names) else 3
    if verb in ("enable", "preset"):
        return max([enable(name) for name in names], default=0)
    if verb == "disable":
        return max([disable(name) or ("--now" in words and stop(name)) for name in names], default=0)
    if verb == "start":
        return max([start(name) for name in names], default=0)
    if verb == "stop":
        return max([stop(name) for name in names], default=0)
    if verb in ("restart", "try-restart"):
        return max([stop(name) or start(name) for name in names], default=0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
