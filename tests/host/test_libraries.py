"""Libraries are found without other programs, and without a folder for temporary files."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need_program
from tinyport.host import libraries


def test_what_is_there_and_what_is_not() -> None:
    found = libraries.find("c") or libraries.find("m")
    assert found is not None
    assert ctypes.CDLL(found)
    for name in ("no-such-library", "", "../lib/libc"):
        assert libraries.find(name) is None


def test_the_highest_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "_FOLDERS", (str(tmp_path / "none"), str(tmp_path)))
    for name in ("libx.so.9", "libx.so.10", "libx.so.10.bak", "libxy.so.11", "libx.a", "libx.so.old"):
        (tmp_path / name).touch()
    assert libraries.find("x") == str(tmp_path / "libx.so.10")


@pytest.mark.root
def test_the_ssh_library_loads_where_nothing_can_be_written() -> None:
    """A machine with gcc whose disk is full or read-only: nobody would get in, not even to mend that."""
    need_program("unshare")
    code = "from tinyport.host import libraries; libraries.ask_nobody(); import asyncssh; print('loaded')"
    script = 'mount -o remount,bind,ro / && mount -t tmpfs -o ro tmpfs /tmp && exec "$@"'
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False, cwd="/")
    assert done.stdout == b"loaded\n", done.stderr
