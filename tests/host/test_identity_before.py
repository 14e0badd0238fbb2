"""The identity before that of today: what of it is kept, for how long, and how it goes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tinyport.host import identity_before

NOW = 1_900_000_000.0
HELD: dict[str, object] = {
    "tls_certificate": "CERTIFICATE",
    "tls_key": "KEY",
    "tls_cas": ["CA"],
    "ssh_key": "SSH",
    "valid_before": NOW + 100,
    "generation": 7,
}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_ssh_key_and_nothing_that_others_can_read(tmp_path: Path) -> None:
    identity_before.keep(tmp_path, HELD, NOW)
    assert files(tmp_path) == [identity_before.PUBLIC, identity_before.SECRET]
    texts = [path.read_text() for path in tmp_path.iterdir()]
    assert not any("SSH" in text for text in texts)
    assert "KEY" not in (tmp_path / identity_before.PUBLIC).read_text()
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert identity_before.read(tmp_path) == {"tls_cas": ["CA"], "valid_before": NOW + 100, "generation": 7}


def test_what_has_stood_is_not_replaced_by_what_has_not(tmp_path: Path) -> None:
    identity_before.keep(tmp_path, HELD, NOW)
    identity_before.keep(tmp_path, {**HELD, "generation": 8}, NOW)
    kept = identity_before.read(tmp_path)
    assert kept is not None
    assert kept["generation"] == 7
    # Until its certificate has ended; then it is of no use.
    identity_before.keep(tmp_path, {**HELD, "generation": 9, "valid_before": NOW + 900}, NOW + 101)
    kept = identity_before.read(tmp_path)
    assert kept is not None
    assert kept["generation"] == 9


def test_what_has_ended_is_not_kept(tmp_path: Path) -> None:
    identity_before.keep(tmp_path, HELD, NOW + 101)
    assert files(tmp_path) == []


def test_dropped_whatever_is_there(tmp_path: Path) -> None:
    identity_before.drop(tmp_path)
    identity_before.keep(tmp_path, HELD, NOW)
    (tmp_path / identity_before.PUBLIC).unlink()
    assert identity_before.read(tmp_path) is None
    identity_before.drop(tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "found", [None, [], {}, {"tls_cas": ["x"]}, {"tls_cas": [], "valid_before": 1}, {"tls_cas": [5], "valid_before": 1}]
)
def test_a_damaged_one_is_none(tmp_path: Path, found: object) -> None:
    (tmp_path / identity_before.PUBLIC).write_text(json.dumps(found))
    assert identity_before.read(tmp_path) is None
    (tmp_path / identity_before.PUBLIC).write_text("{")
    assert identity_before.read(tmp_path) is None


@pytest.mark.parametrize(
    ("now", "epoch", "counts"),
    [(NOW, 1, True), (NOW + 100, 1, False), (NOW, identity_before.GIVEN_UP, False)],
)
def test_until_its_end_and_not_after_a_compromise(now: float, epoch: int, counts: bool) -> None:
    assert identity_before.counts(HELD, now, epoch) is counts
