"""``tctl audit verify`` when the log of today begins later than an export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.core.test_audit_chain import KEY, made
from tinyport.core.certificate import public_line

from .conftest import FakeAuth, Run


def test_an_old_export_is_compared_where_the_log_still_knows(
    fake_auth: FakeAuth, tctl: Callable[[Path], Run], tmp_path: Path
) -> None:
    run, export = tctl(fake_auth.data_dir), tmp_path / "old.jsonl"
    lines = made()
    export.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fake_auth.says("GET", "/v1/ca?type=policy", {"keys": [{"line": public_line(KEY.public_blob)}]})
    for answer, status, words in (
        ({"id": 6, "hash": lines[6]["hash"]}, 0, "the log of today goes on from it"),
        ({"id": 4, "hash": lines[4]["hash"]}, 0, "knew the same event 4"),
        ({"id": 0, "hash": "0" * 64}, 0, "knew the same event 0"),
        ({"id": 4, "hash": "f" * 64}, 1, "the log of today is another one"),
        ({"id": 6, "hash": lines[5]["hash"]}, 1, "the log of today is another one"),
    ):
        fake_auth.says("GET", "/v1/audit/hash?id=6", answer)
        ran = run("audit", "verify", str(export))
        assert (ran.status, words in ran.out + ran.err) == (status, True), ran
    export.write_text("".join(json.dumps(line) + "\n" for line in made(after=5)))
    fake_auth.says("GET", "/v1/audit/hash?id=6", {"id": 4, "hash": "f" * 64})
    assert "cannot be compared" in run("audit", "verify", str(export)).out
