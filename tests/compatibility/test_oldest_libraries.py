"""The oldest libraries that distributions ship with: the node, its clients and the cluster work on them, too."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Debian 13 and Raspberry Pi OS trixie
OLDEST = ("asyncssh==2.20.0", "cryptography==43.0.0")
# Its client is disconnected by asyncssh 2.20 before it can be refused. It knows no certificates, so it loses nothing.
WITHOUT = "tests/interop/test_other_clients.py::test_dropbear_exchanges_keys_and_is_refused"
SUITES = ("tests/core", "tests/node", "tests/interop", "tests/proxy", "tests/scenarios/test_sessions.py")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_everything_that_speaks_ssh_works_on_the_oldest_libraries(tmp_path: Path) -> None:
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    # Everything else is this environment's, behind what is its own.
    (own,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (own / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--ignore-installed", *OLDEST, "-e", str(ROOT)], check=True)
    subprocess.run([*pip, "check"], check=True)
    for requirement in OLDEST:
        name, _, version = requirement.partition("==")
        code = f"import {name}; print({name}.__version__)"
        shown = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout
        assert shown.strip() == version
    done = subprocess.run(
        [
            str(python),
            "-m",
            "pytest",
            "-q",
            "-n",
            "4",
            "--dist",
            "loadgroup",
            "-p",
            "no:cacheprovider",
            "--deselect",
            WITHOUT,
            *SUITES,
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
