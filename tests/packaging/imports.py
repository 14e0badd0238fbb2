"""Which modules a program can come to import: read from its import statements, those inside functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path


def modules(package: Path, without: Iterable[Path] = ()) -> dict[str, Path]:
    """name → file of all modules of a package, but for those below ``without``."""
    gone = tuple(without)
    found: dict[str, Path] = {}
    for path in package.rglob("*.py"):
        if not any(path.is_relative_to(one) for one in gone):
            words = path.relative_to(package.parent).with_suffix("").parts
            found[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
    return found


def imported(name: str, path: Path) -> set[str]:
    """The names that a module may import, and texts in it that may name one (``python -c`` and lazy imports)."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def reachable(among: Mapping[str, Path], start: str) -> set[str]:
    """Those of ``among`` that importing ``start`` may lead to."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in reached or name not in among:
            continue
        reached.add(name)
        waiting += imported(name, among[name])
        waiting.append(name.rpartition(".")[0])
    return reached
