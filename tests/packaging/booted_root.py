"""A Debian root that its own systemd has booted: process 1 of namespaces of its own, in a cgroup of its own.

It has this machine's network, so that a cluster on loopback is its cluster. What it mounts and starts ends with it.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from tests.conftest import IN_CI, need_program
from tests.packaging.debian_root import SUITE, Root, bootstrap
from tests.scenarios.cluster import LIMIT, wait_for

#: what a Raspberry Pi OS image has, too, and ours need: PAM's scopes for sessions come from libpam-systemd
PACKAGES = ("systemd", "systemd-sysv", "dbus", "libpam-systemd", "init-system-helpers", "procps", "sudo")
#: what looks for updates by the network, and what is the kernel's, which is not this root's
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "systemd-modules-load.service")

#: systemd 257 wants the unified hierarchy; where this machine has the old ones besides, it is mounted for it alone
_GROUP = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1/sys"
mkdir -p "$1/sys/fs/cgroup"
mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
"""
_ENTER = (
    _GROUP
    + """
mkdir "$1/sys/fs/cgroup/$2"
echo $$ >"$1/sys/fs/cgroup/$2/cgroup.procs"
umount "$1/sys/fs/cgroup"
root=$1 boot=$3
shift 3
exec unshare --cgroup --pid --ipc --uts --mount --fork --kill-child sh -c "$boot" sh "$root" "$@"
"""
)
_LEAVE = (
    _GROUP
    + """
cd "$1/sys/fs/cgroup"
echo 1 >"$2/cgroup.kill"
for _ in $(seq 100); do
    find "$2" -depth -type d -exec rmdir {} + 2>/dev/null && exit
    sleep 0.1
done
"""
)
_BOOT = """
set -e
root=$1
shift
mount --bind "$root" "$root"
cd "$root"
mount -t tmpfs tmpfs sys
mkdir -p sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t proc proc proc
# The kernel's settings are everybody's.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p old
pivot_root . old
umount -l old
# As systemd does it outside of containers; credentials come by it.
mount --make-rshared /
exec env -i container=tinyport-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /usr/lib/systemd/systemd --show-status=0 --log-target=journal "$@"
"""


def make(folder: Path, include: Sequence[str], suite: str = SUITE) -> BootedRoot:
    """Make a root of this machine's architecture with these packages, to be booted."""
    words = [need_program("mmdebstrap"), "--quiet", "--variant=apt", f"--include={','.join((*PACKAGES, *include))}"]
    words += ["--aptopt=Apt::Install-Recommends false", "--dpkgopt=path-exclude=/usr/share/doc/*-doc/*"]
    # Nobody wants it back after a power failure.
    words += ["--dpkgopt=force-unsafe-io"]
    bootstrap(words, folder, suite)
    # The network of this machine, and what its programs need for it.
    shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")
    for unit in MASKED:
        (folder / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (folder / "etc/systemd/system" / unit).symlink_to("/dev/null")
    return BootedRoot(folder)


def _no_systemd(said: str) -> NoReturn:
    """This machine lets nobody boot one: a failure in CI, a visible skip on a desk."""
    if IN_CI:
        pytest.fail(f"systemd does not boot here: {said}")
    pytest.skip(f"systemd does not boot here: {said}")


_NUMBERS = itertools.count()


class BootedRoot(Root):
    """A root whose services are systemd's. Units and files that must be there at boot are written before ``start``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._group = f"tinyport-test-{os.getpid()}-{next(_NUMBERS)}"

    def start(self) -> BootedRoot:
        self._boot("--unit=multi-user.target")
        try:
            self._inside = self._first_process()
            wait_for("systemd to have started everything", lambda: self._state() in ("running", "degraded"))
            assert self._state() == "running", self.run("systemctl", "--failed", "--no-pager", check=False).stdout
        except BaseException:
            self.stop()
            raise
        return self

    def boot_once(self, *kernel: str) -> None:
        """Boot with these words on the kernel's command line, and wait until the machine has gone off by itself."""
        self._boot(*kernel)
        assert self._holder is not None
        try:
            self._holder.wait(LIMIT)
        finally:
            self.stop()

    def _boot(self, *words: str) -> None:
        # It ends with the tests, however they do.
        around = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount"]
        around += ["sh", "-c", _ENTER, "sh", str(self.folder), self._group, _BOOT]
        self._holder = subprocess.Popen([*around, *words], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def _state(self) -> str:
        return self.run("systemctl", "is-system-running", check=False).stdout.strip()

    def _first_process(self) -> int:
        """The process that is systemd, when it is that."""
        assert self._holder is not None
        pid = self._holder.pid

        def found() -> int:
            assert self._holder is not None
            if self._holder.poll() is not None:
                assert self._holder.stderr is not None
                _no_systemd(self._holder.stderr.read().decode(errors="replace"))
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
            return 0

        number: int = wait_for("systemd to be process 1", found, LIMIT)
        return number

    def words(self, *command: str) -> list[str]:
        entering = ["nsenter", f"--target={self._inside}", "--mount", "--pid", "--ipc", "--uts", "--cgroup"]
        clean = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
        return [*entering, *clean, "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", *command]

    def main_pid(self, unit: str) -> str:
        return self.run("systemctl", "show", "--property=MainPID", "--value", unit).stdout.strip()

    def log(self, unit: str) -> str:
        """What a unit has said since the machine was booted."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def is_(self, state: str, unit: str) -> bool:
        """``active`` or ``enabled``."""
        return self.run("systemctl", f"is-{state}", "--quiet", unit, check=False).returncode == 0

    def shut_down(self) -> None:
        """As a person turns it off: whoever runs is told first."""
        assert self._holder is not None
        self.run("systemctl", "--no-block", "poweroff")
        self._holder.wait(LIMIT)
        self.stop()

    def stop(self) -> None:
        super().stop()
        words = ["unshare", "--mount", "sh", "-c", _LEAVE, "sh", str(self.folder), self._group]
        subprocess.run(words, capture_output=True, check=False)
