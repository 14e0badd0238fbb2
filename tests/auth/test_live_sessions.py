"""The table of live sessions: what ends them, and what closes those that nobody will end."""

from __future__ import annotations

import json
from typing import Any

from tinyport.auth.live_sessions import ENDED_BY_NOW, FORGOTTEN_AFTER, sweep

from .conftest import START, AuthServer, Machine

BEGIN = {"event": "session.start", "user": "alice", "login": "pi", "kind": "shell", "time": START}


def say(node: Machine, batch: str, *events: dict[str, object]) -> None:
    assert node.client.post("/v1/events", {"batch": batch, "events": list(events)}).status == 200


def listed(auth: AuthServer) -> dict[str, Any]:
    return {one["id"]: one["state"] for one in auth.local().get("/v1/sessions").body["sessions"]}


def ended(auth: AuthServer, node: Machine) -> list[dict[str, str]]:
    """What the node's signed document says."""
    signed = auth.do(auth.service.store.read.nodes.document(node.uuid))
    assert signed is not None
    found: list[dict[str, str]] = json.loads(signed["document"]).get("ended", [])
    return found


def test_ending_one_is_a_word_in_the_signed_document_until_it_has_ended(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    say(node, "1", {**BEGIN, "sid": "aaaa1"}, {**BEGIN, "sid": "aaaa2"}, {**BEGIN, "sid": "bbbb1"})
    assert ended(auth, node) == []
    ending = auth.local()
    assert ending.call("DELETE", "/v1/sessions/aaaa").code == "ambiguous"
    assert ending.call("DELETE", "/v1/sessions/bbb").code == "not_found"
    admin, _ = auth.user("root", ["admin", "access"], ["root"])
    assert admin.call("DELETE", "/v1/sessions/bbbb").body == {"id": "bbbb1", "user": "alice", "node": "greenhouse"}
    # Who was first is who did it.
    assert ending.call("DELETE", "/v1/sessions/bbbb1").status == 200
    assert ended(auth, node) == [{"id": "bbbb1", "by": "root"}]
    assert listed(auth)["bbbb1"] == "ending"
    assert [event["by"] for event in auth.events("session.kill")] == ["user:root"]
    say(node, "2", {"event": "session.end", "sid": "bbbb1"})
    assert ended(auth, node) == []
    assert "bbbb1" not in listed(auth)


def test_who_may_end_one(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    say(node, "1", {**BEGIN, "sid": "aaaa1"})
    auditor, _ = auth.user("ann", ["auditor", "access"], ["pi"])
    assert auditor.call("DELETE", "/v1/sessions/aaaa1").status == 403
    auth.role("warden", allow={"logins": ["pi"], "rules": [{"resources": ["sessions"], "verbs": ["delete"]}]})
    warden, _ = auth.user("will", ["warden"], ["pi"])
    assert warden.call("DELETE", "/v1/sessions/aaaa1").status == 200


def test_a_node_cannot_say_that_somebody_ended_one(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    say(node, "1", {**BEGIN, "sid": "aaaa1", "ended_by": "root", "ended_at": 0}, {"event": "session.kill"})
    assert listed(auth) == {"aaaa1": "live"}
    assert ended(auth, node) == []
    assert auth.events("session.kill") == []


def test_a_machine_that_has_booted_has_none_of_its_earlier_sessions(auth: AuthServer) -> None:
    node, other = auth.join("greenhouse"), auth.join("barn")
    for machine in (node, other):
        say(machine, "1", {**BEGIN, "sid": "old", "boot": "1"}, {**BEGIN, "sid": "nameless"})
    say(node, "2", {"event": "access.denied", "boot": "2", "time": START + 60})
    assert sorted(listed(auth)) == ["nameless", "old"]
    assert [(event["node"], event["sid"], event["reason"]) for event in auth.events("session.end")] == [
        ("greenhouse", "old", "the node was restarted")
    ]
    # What its spool kept from before says nothing about the sessions of today.
    say(node, "3", {**BEGIN, "sid": "new", "boot": "2", "time": START + 61})
    say(node, "4", {"event": "access.denied", "boot": "1", "time": START + 1})
    assert "new" in listed(auth)


def test_a_keeper_that_was_killed_has_none_of_its_sessions(auth: AuthServer) -> None:
    """Nobody told of their ends: the node names those who live, and the others' are over."""
    node, other = auth.join("greenhouse"), auth.join("barn")
    begun = [{**BEGIN, "sid": f"{name}{count}", "uid": f"{name}-{count}"} for name in ("a", "b") for count in (1, 2)]
    for machine in (node, other):
        say(machine, "1", *begun, {**BEGIN, "sid": "nameless"})
    for batch, nonsense in enumerate((None, "a", {"a": 1}, ["x"] * 1000)):
        say(node, f"no {batch}", {"event": "node.living", "keepers": nonsense})
    assert sorted(listed(auth)) == ["a1", "a2", "b1", "b2", "nameless"]
    # At its place among the others: what began before it and what began after it.
    say(node, "2", {"event": "node.living", "keepers": ["b"]}, {**BEGIN, "sid": "c1", "uid": "c-1"})
    lost = [event for event in auth.events("session.end") if event["reason"] == "lost"]
    assert [(event["node"], event["sid"], event["user"]) for event in lost] == [
        ("greenhouse", "a1", "alice"),
        ("greenhouse", "a2", "alice"),
    ]
    assert "c1" in listed(auth)
    # The same batch again, as after a lost answer.
    say(node, "2", {"event": "node.living", "keepers": ["b"]}, {**BEGIN, "sid": "c1", "uid": "c-1"})
    assert "c1" in listed(auth)
    # It is no event, and nobody reads it in the log.
    written = auth.local().get("/v1/audit", limit=1000).body["events"]
    assert "node.living" not in {event["event"] for event in written}
    assert auth.events("events.lost") == []


def test_a_proxy_does_not_count_keepers(auth: AuthServer) -> None:
    node, proxy = auth.join("greenhouse"), auth.join("gate", "proxy")
    say(node, "1", {**BEGIN, "sid": "a1", "uid": "a-1"})
    say(proxy, "2", {"event": "node.living", "keepers": []})
    assert listed(auth) == {"a1": "live"}


def test_a_node_that_is_away(auth: AuthServer) -> None:
    node, proxy = auth.join("greenhouse"), auth.join("gate", "proxy")
    here = {"full": True, "nodes": [{"uuid": node.uuid, "online": True}]}
    assert proxy.client.post("/v1/presence", here).status == 200
    say(node, "1", {**BEGIN, "sid": "aaaa1"})
    auth.clock.now += 40
    assert proxy.client.post("/v1/presence", here).status == 200
    assert listed(auth) == {"aaaa1": "live"}
    proxy.client.post("/v1/presence", {"full": False, "nodes": [{"uuid": node.uuid, "online": False}]})
    assert listed(auth) == {"aaaa1": "lost"}
    auth.do(sweep(auth.service))
    assert listed(auth) == {"aaaa1": "lost"}
    auth.clock.now += FORGOTTEN_AFTER + 1
    auth.do(sweep(auth.service))
    assert listed(auth) == {}
    (event,) = auth.events("session.end")
    assert (event["user"], event["reason"]) == ("alice", "the node has been away for a day")


def test_what_should_have_ended_and_is_not_there(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    say(node, "1", {**BEGIN, "sid": "aaaa1"})
    auth.local().call("DELETE", "/v1/sessions/aaaa1")
    auth.do(sweep(auth.service))
    assert listed(auth) == {"aaaa1": "ending"}
    auth.clock.now += ENDED_BY_NOW - 31
    proxy = auth.join("gate", "proxy")
    auth.clock.now += 31
    proxy.client.post("/v1/presence", {"full": True, "nodes": [{"uuid": node.uuid, "online": True}]})
    auth.do(sweep(auth.service))
    assert listed(auth) == {}
    assert ended(auth, node) == []
