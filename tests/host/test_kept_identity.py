"""An identity in a file, in memory, or in both."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.tiny_cluster import Cluster
from tinyport.core.errors import OperatorError
from tinyport.host import identity_file
from tinyport.host.identity_file import Kept


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = os.memfd_create("test")
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def identity(tmp_path: Path) -> dict[str, object]:
    made = Cluster().joined(tmp_path / "other", ("127.0.0.1", 1))
    return dict(made)


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any, identity: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(identity_file, "save", refuse)


def test_in_memory_there_is_no_file(memory: int, tmp_path: Path, identity: dict[str, object]) -> None:
    place = Kept(None, memory, tmp_path / "node")
    with pytest.raises(FileNotFoundError):
        place.load()
    place.keep_pending(b'{"ssh_key": "x"}')
    with pytest.raises(FileNotFoundError):
        place.load()
    assert place.pending() == b'{"ssh_key": "x"}'
    place.save(identity)
    place.forget_pending()
    assert place.load() == identity
    assert place.pending() == b""
    # One that is good is not given up for the keys of a join that may fail.
    place.keep_pending(b"{}")
    assert place.load() == identity
    assert list(tmp_path.glob("node/*")) == []


def test_what_is_written_anew_stays_where_it_is_locked(memory: int, identity: dict[str, object]) -> None:
    place = Kept(None, memory, "/nonexistent")
    place.save({**identity, "proxies": ["x" * 1000]})
    size = os.fstat(memory).st_size
    place.save(identity)
    assert os.fstat(memory).st_size == size
    assert place.load() == identity
    assert json.loads(identity_file.read_memory(memory)) == identity


def test_a_disk_that_takes_nothing_is_said_and_goes_before_nobody(
    memory: int, tmp_path: Path, identity: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "identity.json"
    identity_file.save(path, identity)
    place = Kept(path, memory)
    newer = {**identity, "generation": 2}
    with monkeypatch.context() as patch:
        full(patch)
        place.save(newer)
        assert place.unsaved == "read-only file system"
        assert place.load() == newer
        with pytest.raises(OSError, match="Read-only"):
            Kept(path).save(newer)
    assert identity_file.load(path) == identity
    place.save(newer)
    assert place.unsaved == ""
    assert identity_file.load(path) == newer


def test_damage_in_memory_is_said(memory: int) -> None:
    identity_file.write_memory(memory, b"{")
    with pytest.raises(OperatorError, match="the identity in memory is damaged"):
        Kept(None, memory, "/nonexistent").load()
