"""The identity of a machine: read whole or not at all, and following its cluster."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tinyport.core.errors import OperatorError
from tinyport.host import identity_file

IDENTITY: dict[str, object] = {
    name: {int: 1, str: "x", list: ["x"]}.get(kind if isinstance(kind, type) else float, 1.0)
    for name, kind in identity_file.FIELDS.items()
}


def test_what_is_saved_is_private_and_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    identity_file.save(path, IDENTITY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert identity_file.load(path) == IDENTITY


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", json.dumps({"version": 1}), json.dumps({**IDENTITY, "version": 2})]
)
def test_what_is_damaged_is_refused_in_words(tmp_path: Path, text: str) -> None:
    path = tmp_path / "identity.json"
    path.write_text(text)
    with pytest.raises(OperatorError, match=r"identity\.json"):
        identity_file.load(path)


def test_a_cluster_that_moved_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    identity_file.save(path, IDENTITY)
    assert identity_file.load_for(path, "new:3080")["server"] == "new:3080"
    assert identity_file.load(path)["server"] == "new:3080"
