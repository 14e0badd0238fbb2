"""Programs of others that tests run: each is installed by ``.ci/run``, and no test passes over a missing one.

A test names them (``need_program``, ``@pytest.mark.needs``). Missing is failed in CI, and skipped, visibly, on a desk.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "tests").rglob("test_*.py")) + sorted((ROOT / "tests").rglob("conftest.py"))

#: programs that come with another's package, by that other as .ci/run has it
COMES_WITH = {
    **dict.fromkeys(("scp", "sftp", "ssh-add", "ssh-agent", "ssh-keygen"), "ssh"),
    **dict.fromkeys(("psftp", "puttygen"), "plink"),
    "dropbearkey": "dbclient",
    "ansible-playbook": "ansible",
    **dict.fromkeys(("systemd-run", "systemd-sysusers", "systemd-tmpfiles"), "systemd-analyze"),
    **dict.fromkeys(("setpriv", "unshare", "nsenter", "mount", "last", "who", "lastlog"), "setsid"),
}
#: what every Debian has
ESSENTIAL = {"bash", "dpkg", "login", "sh"}

#: issue by issue: who judges what, and where. Each name is a program (or a library) and a test that runs it.
JUDGES = {
    "ssh": "interop/test_openssh.py",
    "setsid": "interop/test_terminal.py",
    "ssh -M": "interop/test_multiplexing.py",
    "ssh -L -R -D -A -X": "interop/test_forwarding.py",
    "ssh -W": "interop/test_forwarding.py",
    "sftp": "interop/test_openssh.py",
    "scp -O, scp -s": "interop/test_file_programs.py",
    "dbclient": "interop/test_other_clients.py",
    "paramiko": "interop/test_other_clients.py",
    "plink": "interop/test_putty.py",
    "psftp": "interop/test_putty.py",
    "rsync": "interop/test_openssh.py",
    "git": "interop/test_file_programs.py",
    "sshfs": "interop/test_file_programs.py",
    "ansible-playbook": "interop/test_ansible.py",
    "ssh_audit": "interop/test_ssh_audit.py",
}


def installed_in_ci() -> set[str]:
    """The commands of ``needed`` in .ci/run, without their folders."""
    (table,) = re.findall(r"declare -A needed=\((.*?)\n\)", (ROOT / ".ci/run").read_text(), re.DOTALL)
    return {name.rpartition("/")[2] for name in re.findall(r"\[([^]]+)\]=", table)}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "tests")))
def test_programs_are_named_and_installed(path: Path) -> None:
    brought = installed_in_ci() | ESSENTIAL
    for name, call in calls(ast.parse(path.read_text())):
        if name.endswith(("importorskip", "shutil.which")) and path != ROOT / "tests/conftest.py":
            raise AssertionError(f"{path.name}:{call.lineno}: say it with need_program, which CI takes seriously")
        if name in ("need_program", "pytest.mark.needs"):
            for word in call.args:
                if isinstance(word, ast.Constant):
                    program = str(word.value)
                    assert COMES_WITH.get(program, program) in brought, f"{program}: .ci/run does not install it"


@pytest.mark.parametrize("judge", JUDGES)
def test_who_judges(judge: str) -> None:
    """Each is named in its file: as a program that is needed, or as a library that cannot be missing."""
    text = (ROOT / "tests" / JUDGES[judge]).read_text()
    for word in judge.split(", "):
        program, *options = word.split()
        assert program in text
        for option in options:
            assert f'"{option}"' in text or f'["{option}' in text or option == "-M", option
