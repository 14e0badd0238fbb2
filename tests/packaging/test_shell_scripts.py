"""ShellCheck has nothing to say about any of our shell scripts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need_program

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".ci", "bench", "demo", "packaging", "tests", "tools")
SHELL = re.compile(rb"#! ?(/usr)?/bin/(env )?(sh|dash|bash)( /etc/rc.common| -\w+)?\n")
#: what OpenWrt's rc.common reads of an init script is assigned there and used nowhere
FOR_OTHERS = "SC2034"


def scripts() -> list[str]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "node_modules" not in path.parts]
    return sorted(str(path.relative_to(ROOT)) for path in found if path.is_file() and _is_shell(path))


def _is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        return SHELL.match(file.read(100)) is not None


@pytest.mark.parametrize("name", scripts())
def test_shellcheck_is_content(name: str) -> None:
    first = (ROOT / name).read_text().partition("\n")[0]
    # Ours run under dash, busybox's ash or bash: "local" is known to all of them.
    words = [need_program("shellcheck"), f"--shell={'bash' if 'bash' in first else 'dash'}", "--severity=style"]
    if "rc.common" in first:
        words.append(f"--exclude={FOR_OTHERS}")
    done = subprocess.run([*words, name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
