"""The import rule and the doors of heavy libraries, as ARCHITECTURE.md states them; and that core only decides."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tinyport"

#: what core may not touch: clock, randomness, files, network, processes
FORBIDDEN_IN_CORE = {
    "asyncio",
    "io",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uuid",
}


def tables(text: str) -> Iterator[list[tuple[list[str], list[str]]]]:
    """The Markdown tables of ``text``, each as rows of the code words in the first and second column."""
    rows: list[tuple[list[str], list[str]]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("| `"):
            first, second = line.strip("|").split("|")[:2]
            rows.append((re.findall(r"`([^`]+)`", first), re.findall(r"`([^`]+)`", second)))
        elif not line.startswith("|") and rows:
            yield rows
            rows = []


def read_rules() -> tuple[dict[str, set[str]], dict[str, list[str]]]:
    """(package → packages it may import, library → files that may import it)"""
    imports, doors = list(tables((ROOT / "ARCHITECTURE.md").read_text()))[:2]
    return {row[0][0]: set(row[1]) for row in imports}, {row[0][0]: row[1] for row in doors}


ALLOWED, DOORS = read_rules()
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(source: str) -> set[str]:
    """Every module that a source imports anywhere in it, but for what only type checkers see."""
    tree = ast.parse(source)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found.add(node.module or "")
            if (node.module or "") == "tinyport" or (node.module or "").count(".") == 1:
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def package_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def violations(module: str, file: str, source: str) -> list[str]:
    """What a file does against the rules, in words."""
    mine = package_of(module)
    found = []
    for name in sorted(imported(source)):
        top = name.split(".")[0]
        if top == "tinyport" and name != "tinyport" and package_of(name) not in ALLOWED.get(mine, set()):
            found.append(f"{file} imports {name}")
        if top in DOORS and not any(fnmatch(file, door) for door in DOORS[top]):
            found.append(f"{file} imports {top}, whose door is {' '.join(DOORS[top])}")
        if mine == "tinyport.core" and top in FORBIDDEN_IN_CORE:
            found.append(f"{file} imports {top}, and core only decides")
    if file.endswith("__init__.py"):
        statements = ast.parse(source).body
        if len(statements) > 1 or not (statements and isinstance(statements[0], ast.Expr)):
            found.append(f"{file} holds more than a docstring")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rules_hold(path: Path) -> None:
    file = str(path.relative_to(ROOT))
    module = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    assert violations(module, file, path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tinyport.core.x", "import time"),
        ("tinyport.core.x", "def f():\n    import socket"),
        ("tinyport.core.x", "from tinyport.host import files"),
        ("tinyport.host.x", "from tinyport.link.api import AuthClient"),
        ("tinyport.node.x", "from tinyport.auth import store"),
        ("tinyport.node.x", "import tinyport.proxy.server"),
        ("tinyport.admin.x", "from tinyport import auth"),
        ("tinyport.auth.api", "import sqlite3"),
        ("tinyport.node.link.link", "import asyncssh"),
        ("tinyport.node.monitor.monitor", "from cryptography import x509"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str) -> None:
    assert violations(module, module.replace(".", "/") + ".py", source)


def test_type_checkers_imports_do_not_count() -> None:
    source = "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import socket\n"
    assert violations("tinyport.core.x", "tinyport/core/x.py", source) == []


def test_an_init_with_code_is_found() -> None:
    assert violations("tinyport.core", "tinyport/core/__init__.py", '"""x"""\nVERSION = 1\n')


def test_each_room_is_in_the_table() -> None:
    rooms = {f"tinyport.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    assert rooms | {"tinyport.start"} == set(ALLOWED)


def test_sql_stays_in_the_store() -> None:
    words = re.compile(r"\b(SELECT .+ FROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM|CREATE TABLE)\b")
    for path in FILES:
        file = str(path.relative_to(ROOT))
        if not any(fnmatch(file, door) for door in DOORS["aiosqlite"]):
            assert not words.search(path.read_text()), f"SQL in {file}"
