"""A Python as OpenWrt has it: byte code alone, and of the standard library only what declared packages bring."""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FEED = ROOT / "packaging" / "openwrt"

#: package of OpenWrt's feed, in 24.10 (Python 3.11) or 25.12 (3.13) → the modules that python3-light lacks without it
PACKAGES = {
    "python3-asyncio": ("asyncio", "_asyncio"),
    "python3-cgi": ("cgi",),
    "python3-cgitb": ("cgitb",),
    "python3-codecs": (
        "unicodedata",
        "_codecs_cn",
        "_codecs_hk",
        "_codecs_iso2022",
        "_codecs_jp",
        "_codecs_kr",
        "_codecs_tw",
    ),
    "python3-ctypes": ("ctypes", "_ctypes"),
    "python3-dbm": ("dbm", "_dbm", "_gdbm"),
    "python3-decimal": ("decimal", "_decimal"),
    "python3-distutils": ("distutils",),
    "python3-email": ("email",),
    "python3-lib2to3": ("lib2to3",),
    "python3-logging": ("logging",),
    "python3-lzma": ("lzma", "_lzma"),
    "python3-multiprocessing": ("multiprocessing", "_multiprocessing"),
    "python3-ncurses": ("curses", "_curses", "_curses_panel"),
    "python3-openssl": ("ssl", "_ssl", "_hashlib"),
    "python3-pydoc": ("doctest", "pydoc", "pydoc_data"),
    "python3-readline": ("readline",),
    "python3-sqlite3": ("sqlite3", "_sqlite3"),
    "python3-unittest": ("unittest",),
    "python3-urllib": ("urllib",),
    "python3-uuid": ("uuid", "_uuid"),
    "python3-venv": ("venv",),
    "python3-xml": ("xml", "xmlrpc", "_elementtree", "pyexpat"),
}
#: not in any of its packages that a device has
NEVER = ("ensurepip", "idlelib", "pip", "setuptools", "test", "tkinter", "turtledemo", "site-packages", "__pycache__")
#: what these bring along
NEEDS = {"python3-urllib": ("python3-email",), "python3-cryptography": ("python3-email", "python3-urllib")}


def declared(name: str) -> set[str]:
    """The packages that a Makefile of the feed depends on."""
    text = (FEED / name / "Makefile").read_text()
    found = re.search(r"^  DEPENDS:=(.*?)(?<!\\)\n", text, re.S | re.M)
    assert found is not None
    return set(re.findall(r"\+([a-z0-9-]+)", found[1]))


def left_out(folder: Path) -> list[Path]:
    """What the package's filespec does not ship of the ``tinyport`` in ``folder``; each line of it must match."""
    makefile = (FEED / "tinyport" / "Makefile").read_text()
    found: list[Path] = []
    for pattern in re.findall(r"^-\|\$\(PYTHON3_PKG_DIR\)/(tinyport/.*)$", makefile, re.M):
        matching = sorted(folder.glob(pattern))
        assert matching, f"the feed's Makefile leaves out what there is not: {pattern}"
        found += matching
    return found


def leave_out(folder: Path) -> None:
    """Remove from ``folder`` what the package does not ship."""
    for path in left_out(folder):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def without_docstrings() -> list[str]:
    """What our feed's Makefiles compile that way; OpenWrt's own do not."""
    makefiles = {"tinyport": "tinyport", "asyncssh": "python-asyncssh"}
    line = "\nexport PYTHONOPTIMIZE:=2\n"
    return [name for name, folder in makefiles.items() if line in (FEED / folder / "Makefile").read_text()]


def with_needs(packages: set[str]) -> set[str]:
    return packages | {need for package in packages for need in NEEDS.get(package, ())}


def blocked(packages: set[str]) -> set[str]:
    """The modules that a device with these packages lacks."""
    return {module for package, modules in PACKAGES.items() if package not in packages for module in modules}


def build(folder: Path, packages: set[str]) -> Path:
    """Make the interpreter below ``folder``; returns it. Beside it is ``tinyport``, as /usr/bin has it."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    standard = Path(sysconfig.get_path("stdlib"))
    library = folder / "lib" / version
    missing = blocked(packages) | set(NEVER)
    library.mkdir(parents=True)
    for entry in standard.iterdir():
        name = entry.name.partition(".")[0]
        if name in missing or entry.name in missing or entry.name.startswith("config-"):
            continue
        if entry.name == "lib-dynload":
            (library / entry.name).mkdir()
            for module in entry.iterdir():
                if module.name.partition(".")[0] not in missing:
                    (library / entry.name / module.name).symlink_to(module)
        elif entry.is_dir():
            shutil.copytree(entry, library / entry.name, ignore=shutil.ignore_patterns("__pycache__", "test", "tests"))
        elif entry.suffix == ".py":
            shutil.copy(entry, library / entry.name)
    packages_folder = library / "site-packages"
    packages_folder.mkdir()
    for name in ("asyncssh", "cryptography", "cffi", "typing_extensions"):
        _copy_distribution(name, packages_folder)
    ours = shutil.ignore_patterns("__pycache__", "systemd")
    shutil.copytree(ROOT / "tinyport", packages_folder / "tinyport", ignore=ours)
    leave_out(packages_folder)
    for name in without_docstrings():
        compileall.compile_dir(packages_folder / name, quiet=2, legacy=True, optimize=2, workers=1)
    for source in [source for name in without_docstrings() for source in (packages_folder / name).rglob("*.py")]:
        source.unlink()
    compileall.compile_dir(library, quiet=2, legacy=True, workers=1)
    for source in library.rglob("*.py"):
        source.unlink()
    python = folder / "bin" / version
    python.parent.mkdir()
    # A copy: a link would lead the interpreter back to its own library.
    shutil.copy(os.path.realpath(sys.executable), python)
    script = folder / "bin" / "tinyport"
    # Debian's interpreter looks for a folder of another name.
    place = f"sys.path += [] if {str(packages_folder)!r} in sys.path else [{str(packages_folder)!r}]"
    body = "from tinyport.admin.main import main\nsys.exit(main())\n"
    script.write_text(f"#!{python}\nimport sys\n{place}\n{body}")
    script.chmod(0o755)
    return python


def _copy_distribution(name: str, target: Path) -> None:
    for path in distribution(name).files or ():
        if ".." in path.parts or path.suffix == ".pyc":
            continue
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path.locate(), place)


def run(python: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` as OpenWrt would: no environment, no user's own modules."""
    return subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=False, timeout=60)
