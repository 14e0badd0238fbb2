"""Files that must be whole and private."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tinyport.core.errors import OperatorError
from tinyport.host.files import private_folder, read_limited, write_private, write_public


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "key", b"secret")
        write_public(tmp_path / "pub", b"public")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "key"), mode(tmp_path / "pub")) == (0o600, 0o644)
    assert (tmp_path / "key").read_bytes() == b"secret"


def test_a_replacement_takes_the_place_of_a_link_and_not_its_target(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "key").symlink_to(victim)
    write_private(tmp_path / "key", b"new")
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "key").is_symlink()


def test_a_leftover_does_not_stop_us_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / f"key.{os.getpid()}.new").write_bytes(b"half")
    write_private(tmp_path / "key", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"old")
    with pytest.raises(TypeError):
        write_private(tmp_path / "key", "text")  # type: ignore[arg-type]
    assert (tmp_path / "key").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_folders_are_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    private_folder(folder)
    folder.chmod(0o755)
    private_folder(folder)
    assert mode(folder) == 0o700


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert read_limited(tmp_path / "f", 5) == b"12345"
    with pytest.raises(OperatorError, match="larger than 4"):
        read_limited(tmp_path / "f", 4)
