"""Is this machine going down, or is only a service being restarted? Light: the monitor loads it."""

from __future__ import annotations

import os
import select
import signal

LIMIT = 1.0
_SYSTEMD = "/run/systemd/system"


def goes_down(command: tuple[str, ...] = ("systemctl", "is-system-running"), systemd: str = _SYSTEMD) -> bool:
    """Does systemd say that it is stopping? False where there is no systemd, or when it does not answer in a second."""
    if not os.path.isdir(systemd):
        return False
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawnp(
            command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)], setsigmask=[]
        )
    except OSError:
        os.close(reading)
        os.close(writing)
        return False
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], LIMIT)
        said = os.read(reading, 64) if ready else b""
    finally:
        os.close(reading)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        # Whoever waits for all children was faster.
        return said.strip() == b"stopping"
    return said.strip() == b"stopping"
