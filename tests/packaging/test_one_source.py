"""What packages say is what the project says: versions, dependencies, manuals, completions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need_program
from tinyport.admin.config_file import parse_toml
from tinyport.core.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = ROOT / "packaging" / "debian"
#: where Debian's name is not python3- and the name on the package index
NAMES = {"argon2-cffi": "argon2"}
#: the libraries without which a part's modules cannot be loaded, by Debian package
PARTS = {"tinyport-node": ("asyncssh",), "tinyport-common": ("cryptography",), "tinyport-client": ("asyncssh",)}


def depends(package: str) -> set[str]:
    """The names in a binary package's Depends."""
    stanza = next(
        part for part in (DEBIAN / "control").read_text().split("\n\n") if part.startswith(f"Package: {package}\n")
    )
    line = re.search("^Depends: (.*)$", stanza, re.M)
    assert line is not None
    return {item.split()[0] for item in line[1].split(",")}


def test_the_server_package_brings_what_the_server_needs() -> None:
    project = parse_toml((ROOT / "pyproject.toml").read_text(), "pyproject.toml")["project"]
    wanted = {re.split("[<>=]", item)[0] for item in project["optional-dependencies"]["server"]}
    assert {f"python3-{NAMES.get(name, name)}" for name in wanted} <= depends("tinyport-server")
    base = {re.split("[<>=]", item)[0] for item in project["dependencies"] if "python_version" not in item}
    assert base == {name for names in PARTS.values() for name in names}
    for package, names in PARTS.items():
        assert {f"python3-{name}" for name in names} <= depends(package)


def test_the_package_is_of_this_version() -> None:
    assert (DEBIAN / "changelog").read_text().startswith(f"tinyport ({VERSION}) ")


def test_every_module_is_in_one_package() -> None:
    """Nothing new is left out, or shipped twice."""
    found: list[str] = []
    for listed in DEBIAN.glob("*.install"):
        for line in listed.read_text().splitlines():
            source = line.split()[0]
            if source.startswith("tinyport/"):
                found += [source] if source.endswith(".py") and "*" not in source else [source.removesuffix("/*.py")]
    expected = {f"tinyport/{path.name}" for path in (ROOT / "tinyport").iterdir() if path.name != "__pycache__"}
    assert sorted(found) == sorted(expected)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manuals and completions, made by an interpreter without any library, as a package is built."""
    folder = tmp_path_factory.mktemp("generated")
    words = [sys.executable, "-I", "-S", str(ROOT / "tools/generated_files.py"), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["tinyport", "tctl", "tsh"])
def test_manuals_are_pages(name: str, generated: Path) -> None:
    groff = need_program("groff")
    page = generated / "man" / f"{name}.1"
    done = subprocess.run(
        [groff, "-man", "-Tascii", "-ww", "-z", str(page)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    text = page.read_text()
    for title in (".SH NAME", ".SH SYNOPSIS", ".SH COMMANDS", ".SH EXIT STATUS", ".SH ENVIRONMENT", ".SH FILES"):
        assert title in text
    if name == "tinyport":
        assert "\\-\\-replace\\-sshd" in text
        assert "\\-\\-now" not in text


@pytest.mark.parametrize("name", ["tinyport", "tctl", "tsh"])
def test_completions_are_where_shells_look(name: str, generated: Path) -> None:
    for path in (f"bash/{name}", f"zsh/_{name}", f"fish/{name}.fish"):
        assert (generated / "completions" / path).stat().st_size > 100
    subprocess.run(["bash", "-n", str(generated / "completions/bash" / name)], check=True, timeout=30)
    assert (generated / f"completions/zsh/_{name}").read_text().startswith(f"#compdef {name}\n")
