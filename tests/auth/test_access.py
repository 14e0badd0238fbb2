"""The access check: five truthful refusals, one for strangers, and names that resolve."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tinyport.core.certificate import parse_public_line

from .conftest import CLUSTER, START, Answer, AuthServer, Machine


class Farm:
    """Two nodes in Berlin, one in Paris; alice may go everywhere, bob to Berlin as pi, carol nowhere."""

    def __init__(self, auth: AuthServer) -> None:
        self.auth = auth
        self.proxy = auth.join("gate", "proxy", addresses=["127.0.0.1:3080"])
        self.nodes = {
            name: auth.join(name, token=auth.token(labels={"site": site, "name": name}))
            for name, site in (("b1", "berlin"), ("b2", "berlin"), ("p1", "paris"))
        }
        auth.role("berlin", allow={"logins": ["pi"], "node_labels": {"site": ["berlin"]}})
        auth.role("rules-only", allow={"logins": ["pi"], "rules": [{"resources": ["status"], "verbs": ["read"]}]})
        self.alice = auth.user("alice", ["access"], ["pi", "root"])[1]
        self.bob = auth.user("bob", ["berlin"], [])[1]
        self.carol = auth.user("carol", ["rules-only"], [])[1]
        self.online("b1", "b2", "p1")
        auth.clock.now += 31
        self.online("b1", "b2", "p1")

    def online(self, *names: str) -> None:
        entries = [
            {"uuid": self.nodes[name].uuid, "online": True, "labels": {"model": "pi4"}, "addresses": ["10.0.0.7:22"]}
            for name in names
        ]
        assert self.proxy.client.post("/v1/presence", {"full": True, "nodes": entries}).body["lease"] == 30

    def offline(self, name: str) -> None:
        entry = {"uuid": self.nodes[name].uuid, "online": False}
        self.proxy.client.post("/v1/presence", {"full": False, "nodes": [entry]})

    def ask(self, who: dict[str, Any], target: str, login: str | None = "pi", source: str = "192.0.2.1") -> Answer:
        blob = parse_public_line(who["ssh_certificate"])
        body = {"certificate": base64.b64encode(blob).decode(), "target": target, "login": login, "source": source}
        return self.proxy.client.post("/v1/access", body)


@pytest.fixture
def farm(auth: AuthServer) -> Farm:
    return Farm(auth)


def test_names_resolve(farm: Farm) -> None:
    b1: Machine = farm.nodes["b1"]
    expected = {"node": {"uuid": b1.uuid, "name": "b1"}, "user": "alice"}
    for target in ("b1", f"b1.{CLUSTER}", "B1", b1.uuid, f"{b1.uuid}.{CLUSTER}", "name=b1"):
        answer = farm.ask(farm.alice, target)
        assert (answer.status, answer.body) == (200, expected), target
    assert farm.ask(farm.alice, "p1", None).status == 200
    assert farm.ask(farm.alice, "p1", "root").status == 200
    # Declared labels find, but never open.
    assert farm.ask(farm.alice, "site=paris").body["node"]["name"] == "p1"
    assert farm.ask(farm.bob, "b2").status == 200


def test_an_ambiguous_name_lists_what_the_user_may_see(farm: Farm) -> None:
    answer = farm.ask(farm.alice, "model=pi4")
    assert (answer.status, answer.code) == (409, "ambiguous")
    assert [item["name"] for item in answer.body["error"]["candidates"]] == ["b1", "b2", "p1"]
    assert answer.body["error"]["candidates"][0]["labels"] == {"site": "berlin", "name": "b1"}
    bobs = farm.ask(farm.bob, "model=pi4")
    assert [item["name"] for item in bobs.body["error"]["candidates"]] == ["b1", "b2"]
    assert farm.ask(farm.carol, "model=pi4").message == "access denied"


def test_unknown(farm: Farm) -> None:
    answer = farm.ask(farm.alice, "nope\x1b[31m")
    assert (answer.status, answer.code, answer.message) == (404, "no_such_node", "there is no node nope\\x1b[31m")
    assert farm.ask(farm.alice, "site=rome").code == "no_such_node"
    # The proxy is no node.
    assert farm.ask(farm.alice, "gate").code == "no_such_node"
    assert farm.ask(farm.alice, "a=b=c").code == "no_such_node"


def test_offline_since(farm: Farm) -> None:
    farm.offline("b1")
    since = farm.auth.clock.now
    farm.auth.clock.now += 7200
    farm.online("b2")
    answer = farm.ask(farm.alice, "b1")
    assert (answer.status, answer.code, answer.message) == (409, "offline", "node b1 has been offline for 2h")
    assert answer.body["error"]["since"] == since
    never = farm.auth.join("new")
    assert farm.ask(farm.alice, never.uuid).message == "node new was never online"
    # Whoever may not be there at all is told that, not whether it is on.
    assert farm.ask(farm.alice, "b1", "games").code == "denied"


def test_denied_by_role(farm: Farm) -> None:
    answer = farm.ask(farm.alice, "b1", "games")
    assert (answer.status, answer.code) == (403, "denied")
    assert answer.body["error"]["hint"] == "your logins are pi, root"
    farm.auth.role("no-root", deny={"logins": ["root"], "node_labels": {"site": ["paris"]}})
    farm.auth.local().call("PATCH", "/v1/users/alice", {"roles": ["access", "no-root"]})
    alice = farm.auth.login("alice")[1]
    assert farm.ask(alice, "p1", "root").message == "role no-root denies root on p1"
    assert farm.ask(alice, "b1", "root").status == 200
    assert farm.ask(alice, "p1", None).status == 200


def test_clock_and_expiry(farm: Farm) -> None:
    farm.auth.clock.now += 13 * 3600
    expired = farm.ask(farm.alice, "b1")
    assert (expired.status, expired.code) == (401, "expired")
    assert expired.message.startswith("certificate expired ")
    farm.auth.clock.now = START - 3600
    early = farm.ask(farm.alice, "b1")
    assert (early.status, early.code) == (403, "clock")


def test_locked(farm: Farm) -> None:
    for target in ({"node": "b1"}, {"node": farm.nodes["b1"].uuid}, {"login": "pi"}, {"user": "alice"}):
        made = farm.auth.local().post("/v1/locks", {"target": target, "message": "maintenance"})
        assert made.status == 200, made
        answer = farm.ask(farm.alice, "b1")
        assert (answer.status, answer.code) == (403, "locked"), target
        assert answer.message.endswith("is locked: maintenance")
        farm.auth.local().call("DELETE", f"/v1/locks/{made.body['id']}")
    assert farm.ask(farm.alice, "b1").status == 200


def test_strangers_learn_nothing(farm: Farm) -> None:
    messages = {
        (answer.status, answer.code, answer.message)
        for answer in (
            farm.ask(farm.bob, "p1"),
            farm.ask(farm.bob, farm.nodes["p1"].uuid),
            farm.ask(farm.bob, "no-such-node"),
            farm.ask(farm.carol, "b1"),
            farm.ask(farm.carol, "no-such-node"),
        )
    }
    assert messages == {(403, "denied", "access denied")}


def test_foreign_and_malformed_certificates(farm: Farm) -> None:
    from tinyport.core.issue import issue_user_certificate
    from tinyport.core.signatures import Ed25519Key

    key = Ed25519Key.generate()
    blob = issue_user_certificate(
        key,
        public_key=key.public_blob,
        serial=1,
        nonce=bytes(32),
        cluster=CLUSTER,
        user="alice",
        logins=["pi"],
        roles=["access"],
        traits={},
        permits=[],
        now=int(farm.auth.clock.now),
        ttl=60,
    )
    body = {"certificate": base64.b64encode(blob).decode(), "target": "b1", "login": "pi", "source": "192.0.2.1"}
    foreign = farm.proxy.client.post("/v1/access", body)
    assert (foreign.status, foreign.message) == (403, "access denied")
    host = base64.b64encode(parse_public_line(farm.proxy.answer["ssh_certificate"])).decode()
    assert farm.proxy.client.post("/v1/access", {**body, "certificate": host}).message == "access denied"
    for wrong in ({"certificate": "!"}, {"certificate": "AAAA"}, {"target": ""}, {"login": "a b"}, {"target": 5}):
        assert farm.proxy.client.post("/v1/access", {**body, **wrong}).status == 400, wrong


def test_a_list_for_people_who_cannot_ask_themselves(farm: Farm) -> None:
    """As judged by their certificate, which a proxy has seen to be theirs; and no more than a list needs."""

    def listed(who: dict[str, Any], **question: Any) -> Answer:
        blob = parse_public_line(who["ssh_certificate"])
        return farm.proxy.client.post(
            "/v1/access/nodes", {"certificate": base64.b64encode(blob).decode(), "source": "192.0.2.1", **question}
        )

    nodes = listed(farm.alice).body["nodes"]
    assert {node["name"] for node in nodes} == set(farm.nodes)
    assert all(set(node) == {"uuid", "name", "status", "last_seen", "labels", "declared_labels"} for node in nodes)
    mine = {node["name"] for node in listed(farm.bob).body["nodes"]}
    assert mine < set(farm.nodes)
    b1: Machine = farm.nodes["b1"]
    assert [node["name"] for node in listed(farm.alice, search=b1.uuid).body["nodes"]] == ["b1"]
    # What is not shown is not found, either: one could guess it piece by piece.
    assert listed(farm.alice, search="10.0.0.7").body["nodes"] == []
    assert listed(farm.alice, selectors=["model=pi4", "site=moon"]).body["nodes"] == []
    for wrong in ({"selectors": ["nonsense"]}, {"selectors": "x"}, {"selectors": ["a=b"] * 20}, {"certificate": "!"}):
        assert listed(farm.alice, **wrong).status == 400, wrong
    farm.auth.local().post("/v1/locks", {"target": {"user": "alice"}})
    assert listed(farm.alice).code == "locked"


def test_refusals_are_in_the_audit_log(farm: Farm) -> None:
    farm.ask(farm.bob, "p1", source="192.0.2.9")
    event = farm.auth.events("access.denied")[-1]
    assert {key: event[key] for key in ("user", "target", "login", "source", "proxy", "refusal")} == {
        "user": "bob",
        "target": "p1",
        "login": "pi",
        "source": "192.0.2.9",
        "proxy": "gate",
        "refusal": "denied",
    }
    assert "may not see" in event["detail"]


def test_a_pending_node_is_not_reached(farm: Farm) -> None:
    farm.auth.join("new", token=farm.auth.token(pending=True))
    answer = farm.ask(farm.alice, "new")
    assert (answer.status, answer.message) == (403, "node new is pending")


def test_explain_says_what_access_says(farm: Farm) -> None:
    def explain(user: str, login: str, node: str) -> Answer:
        return farm.auth.local().post("/v1/explain", {"user": user, "login": login, "node": node})

    yes = explain("alice", "pi", "b1")
    assert yes.body["verdict"] == "allowed"
    assert "role access allows pi on b1" in yes.body["steps"]
    no = explain("bob", "pi", "p1").body
    assert no["verdict"] == "denied"
    assert any("role berlin says nothing about pi on p1" in step for step in no["steps"])
    farm.auth.local().post("/v1/locks", {"target": {"user": "alice"}})
    assert explain("alice", "pi", "b1").body["verdict"] == "denied"
    assert explain("nobody", "pi", "b1").code == "not_found"
    assert explain("alice", "pi", "nope").code == "not_found"


def test_node_lists_show_what_one_may_see(farm: Farm) -> None:
    bob, _ = farm.auth.login("bob")
    carol, _ = farm.auth.login("carol")
    alice, _ = farm.auth.login("alice")

    def names(client: Any, **query: object) -> list[str]:
        return [node["name"] for node in client.get("/v1/nodes", **query).body["nodes"]]

    assert names(bob) == ["b1", "b2"]
    assert names(carol) == []
    assert names(alice, selector=["site=berlin"]) == ["b1", "b2"]
    assert names(alice, selector=["site=berlin", "name=b2"]) == ["b2"]
    assert names(alice, selector="model=pi*") == ["b1", "b2", "p1"]
    assert names(alice, search="PARIS p1") == ["p1"]
    assert alice.get("/v1/nodes", selector="nonsense").status == 400
    farm.auth.role("not-paris", deny={"node_labels": {"site": ["paris"]}})
    farm.auth.local().call("PATCH", "/v1/users/alice", {"roles": ["access", "not-paris"]})
    # What she held did not know of the deny, so it counts no more.
    assert alice.get("/v1/nodes").code == "login_required"
    alice, _ = farm.auth.login("alice")
    assert names(alice) == ["b1", "b2"]
    listed = farm.nodes["b1"].client.get("/v1/nodes").body["nodes"]
    assert listed[0] == {"uuid": farm.nodes["b1"].uuid, "name": "b1", "status": "online"}
    assert len(listed) == 3
