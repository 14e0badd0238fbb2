"""docs/sshd.md says which test holds what sshd's users rely on: each that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs/sshd.md").read_text()
# "node/test_login.py::test_environment_and_groups"
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_test_that_the_page_names_exists(file: str) -> None:
    tree = ast.parse((TESTS / file).read_text())
    there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    missing = {name for named, name in NAMED if named == file} - there
    assert not missing


def test_every_line_has_a_test() -> None:
    """But for what differs: there the reason stands."""
    held = PAGE.partition("## What differs from sshd")[0]
    lines = [
        line
        for line in held.splitlines()
        if line.startswith("| ") and not line.startswith(("| what", "| judge |", "| ---"))
    ]
    assert lines
    assert [line for line in lines if not re.search(r"`[\w/]+\.py::test_\w+` \|$", line)] == []
