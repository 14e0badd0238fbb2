"""The cluster that scenarios share, and one that a scenario may break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.cluster import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that stays whole: tests add to it, none stops or damages it."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of one test's own, to kill things in."""
    made = Cluster(tmp_path)
    try:
        yield made.start()
    finally:
        made.stop()
