"""Signed documents: serials that only grow, only when something changed, and that reach whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyport.core.certificate import parse_public_line
from tinyport.core.policy import NodeDocument, Policy, open_document

from .conftest import CLUSTER, AuthServer, Machine


def _key(auth: AuthServer) -> bytes:
    return parse_public_line(auth.local().get("/v1/ca", type="policy").body["keys"][0]["line"])


def _policy(auth: AuthServer, node: Machine) -> Policy:
    return Policy.parse(open_document(node.client.get("/v1/policy").body, _key(auth), "policy", CLUSTER))


def test_the_policy_says_what_the_store_has(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    auth.join("gate", "proxy", addresses=["127.0.0.1:3080"])
    auth.role("team", allow={"logins": ["pi"]})
    auth.local().post("/v1/locks", {"target": {"role": "team"}, "ttl": 60, "message": "no"})
    policy = _policy(auth, node)
    assert set(policy.roles) == {"access", "admin", "auditor", "team"}
    assert policy.proxies == ("127.0.0.1:3080",)
    assert policy.tls_cas == tuple(auth.tls_cas)
    assert [(dict(lock.target), lock.message) for lock in policy.locks] == [({"role": "team"}, "no")]
    assert policy.config == {"session_recording": "off"}
    assert policy.user_cas == (parse_public_line(auth.local().get("/v1/ca", type="user").body["keys"][0]["line"]),)


def test_the_serial_grows_with_what_it_says_and_not_otherwise(start: Callable[..., AuthServer]) -> None:
    auth = start()
    serial = auth.service.issuer.policy.serial
    assert serial == 1

    def grown() -> int:
        nonlocal serial
        before, serial = serial, auth.service.issuer.policy.serial
        return serial - before

    auth.join("greenhouse")
    auth.add_user("alice", ["access"], ["pi"])
    auth.login("alice")
    assert grown() == 0
    auth.role("team", allow={"logins": ["pi"]})
    assert grown() == 1
    auth.role("team", allow={"logins": ["pi"]})
    assert grown() == 0
    lock = auth.local().post("/v1/locks", {"target": {"user": "bob"}}).body["id"]
    assert grown() == 1
    auth.local().call("DELETE", f"/v1/locks/{lock}")
    assert grown() == 1
    auth.local().call("PUT", "/v1/resources/cluster_config/cluster", {"session_recording": "strict"})
    assert grown() == 1
    auth.local().call("DELETE", "/v1/users/alice")
    assert grown() == 1
    refused = auth.local().call("PUT", "/v1/resources/role/bad", {"allow": {"logins": ["a b"]}})
    assert (refused.status, grown()) == (400, 0)
    auth.stop()
    again = start()
    assert again.service.issuer.policy.serial == serial


def test_node_documents_grow_by_themselves(auth: AuthServer) -> None:
    node = auth.join("greenhouse", token=auth.token(labels={"site": "berlin"}))
    key = _key(auth)

    def document() -> NodeDocument:
        signed = auth.do(auth.service.store.read.nodes.document(node.uuid))
        return NodeDocument.parse(open_document(signed, key, "node", CLUSTER))

    first = document()
    assert (first.serial, first.labels, first.state, first.name) == (1, {"site": "berlin"}, "active", "greenhouse")
    auth.local().call("PATCH", f"/v1/nodes/{node.uuid}", {"labels": {"rack": "2"}})
    assert (document().serial, document().labels) == (2, {"site": "berlin", "rack": "2"})
    auth.local().call("PATCH", "/v1/nodes/greenhouse", {"labels": {"site": None}})
    assert (document().serial, document().labels) == (3, {"rack": "2"})
    auth.local().call("PATCH", "/v1/nodes/greenhouse", {"labels": {"rack": "2"}})
    assert document().serial == 3
    for labels in ({"a b": "c"}, {"a": "\x07"}, {"a": 5}):
        assert auth.local().call("PATCH", "/v1/nodes/greenhouse", {"labels": labels}).status == 400


def test_a_node_is_renamed(auth: AuthServer) -> None:
    node, other = auth.join("greenhouse"), auth.join("cellar")
    proxy = auth.join("gate", "proxy", addresses=["port.example:443"])
    auth.local().post("/v1/registrations", {"devices": [{"serial": "3000abcd", "name": "shed"}]})
    local, key = auth.local(), _key(auth)
    cases = [
        ("cellar", 409),
        ("shed", 409),
        ("Attic", 400),
        (other.uuid, 400),
        (CLUSTER, 400),
        (f"attic.{CLUSTER}", 400),
        ("port.example", 400),
        (5, 400),
    ]
    for name, status in cases:
        assert local.call("PATCH", "/v1/nodes/greenhouse", {"name": name}).status == status, name
    assert local.call("PATCH", f"/v1/nodes/{proxy.uuid}", {"name": "door"}).status == 400
    answer = local.call("PATCH", "/v1/nodes/greenhouse", {"name": "attic", "labels": {"site": "roof"}})
    assert (answer.status, answer.body["node"]["name"], answer.body["node"]["uuid"]) == (200, "attic", node.uuid)
    assert answer.body["node"]["labels"] == {"site": "roof"}
    signed = auth.do(auth.service.store.read.nodes.document(node.uuid))
    assert NodeDocument.parse(open_document(signed, key, "node", CLUSTER)).name == "attic"
    assert auth.events("node.update")[0]["old_name"] == "greenhouse"
    # The old name is free, and not the device's any more.
    assert local.call("PATCH", "/v1/nodes/greenhouse", {"labels": {}}).status == 404
    auth.join("greenhouse")


def test_a_lock_by_name_is_not_renamed_away(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    auth.local().post("/v1/locks", {"target": {"node": "greenhouse"}})
    refused = auth.local().call("PATCH", f"/v1/nodes/{node.uuid}", {"name": "attic"})
    assert refused.status == 409
    assert "locked" in refused.body["error"]["message"]


def test_a_proxy_hears_everything_once_and_then_what_changes(auth: AuthServer) -> None:
    proxy = auth.join("gate", "proxy", addresses=["127.0.0.1:1"])
    node = auth.join("greenhouse")
    key = _key(auth)
    lines = proxy.client.lines("/v1/watch")

    def serial(line: dict[str, Any], kind: str) -> int:
        return int(str(open_document(line[kind], key, kind, CLUSTER)["serial"]))

    try:
        first = serial(next(lines), "policy")
        assert serial(next(lines), "node") == 1
        assert "keepalive" in next(lines)
        auth.role("team", allow={"logins": ["pi"]})
        assert serial(next(lines), "policy") == first + 1
        auth.local().call("PATCH", "/v1/nodes/greenhouse", {"labels": {"a": "b"}})
        assert serial(next(lines), "node") == 2
        auth.local().call("DELETE", "/v1/nodes/greenhouse")
        assert next(lines) == {"removed": node.uuid}
        assert "keepalive" in next(lines)
        # A proxy that is removed itself hears nothing more.
        auth.local().call("DELETE", "/v1/nodes/gate")
        rest = list(lines)
        assert all("node" not in line for line in rest)
    finally:
        lines.close()


def test_a_proxy_that_was_removed_hears_no_more(auth: AuthServer) -> None:
    proxy = auth.join("gate", "proxy")
    lines = proxy.client.lines("/v1/watch")
    assert "policy" in next(lines)
    assert "keepalive" in next(lines)
    auth.local().call("DELETE", "/v1/nodes/gate")
    assert all("policy" not in line for line in lines)


def test_time_is_signed_for_the_asker(auth: AuthServer) -> None:
    signed = auth.anyone().get("/v1/time", nonce="abc").body
    body = open_document(signed, _key(auth), "time", CLUSTER)
    assert (body["nonce"], body["time"]) == ("abc", auth.clock.now)
    assert auth.anyone().get("/v1/time").status == 400
    assert auth.anyone().get("/v1/time", nonce="x" * 129).status == 400


def test_where_proxies_are(auth: AuthServer) -> None:
    one, two = auth.join("one", "proxy"), auth.join("two", "proxy")
    for proxy, own in ((one, "one.example:443"), (two, "two.example:443")):
        report = {"full": True, "nodes": [], "addresses": [own, "balancer.example:443"]}
        assert proxy.client.post("/v1/presence", report).status == 200
    policy = auth.service.issuer.policy
    assert policy.proxies == ("one.example:443", "balancer.example:443", "two.example:443")
    # Who answers at the address that both have, nobody can say.
    assert policy.proxy_uuids == {"one.example:443": one.uuid, "two.example:443": two.uuid}
    path = "/v1/resources/cluster_config/cluster"
    assert auth.local().call("PUT", path, {"proxy_addresses": ["new.example:443"]}).status == 200
    assert auth.service.issuer.policy.proxies[0] == "new.example:443"
    assert auth.local().call("PUT", path, {"proxy_addresses": "new.example"}).status == 400
