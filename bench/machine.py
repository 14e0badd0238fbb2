"""Where and with what was measured; and which core is whose."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Before anything here changes it.
_USABLE = os.sched_getaffinity(0)
SBIN = "/usr/local/sbin:/usr/sbin:/sbin:" + os.environ.get("PATH", "/usr/bin:/bin")


def find(program: str) -> str | None:
    """The path of a server program, which may be outside a person's PATH."""
    return shutil.which(program, path=SBIN)


def install(programs: Mapping[str, str]) -> None:
    """Install what is missing of ``programs`` (name → Debian package), where we may. Elsewhere rows say what is not
    there."""
    missing = sorted({package for program, package in programs.items() if find(program) is None})
    apt = shutil.which("apt-get")
    if not missing or apt is None or os.geteuid() != 0:
        return
    print(f"installing {', '.join(missing)}", flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        [apt, "install", "-y", "-qq", "--no-install-recommends", *missing], env=env, capture_output=True, check=False
    )
    if done.returncode:
        print(f"  it failed: {done.stderr.decode(errors='replace').strip()[-300:]}", flush=True)


def cores() -> tuple[set[int], set[int]]:
    """The core for servers and the cores for clients. The same one on a machine that has one only."""
    usable = sorted(_USABLE)
    return {usable[0]}, set(usable[1:]) or {usable[0]}


@contextmanager
def on_cores(wanted: set[int]) -> Iterator[None]:
    """This process, and what it starts, on these cores. Servers pin themselves."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, wanted)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pinned(to: set[int]) -> Callable[[], None]:
    """For subprocess's ``preexec_fn``."""

    def pin() -> None:
        os.sched_setaffinity(0, to)

    return pin


def _said(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return "not installed"
    return (done.stdout + done.stderr).strip().partition("\n")[0]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.lower().startswith(("model name", "model\t")):
            return line.partition(":")[2].strip()
    return platform.processor()


def describe(options: dict[str, Any]) -> dict[str, Any]:
    """Everything that somebody needs to know to repeat or doubt a figure."""
    here = Path(__file__).parent.parent
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": len(_USABLE),
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "asyncssh": version("asyncssh"),
        "cryptography": version("cryptography"),
        "openssl": _said("openssl", "version"),
        "openssh": _said("ssh", "-V"),
        "dropbear": _said(find("dropbear") or "dropbear", "-V"),
        "commit": _said("git", "-C", str(here), "rev-parse", "--short", "HEAD"),
        "bytecode": not sys.dont_write_bytecode,
        "options": options,
    }
