"""Resources as documents, tokens and locks as listed."""

from __future__ import annotations

import pytest

from tinyport.auth.api_resources import KINDS
from tinyport.core.certificate import fingerprint, public_line
from tinyport.core.signatures import Ed25519Key

from .conftest import START, AuthServer


def test_roles_come_and_go(auth: AuthServer) -> None:
    local, path = auth.local(), "/v1/resources/role/team"
    document = {"kind": "role", "name": "team", "allow": {"logins": ["pi"], "node_labels": {"site": ["berlin"]}}}
    assert local.call("PUT", path + "?create=1", document).status == 200
    again = local.call("PUT", path + "?create=1", document)
    assert (again.status, again.code) == (409, "exists")
    assert local.get(path).body["resource"] == document
    # What was read can be put again.
    assert local.call("PUT", path, local.get(path).body["resource"]).status == 200
    auth.add_user("alice", ["team"], [])
    used = local.call("DELETE", path)
    assert (used.status, used.code) == (409, "in_use")
    local.call("DELETE", "/v1/users/alice")
    assert local.call("DELETE", path).status == 200
    assert local.call("DELETE", path).code == "not_found"
    assert local.get(path).code == "not_found"


def test_every_problem_of_a_role_is_named(auth: AuthServer) -> None:
    answer = auth.local().call("PUT", "/v1/resources/role/x", {"allow": {"logins": 5}, "options": {"nope": 1}})
    assert (answer.status, answer.code) == (400, "config")
    assert len(answer.body["error"]["problems"]) == 2
    other = auth.local().call("PUT", "/v1/resources/role/x", {"name": "y"})
    assert other.message == "the document is not of role x"


def test_an_editor_without_create_makes_nothing_new(auth: AuthServer) -> None:
    rules = [{"resources": ["roles"], "verbs": ["update"]}]
    auth.role("editor", allow={"logins": ["pi"], "rules": rules})
    client, _ = auth.user("eve", ["editor"], [])
    assert client.call("PUT", "/v1/resources/role/new", {"allow": {}}).code == "denied"
    changed = client.call("PUT", "/v1/resources/role/auditor", {"description": "x", "allow": {}})
    assert changed.status == 200, changed


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_lists(auth: AuthServer, kind: str) -> None:
    auth.join("greenhouse")
    auth.add_user("alice", ["access"], ["pi"])
    auth.local().post("/v1/locks", {"target": {"login": "root"}, "ttl": 60})
    partner = {"user_ca": public_line(Ed25519Key.generate().public_blob)}
    auth.local().call("PUT", "/v1/resources/trusted_cluster/partner.example", partner)
    found = auth.local().get(f"/v1/resources/{kind}")
    assert found.status == 200
    for document in found.body["resources"]:
        assert document["kind"] == kind
        one = auth.local().get(f"/v1/resources/{kind}/{document['name']}")
        assert one.body["resource"] == document
        if kind != "token":
            again = auth.local().call("PUT", f"/v1/resources/{kind}/{document['name']}", document)
            assert again.status == 200, again
    assert found.body["resources"]


def test_configuration(auth: AuthServer) -> None:
    path = "/v1/resources/cluster_config/cluster"
    assert auth.local().call("PUT", path, {"session_recording": "node"}).status == 200
    assert auth.local().get(path).body["resource"]["session_recording"] == "node"
    wrong = auth.local().call("PUT", path, {"session_recording": "sometimes", "nope": 1})
    assert (wrong.status, len(wrong.body["error"]["problems"])) == (400, 2)
    assert auth.local().call("PUT", "/v1/resources/cluster_config/other", {}).status == 400
    assert auth.local().call("DELETE", path).status == 400


def test_resources_that_are_not_made_from_files(auth: AuthServer) -> None:
    assert auth.local().call("PUT", "/v1/resources/token/x", {"type": "node"}).status == 400
    assert auth.local().call("PUT", "/v1/resources/node/x", {"labels": {}}).status == 400
    made = auth.local().call("PUT", "/v1/resources/user/dave", {"roles": ["access"], "logins": ["pi"]})
    assert made.body["resource"]["invited"] is True


def test_tokens_as_listed(auth: AuthServer) -> None:
    token = auth.token(labels={"site": "berlin"}, uses=3, ttl=60)
    id, _, secret = token.partition(".")
    listed = auth.local().get("/v1/tokens")
    assert listed.body["tokens"][0]["id"] == id
    assert listed.body["tokens"][0]["expires"] == START + 60
    assert secret not in str(listed.body)
    rows = auth.do(auth.service.store.read.database.all("SELECT * FROM tokens"))
    assert secret not in str([tuple(row) for row in rows])
    auth.clock.now += 61
    assert auth.local().get("/v1/tokens").body["tokens"] == []
    wrong: list[dict[str, object]] = [
        {"type": "user"},
        {"type": "node", "uses": 0},
        {"type": "node", "uses": True},
        {"type": "node", "ttl": 0},
        {"type": "node", "ttl": 1e30},
        {"type": "node", "labels": {"a b": "c"}},
        {"type": "node", "labels": []},
        {"type": "node", "pending": 1},
    ]
    for body in wrong:
        assert auth.local().post("/v1/tokens", body).code == "bad_request", body


def test_locks_as_listed(auth: AuthServer) -> None:
    made = auth.local().post("/v1/locks", {"target": {"node": "greenhouse"}, "ttl": 60, "message": "a\nb"}).body
    (listed,) = auth.local().get("/v1/locks").body["locks"]
    assert listed == made
    assert (listed["message"], listed["created_by"], listed["expires"]) == ("a\\x0ab", "local", START + 60)
    for target in (
        {},
        {"user": "a", "node": "b"},
        {"planet": "x"},
        {"user": "a b"},
        {"user": 5},
        {"device": "SHA256:x"},
        None,
    ):
        assert auth.local().post("/v1/locks", {"target": target}).status == 400, target
    assert auth.local().call("DELETE", "/v1/locks/nope").code == "not_found"


def test_a_locked_node_says_so_wherever_it_is_listed(auth: AuthServer) -> None:
    nodes = {name: auth.join(name) for name in ("greenhouse", "shed", "barn")}
    targets = (("greenhouse", 60, "soon"), (nodes["greenhouse"].uuid, 120, "later"), (nodes["shed"].uuid, None, ""))
    made = {}
    for target, ttl, message in targets:
        body = {"target": {"node": target}, "message": message, **({} if ttl is None else {"ttl": ttl})}
        made[message] = auth.local().post("/v1/locks", body).body["id"]
    names = {lock["target"]["node"]: lock.get("node_name") for lock in auth.local().get("/v1/locks").body["locks"]}
    assert names == {"greenhouse": None, nodes["greenhouse"].uuid: "greenhouse", nodes["shed"].uuid: "shed"}

    def locked(name: str) -> object:
        (node,) = [one for one in auth.local().get("/v1/nodes").body["nodes"] if one["name"] == name]
        assert node["locked"] == auth.local().get(f"/v1/nodes/{name}").body["node"]["locked"]
        return node["locked"]

    assert locked("shed") == {"id": made[""], "expires": None, "message": ""}
    assert locked("barn") is None
    # Of two the one that lasts.
    assert locked("greenhouse") == {"id": made["later"], "expires": START + 120, "message": "later"}
    auth.clock.now += 121
    assert locked("greenhouse") is None


def test_the_host_key_of_who_waits_is_listed(auth: AuthServer) -> None:
    """What an administrator compares before letting it in; of who is in, its own page says it."""
    keys = {
        name: fingerprint(auth.join(name, token=token).key.public_blob)
        for name, token in (("barn", auth.token()), ("shed", auth.token(pending=True)))
    }
    listed = {node["name"]: node["fingerprint"] for node in auth.local().get("/v1/nodes").body["nodes"]}
    assert listed == {"barn": None, "shed": keys["shed"]}
    shown = {name: auth.local().get(f"/v1/nodes/{name}").body["node"]["fingerprint"] for name in keys}
    assert shown == keys
