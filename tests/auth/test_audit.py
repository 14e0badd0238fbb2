"""The audit log: what nodes may say, what is stamped, the chain, following."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tinyport.auth.api_events import MAY_SAY
from tinyport.auth.audit import SIGN_EVERY
from tinyport.core.certificate import parse_public_line
from tinyport.core.events import CODES
from tinyport.core.policy import open_document

from .conftest import CLUSTER, START, AuthServer

ROOT = Path(__file__).resolve().parents[2]


def _send(client: Any, *events: object, batch: str = "b1") -> Any:
    return client.post("/v1/events", {"batch": batch, "events": list(events)})


def test_a_node_speaks_of_itself_alone(auth: AuthServer) -> None:
    node, other = auth.join("greenhouse"), auth.join("barn")
    lie = {
        "event": "session.start",
        "code": "X",
        "time": START - 5,
        "sid": "s1",
        "user": "alice\x1b[2J",
        "login": "pi",
        "node": "barn",
        "node_uuid": other.uuid,
        "cluster": "elsewhere",
        "id": 99,
        "received": 1,
    }
    assert _send(node.client, lie).body == {"accepted": 1}
    (event,) = auth.events("session.start")
    assert event["id"] != 99
    assert {key: event[key] for key in ("code", "time", "node", "node_uuid", "cluster", "received", "user")} == {
        "code": "T2000I",
        "time": START - 5,
        "node": "greenhouse",
        "node_uuid": node.uuid,
        "cluster": CLUSTER,
        "received": START,
        "user": "alice\\x1b[2J",
    }


def test_what_is_not_for_a_sender_to_say_is_left_out_and_told(auth: AuthServer) -> None:
    node, proxy = auth.join("greenhouse"), auth.join("gate", "proxy")
    bad: list[object] = [
        {"event": "user.login", "user": "root"},
        {"event": "role.create"},
        {"event": "node.join"},
        {"event": "nonsense"},
        {"event": 5},
        "text",
        {},
        {"event": "exec", "command": "x" * 20_000},
        {"event": "exec", **{f"k{number}": 1 for number in range(70)}},
    ]
    good = {"event": "exec", "command": "ls", "time": True}
    assert _send(node.client, *bad, good).body == {"accepted": 1}
    assert auth.events("exec")[0]["time"] == START
    assert auth.events("events.lost")[0]["count"] == len(bad)
    assert auth.events("user.login") == []
    assert _send(proxy.client, {"event": "session.start", "sid": "x"}, {"event": "auth.failed"}).body == {"accepted": 1}
    assert auth.events("auth.failed")[0]["proxy"] == "gate"


def test_a_batch_is_stored_once(auth: AuthServer) -> None:
    node, other = auth.join("greenhouse"), auth.join("barn")
    event = {"event": "exec", "command": "ls"}
    for _ in range(3):
        assert _send(node.client, event, event).body == {"accepted": 2}
    assert _send(other.client, event).body == {"accepted": 1}
    assert len(auth.events("exec")) == 3
    assert _send(node.client, *[event] * 501, batch="b2").status == 400
    assert _send(node.client, batch="x" * 129).status == 400
    assert _send(node.client, batch="empty").body == {"accepted": 0}


def test_live_sessions(auth: AuthServer) -> None:
    node, other = auth.join("greenhouse"), auth.join("barn")
    begin = {"event": "session.start", "sid": "s1", "user": "alice", "login": "pi", "time": START}
    _send(node.client, begin, {**begin, "sid": "s2"}, {**begin, "sid": 5}, {**begin, "sid": ""})
    # Another node cannot end it.
    _send(other.client, {"event": "session.end", "sid": "s1"})
    sessions = auth.local().get("/v1/sessions").body["sessions"]
    assert [(item["sid"], item["user"], item["login"], item["node"]) for item in sessions] == [
        ("s1", "alice", "pi", "greenhouse"),
        ("s2", "alice", "pi", "greenhouse"),
    ]
    _send(node.client, {"event": "session.end", "sid": "s1"}, batch="b2")
    assert [item["sid"] for item in auth.local().get("/v1/sessions").body["sessions"]] == ["s2"]
    auth.local().call("DELETE", "/v1/nodes/greenhouse")
    assert auth.local().get("/v1/sessions").body["sessions"] == []


def test_a_locked_node_still_reports(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    auth.local().post("/v1/locks", {"target": {"node": "greenhouse"}})
    assert _send(node.client, {"event": "session.end"}).status == 200
    assert node.client.get("/v1/policy").status == 200
    assert node.client.get("/v1/nodes").code == "locked"


def test_finding(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    for number in range(5):
        auth.clock.now += 10
        user = "alice" if number % 2 else "bob"
        _send(node.client, {"event": "exec", "user": user, "time": auth.clock.now}, batch=str(number))
    local = auth.local()

    def ids(**query: object) -> list[int]:
        return [event["id"] for event in local.get("/v1/audit", **query).body["events"]]

    everything = ids()
    assert everything == sorted(everything)
    assert ids(limit=2) == everything[-2:]
    assert ids(after=0, limit=2) == everything[:2]
    assert ids(after=everything[1], limit=2) == everything[2:4]
    assert len(ids(user="alice")) == 2
    assert len(ids(node="greenhouse", type="exec")) == 5
    assert len(ids(type="exec", since=START + 20, until=START + 40)) == 2
    assert local.get("/v1/audit", limit=2).body["last"] == everything[-1]
    assert local.get("/v1/audit", user="nobody").body == {"events": [], "last": everything[-1]}
    for query in ({"limit": 0}, {"limit": 5000}, {"since": "x"}, {"since": "nan"}, {"type": "nope"}, {"after": -1}):
        assert local.get("/v1/audit", **query).status == 400, query


def test_following(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    lines = auth.local().lines("/v1/audit?follow=1&after=0&node=greenhouse")
    try:
        assert next(lines)["event"] == "node.join"
        _send(node.client, {"event": "exec", "command": "ls"})
        assert next(lines)["command"] == "ls"
        auth.join("barn")
        _send(node.client, {"event": "exec", "command": "pwd"}, batch="b2")
        assert next(lines)["command"] == "pwd"
    finally:
        lines.close()


def test_following_ends_with_the_right_to(auth: AuthServer) -> None:
    client, _ = auth.user("alice", ["auditor", "access"], ["pi"])
    lines = client.lines("/v1/audit?follow=1&after=0&type=user.login")
    assert next(lines)["user"] == "alice"
    auth.local().call("DELETE", "/v1/users/alice")
    auth.clock.now += 11
    assert all("event" not in line for line in lines)


def test_the_chain_holds_and_its_head_is_signed(auth: AuthServer) -> None:
    auth.join("greenhouse")
    assert auth.local().get("/v1/audit/head").body["broken_at"] is None
    head = open_head(auth)
    assert (head["id"], head["hash"]) == auth.do(auth.service.store.read.audit.head())


def test_the_head_is_signed_again_while_nothing_happens(auth: AuthServer) -> None:
    """So that an export says until when there was nothing more."""
    auth.join("greenhouse")
    before = open_head(auth)
    auth.do(auth.service.audit.keep_signed(auth.service.store))
    assert open_head(auth) == before
    auth.clock.now += SIGN_EVERY
    auth.do(auth.service.audit.keep_signed(auth.service.store))
    after = open_head(auth)
    assert (after["id"], after["hash"]) == (before["id"], before["hash"])
    assert float(str(after["time"])) >= float(str(before["time"])) + SIGN_EVERY


def open_head(auth: AuthServer) -> dict[str, object]:
    key = parse_public_line(auth.local().get("/v1/ca", type="policy").body["keys"][0]["line"])
    return open_document(auth.local().get("/v1/audit/head").body["head"], key, "audit-head", CLUSTER)


def test_the_log_cannot_be_changed_by_accident_nor_unseen(auth: AuthServer, tmp_path: Path) -> None:
    auth.join("greenhouse")
    auth.join("barn")
    path = tmp_path / "auth" / "auth.db"
    with sqlite3.connect(path) as database:
        for statement in ("DELETE FROM audit WHERE id = 2", "UPDATE audit SET body = '{}' WHERE id = 2"):
            with pytest.raises(sqlite3.IntegrityError, match="only grows"):
                database.execute(statement)
        database.execute("DROP TRIGGER audit_holds")
        database.execute("UPDATE audit SET body = replace(body, 'greenhouse', 'outhouse') WHERE id = 2")
    database.close()
    assert auth.local().get("/v1/audit/head").body["broken_at"] == 2


def test_a_node_cannot_fill_the_disk_with_events(auth: AuthServer) -> None:
    node, other = auth.join("greenhouse"), auth.join("barn")
    waiting = auth.join("new", token=auth.token(pending=True))
    many = [{"event": "auth.failed", "reason": "x" * 15_000}] * 60

    def until_refused(client: Any) -> int:
        for number in range(10):
            answer = _send(client, *many, batch=f"b{number}")
            if answer.status != 200:
                assert (answer.status, answer.code) == (429, "slow_down")
                return number
        return 10

    assert until_refused(node.client) == 4
    assert until_refused(waiting.client) == 0
    few = {"event": "auth.failed", "reason": "x"}
    assert _send(other.client, few).status == 200
    assert _send(waiting.client, few).status == 200
    # What was refused may be sent again, a little later.
    auth.clock.now += 60
    assert _send(node.client, *many, batch="b4").status == 200


@pytest.mark.parametrize("kind", ["node", "proxy"])
def test_what_machines_say_is_theirs_to_say(kind: str) -> None:
    """An event that its sender may not speak of is counted as lost."""
    sources = "".join(path.read_text() for path in (ROOT / "tinyport" / kind).glob("*.py"))
    assert {name for name in CODES if f'"{name}"' in sources} <= MAY_SAY[kind]


def test_every_event_is_in_the_page() -> None:
    page = (ROOT / "docs/protocol/audit.md").read_text()
    assert dict(re.findall(r"^\| `([\w.]+)` \| (\w+) \|", page, re.MULTILINE)) == CODES
