"""Is the machine going down? As systemd says it, within a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyport.host.shutting_down import goes_down


@pytest.mark.parametrize(
    ("says", "down"),
    [("echo stopping; exit 1", True), ("echo running", False), ("echo degraded; exit 1", False), ("exit 1", False)],
)
def test_what_systemd_says(tmp_path: Path, says: str, down: bool) -> None:
    assert goes_down(("sh", "-c", says), str(tmp_path)) is down


def test_where_nobody_can_be_asked(tmp_path: Path) -> None:
    assert not goes_down(("sh", "-c", "echo stopping"), str(tmp_path / "no systemd"))
    assert not goes_down((str(tmp_path / "no program"),), str(tmp_path))
    # Too slow an answer is none, and nobody is left behind.
    assert not goes_down(("sh", "-c", "exec sleep 1000"), str(tmp_path))
