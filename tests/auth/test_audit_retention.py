"""The audit log forgets its beginning when it is told to, and can be checked all the same."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinyport.auth import audit_retention
from tinyport.auth.audit_retention import prune_audit
from tinyport.core.audit_chain import CHECKPOINT, Checked, check_export, hash_in_export, open_head

from .conftest import CLUSTER, AuthServer
from .test_audit import _send

DAY = 86400.0


def retain(auth: AuthServer, value: object) -> int:
    return auth.local().call("PUT", "/v1/resources/cluster_config/cluster", {"audit_retention": value}).status


def prune(auth: AuthServer) -> int:
    """As an hour's look does it, when all the time that has passed was lived through."""
    auth.clock_followed()
    return auth.do(prune_audit(auth.service))


def exported(auth: AuthServer, after: int = 0) -> list[str]:
    return [json.dumps(line) for line in auth.local().lines(f"/v1/audit/export?after={after}")]


def checked(auth: AuthServer, lines: list[str]) -> Checked:
    return check_export(lines, [auth.service.authority.policy_key_blob])


def old_and_new(auth: AuthServer) -> tuple[list[str], list[dict[str, Any]]]:
    """A log of two moments, 40 days apart; an export of the first, and the events that are to stay."""
    node = auth.join("greenhouse")
    for number in range(5):
        _send(node.client, {"event": "exec", "command": f"ls {number}"}, batch=str(number))
    before = exported(auth)
    assert retain(auth, "30d") == 200
    auth.clock.now += 40 * DAY
    # A node's own clock decides nothing, neither way.
    node = auth.join("barn")
    _send(node.client, {"event": "exec", "command": "new", "time": 5})
    return before, auth.events("node.join")[-1:] + auth.events("exec")[-1:]


def test_old_events_go_and_what_is_left_can_be_checked(auth: AuthServer) -> None:
    before, stay = old_and_new(auth)
    removed = prune(auth)
    assert removed >= 7
    left = auth.local().get("/v1/audit", after=0, limit=1000).body["events"]
    assert [event for event in left if event["event"] in ("node.join", "exec")] == stay
    (told,) = auth.events("audit.prune")
    assert (told["count"], told["retention"]) == (removed, "30d")
    # Auth's own look, and the signature on where the log begins now.
    head = auth.local().get("/v1/audit/head").body
    assert head["broken_at"] is None
    begin = open_head(head["checkpoint"], [auth.service.authority.policy_key_blob], CLUSTER, CHECKPOINT)
    assert (begin.id + 1, begin.id) == (left[0]["id"], told["until"])
    # An export of what is left.
    lines = exported(auth)
    after = checked(auth, lines)
    assert (after.after, after.removed, after.events) == (begin.id, True, len(left))
    # One from before still holds, and the log of today knows where both meet.
    earlier = checked(auth, before)
    answer = auth.local().get("/v1/audit/hash", id=earlier.last).body
    assert answer["id"] in (0, begin.id)
    assert auth.local().get("/v1/audit/hash", id=begin.id).body["hash"] == begin.hash
    refused = auth.local().get("/v1/audit/export", after=1)
    assert (refused.status, f"event {begin.id + 1} was removed" in refused.message) == (404, True)
    assert auth.local().get("/v1/audit/hash", id=10**9).status == 404


def test_an_export_is_compared_at_the_checkpoint_that_lies_in_it(auth: AuthServer) -> None:
    old_and_new(auth)
    lines = exported(auth)
    prune(auth)
    first = auth.do(auth.service.store.read.audit.checkpoint())
    auth.clock.now += 40 * DAY
    prune(auth)
    last = checked(auth, lines).last
    answer = auth.local().get("/v1/audit/hash", id=last).body
    assert first is not None
    assert answer == {"id": first.id, "hash": first.hash} == {"id": first.id, "hash": hash_in_export(lines, first.id)}


def test_nothing_goes_by_default_nor_soon(auth: AuthServer) -> None:
    auth.join("greenhouse")
    auth.clock.now += 400 * DAY
    assert prune(auth) == 0
    wrongs: tuple[object, ...] = ("29d", "1h", 5, "", "x", True, [])
    for wrong in wrongs:
        assert retain(auth, wrong) == 400, wrong
    assert retain(auth, None) == 200
    assert prune(auth) == 0
    assert retain(auth, "800d") == 200
    assert prune(auth) == 0
    # A day's events go together, with one signature.
    auth.join("barn")
    assert retain(auth, "30d") == 200
    prune(auth)
    auth.clock.now += 30 * DAY + 3600
    assert prune(auth) == 0


def test_many_go_in_turns(auth: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_retention, "AT_ONCE", 3)
    monkeypatch.setattr(audit_retention, "AT_MOST", 5)
    old_and_new(auth)
    assert prune(auth) == 6
    assert prune(auth) > 0
    assert auth.local().get("/v1/audit/head").body["broken_at"] is None
    assert checked(auth, exported(auth)).removed


def test_what_a_copy_has_not_got_stays(auth: AuthServer) -> None:
    old_and_new(auth)
    auth.service.copied["syslog"] = 3
    assert prune(auth) == 3
    assert prune(auth) == 0
    auth.service.copied["syslog"] = 10**6
    assert prune(auth) > 0


def test_it_goes_on_after_a_restart(start: Callable[..., AuthServer]) -> None:
    auth = start()
    _, stay = old_and_new(auth)
    prune(auth)
    auth.stop()
    auth = start()
    assert auth.events("exec")[-1:] == stay[-1:]
    auth.join("third")
    assert auth.local().get("/v1/audit/head").body["broken_at"] is None
    checked(auth, exported(auth))


@pytest.mark.parametrize(
    "forgery",
    [
        # Whoever has the database and not the policy key can take nothing away unseen.
        "DELETE FROM audit WHERE id <= (SELECT min(id) FROM audit)",
        "UPDATE audit_checkpoints SET id = id + 1, hash = (SELECT hash FROM audit ORDER BY id LIMIT 1)",
        "DELETE FROM audit_checkpoints",
        "UPDATE audit_checkpoints SET hash = 'x'",
        "UPDATE audit_checkpoints SET signed = '{}'",
    ],
)
def test_a_beginning_that_auth_did_not_sign_shows(auth: AuthServer, tmp_path: Path, forgery: str) -> None:
    old_and_new(auth)
    prune(auth)
    with sqlite3.connect(tmp_path / "auth" / "auth.db") as database:
        with pytest.raises(sqlite3.IntegrityError):
            database.execute(forgery)
        for trigger in ("audit_stays", "checkpoints_stay", "checkpoints_hold"):
            database.execute(f"DROP TRIGGER {trigger}")
        database.execute(forgery)
    database.close()
    assert auth.local().get("/v1/audit/head").body["broken_at"] is not None
