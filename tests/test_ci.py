"""A bare machine has what tests need: .ci/run installs it, or it comes with that, or with Debian itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
#: program → what brings it along: a program of the table
BROUGHT = {
    **dict.fromkeys(("scp", "sftp", "ssh-add", "ssh-agent", "ssh-keygen"), "ssh"),
    **dict.fromkeys(("puttygen",), "plink"),
    **dict.fromkeys(("systemd-run", "systemd-sysusers", "systemd-tmpfiles"), "systemd-analyze"),
    **dict.fromkeys(("setpriv", "unshare"), "setsid"),
    "ansible-playbook": "ansible",
}
#: essential in Debian: no system is without them
ESSENTIAL = {"bash", "dpkg", "mount"}


def table() -> set[str]:
    """The programs that .ci/run looks for, by name."""
    text = (ROOT / ".ci" / "run").read_text().partition("declare -A needed=(")[2].partition("\n)\n")[0]
    return {Path(name).name for name in re.findall(r"\[([^]]+)\]=", text)}


def asked(path: Path) -> set[str]:
    """The programs that a file of tests names as needed."""
    text = path.read_text()
    found = re.findall(r"need_program\(\"([^\"]+)\"\)", text)
    found += [
        name for names in re.findall(r"mark\.needs\(([^)]*)\)", text) for name in re.findall(r"\"([^\"]+)\"", names)
    ]
    return set(found)


@pytest.mark.parametrize("path", [path for path in TESTS if asked(path)], ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_that_is_needed_is_installed(path: Path) -> None:
    known = table()
    needed = {BROUGHT.get(name, name) for name in asked(path) - ESSENTIAL}
    assert needed - known == set()


def test_the_table_is_found() -> None:
    assert {"ssh", "sshd", "chromium", "nginx"} <= table()
    assert any(asked(path) for path in TESTS)
    assert set(BROUGHT.values()) <= table()
