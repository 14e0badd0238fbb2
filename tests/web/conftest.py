"""A real browser (Debian's Chromium) before a real cluster: the page as people have it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import IN_CI, need_program
from tests.scenarios.cluster import Cluster, text
from tests.web.person import Person

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "tinyport" / "proxy" / "page" / "index.html"
#: screenshots, kept as artefacts of a run
PICTURES = ROOT / "build" / "web"

# No service of its vendor's is asked for anything, and a container needs no sandbox inside its own.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.fspath).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.web)


def _lacking(what: str) -> None:
    if IN_CI:
        pytest.fail(f"{what}; .ci/run should have done that")
    pytest.skip(what)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser, started once."""
    program = need_program("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _lacking('playwright is not installed: "make test-web" does that')
    if not PAGE.exists():
        _lacking('the page is not built: "make web"')
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that stays whole: tests add to it, none stops or damages it."""
    made = Cluster(tmp_path_factory.mktemp("web"))
    try:
        made.start()
        rule = made.folder / "cluster_config.toml"
        rule.write_text('kind = "cluster_config"\nname = "cluster"\nsecond_factor = "optional"\n')
        done = made.tctl("create", "-f", rule)
        assert done.returncode == 0, text(done)
        yield made
    finally:
        made.stop()


@pytest.fixture
def person(chromium: Any, cluster: Cluster) -> Iterator[Person]:
    """Somebody with a browser of their own, who is nobody yet."""
    with Person(chromium, cluster) as made:
        yield made


@pytest.fixture
def other(chromium: Any, cluster: Cluster) -> Iterator[Person]:
    """Somebody else, with another browser."""
    with Person(chromium, cluster) as made:
        yield made


@pytest.fixture(scope="session")
def pictures() -> Path:
    if PICTURES.exists() and os.environ.get("PYTEST_XDIST_WORKER") is None:
        shutil.rmtree(PICTURES)
    PICTURES.mkdir(parents=True, exist_ok=True)
    return PICTURES
