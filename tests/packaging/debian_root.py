"""A Debian root of its own: mounts and processes end with it, by namespaces of its own. And our packages for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import IN_CI, need_program
from tests.scenarios.cluster import SLOWNESS

ROOT = Path(__file__).resolve().parents[2]
MIRROR = os.environ.get("TINYPORT_TEST_MIRROR", "http://deb.debian.org/debian")
SUITE = "trixie"
#: seconds before each try: mirrors refuse now and then, and come back
PAUSES = (0, 2, 10, 30)
#: seconds for a root, or for our packages: half a minute when nothing else runs
LIMIT = 300 * SLOWNESS

_HOLD = """
set -e
mount --make-rprivate /
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/run"
echo ready
while :; do sleep 3600; done
"""


class Root:
    """A root and the namespaces that it lives in. ``start`` before anything is run, ``stop`` at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._holder: subprocess.Popen[bytes] | None = None
        self._inside = 0

    def start(self) -> Root:
        words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _HOLD, "sh", str(self.folder)]
        self._holder = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        pid = self._holder.pid
        self._inside = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return self

    def stop(self) -> None:
        if self._holder is not None:
            # The first process of a pid namespace takes all others with it.
            self._holder.kill()
            self._holder.wait()
            for stream in (self._holder.stdout, self._holder.stderr):
                if stream is not None:
                    stream.close()
            self._holder = None

    def words(self, *command: str) -> list[str]:
        entering = ["nsenter", f"--target={self._inside}", "--mount", "--pid", "chroot", str(self.folder)]
        clean = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
        return [*entering, *clean, "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", *command]

    def run(self, *command: str, check: bool = True, limit: float = 300) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.words(*command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    def path(self, name: str) -> Path:
        return self.folder / name.lstrip("/")

    def find(self, word: str) -> list[str]:
        """Everything below the root whose name has ``word`` in it, but for what apt and dpkg keep about packages."""
        kept = ("/proc", "/dev", "/sys", "/run", "/tmp", "/var/cache", "/var/log", "/var/lib/apt", "/packages")
        words = ["find", "/", "-xdev"]
        for path in kept:
            words += ["-path", path, "-prune", "-o"]
        return self.run(*words, "-iname", f"*{word}*", "-print").stdout.split()


def bootstrap(words: Sequence[str], folder: Path, suite: str = SUITE) -> None:
    """Have mmdebstrap make ``folder``. Without a mirror: a failure in CI, a visible skip on a desk."""
    said = ""
    for pause in PAUSES:
        time.sleep(pause)
        done = subprocess.run(
            [*words, suite, str(folder), MIRROR], capture_output=True, text=True, check=False, timeout=LIMIT
        )
        if done.returncode == 0:
            return
        said = done.stderr.strip()[-1000:]
        shutil.rmtree(folder, ignore_errors=True)
        if "apt-get" not in said:  # nothing that another try would get past
            break
    if IN_CI or "apt-get update" not in said:
        pytest.fail(f"{' '.join(words)}: {said}")
    pytest.skip(f"no package lists from {MIRROR}: {said}")


#: Debian's architecture → what qemu and binfmt_misc call it
EMULATED = {"arm64": "aarch64", "armhf": "arm"}
BINFMT = Path("/proc/sys/fs/binfmt_misc")


def emulate(architecture: str) -> None:
    """Have the kernel run programs of that architecture by qemu. It stays so: registering twice is an error."""
    name = f"qemu-{EMULATED[architecture]}"
    need_program(f"{name}-static")
    if not (BINFMT / "register").exists():
        done = subprocess.run(
            ["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], capture_output=True, check=False
        )
        # Another test beside this one may have been faster.
        assert (BINFMT / "register").exists(), done.stderr
    if not (BINFMT / name).exists():
        line = Path(f"/usr/lib/binfmt.d/{name}.conf").read_text().strip()
        (BINFMT / "register").write_text(line)


def extract(folder: Path, architecture: str, include: Sequence[str], packages: Sequence[Path]) -> Root:
    """Unpack Debian's packages and ours without running a maintainer script: seconds instead of minutes."""
    words = [need_program("mmdebstrap"), "--quiet", "--variant=extract", f"--arch={architecture}"]
    words += [f"--include={','.join(include)}", "--aptopt=Apt::Install-Recommends false"]
    bootstrap(words, folder)
    for package in packages:
        subprocess.run(["dpkg-deb", "--extract", str(package), str(folder)], check=True)
    return Root(folder)


def build(folder: Path, version: str = "") -> Path:
    """Build our packages below ``folder``; where they are."""
    env = {**os.environ, "OUT": str(folder / "deb"), **({"VERSION": version} if version else {})}
    script = str(ROOT / "packaging/debian/build.sh")
    done = subprocess.run(["sh", script], env=env, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return folder / "deb"
