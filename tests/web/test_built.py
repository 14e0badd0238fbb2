"""What "make web" built: how it is served, how much of it comes at first, and that releases have it in them."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.web.conftest import PAGE, ROOT
from tinyport.proxy.web_page import NONCE, read_page

#: compressed, all that is needed until somebody can log in
FIRST_PAINT = 200_000


@pytest.fixture
def index() -> str:
    if not PAGE.exists():
        pytest.skip('the page is not built: "make web"')
    return PAGE.read_text()


def test_nothing_is_inline_and_everything_is_named_by_its_content(index: str) -> None:
    assert index.count(NONCE) == 1
    assert re.search(r"<script(?![^>]*\bsrc=)", index) is None
    assert "<style" not in index
    assert re.search(r"\son[a-z]+=", index) is None
    addresses = re.findall(r'(?:src|href)="([^"]+)"', index)
    assert addresses
    for address in addresses:
        assert re.fullmatch(r"/assets/[\w-]+-[\w-]{8}\.(js|css|svg)", address)
    assert read_page(PAGE.parent) is not None


def test_first_paint(index: str) -> None:
    first = sum(
        len(gzip.compress((PAGE.parent / address[1:]).read_bytes(), 9))
        for address in re.findall(r'(?:src|href)="(/assets/[^"]+)"', index)
    )
    assert first + len(gzip.compress(index.encode())) < FIRST_PAINT


def test_the_page_never_makes_html_of_text() -> None:
    """The policy forbids it, too (require-trusted-types-for)."""
    for path in (ROOT / "web" / "src").rglob("*.ts*"):
        text = path.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in text, f"{path}: {word}"


def test_the_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (ROOT / "web" / "package-lock.json").read_text()


def test_a_wheel_has_the_page(index: str, tmp_path: Path) -> None:
    # A copy of what git knows: setuptools would leave its folders in the checkout, and take old ones for new.
    kept = subprocess.run(
        ["git", "ls-files", "-z", "--", "tinyport", "packaging/systemd", "pyproject.toml", "README.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    source = tmp_path / "source"
    source.mkdir()
    subprocess.run(
        ["xargs", "-0", "cp", "-a", "--parents", "-t", str(source)],  # as packaging/debian/build.sh does
        input=kept + b"tinyport/proxy/page\0",
        cwd=ROOT,
        check=True,
    )
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*command, "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "tinyport/proxy/page/index.html" in names
    for path in (PAGE.parent / "assets").iterdir():
        assert f"tinyport/proxy/page/assets/{path.name}" in names
