"""Joining: tokens, races, lost answers, names, coming back, copies."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from tinyport.auth.settings import StaticToken
from tinyport.core.certificate import public_line
from tinyport.core.policy import open_document
from tinyport.core.signatures import Ed25519Key
from tinyport.host.tls import unverified_context

from .conftest import CLUSTER, AuthServer, Clock, Machine, csr, proof


def _keys() -> tuple[Ed25519Key, ed25519.Ed25519PrivateKey]:
    return Ed25519Key.generate(), ed25519.Ed25519PrivateKey.generate()


async def _post(address: tuple[str, int], context: ssl.SSLContext, body: bytes) -> tuple[int, dict[str, object]]:
    reader, writer = await asyncio.open_connection(*address, ssl=context)
    head = f"POST /v1/join HTTP/1.1\r\nHost: auth\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    # Its socket, too, and not only the TLS in it, before the loop ends.
    writer.transport.abort()
    await writer.wait_closed()
    first, _, rest = answer.partition(b"\r\n\r\n")
    return int(first.split()[1]), json.loads(rest)


def test_two_hundred_devices_race_for_one_use(auth: AuthServer) -> None:
    token = auth.token()
    bodies = [json.dumps(auth.join_body(token, f"pi-{number}", *_keys())).encode() for number in range(200)]
    context = unverified_context(alpn=["tinyport-auth"])

    async def race() -> list[tuple[int, dict[str, object]]]:
        return await asyncio.gather(*(_post(auth.addresses.listen, context, body) for body in bodies))

    answers = asyncio.run(race())
    winners = [body for status, body in answers if status == 200]
    assert len(winners) == 1
    losers = [body["error"] for status, body in answers if status != 200]
    assert {(error["code"], error["message"]) for error in losers if isinstance(error, dict)} == {
        ("bad_token", "the token was used already")
    }
    nodes = auth.local().get("/v1/nodes").body["nodes"]
    assert [node["uuid"] for node in nodes] == [winners[0]["uuid"]]
    assert auth.local().get("/v1/tokens").body["tokens"][0]["used"] == 1


def test_names_that_would_shadow_the_cluster(auth: AuthServer) -> None:
    auth.join("gate", "proxy", addresses=["port.farm.example:443"])
    for name in ("proxy", CLUSTER, f"pi.{CLUSTER}", "port.farm.example"):
        answer = auth.anyone().post("/v1/join", auth.join_body(auth.token(), name, *_keys()))
        assert answer.status == 400, (name, answer)
        assert "choose another nodename" in str(answer.body)


def test_a_lost_answer_can_be_asked_for_again(auth: AuthServer) -> None:
    token, (key, tls_key) = auth.token(), _keys()
    first = auth.anyone().post("/v1/join", auth.join_body(token, "greenhouse", key, tls_key))
    # It comes back with another TLS key and, as hostnames go, another name.
    again = auth.anyone().post("/v1/join", auth.join_body(token, "raspberrypi", key, _keys()[1]))
    assert again.status == 200, again
    assert (again.body["uuid"], again.body["name"]) == (first.body["uuid"], "greenhouse")
    assert again.body["ssh_certificate"] != first.body["ssh_certificate"]
    auth.clock.now += 3600
    late = auth.anyone().post("/v1/join", auth.join_body(token, "raspberrypi", key, tls_key))
    assert late.body["uuid"] == first.body["uuid"]
    stranger = auth.anyone().post("/v1/join", auth.join_body(token, "other", *_keys()))
    assert (stranger.status, stranger.code) == (401, "expired")


def test_several_uses_and_an_end(auth: AuthServer) -> None:
    token = auth.token(uses=2, ttl=600)
    auth.join("a", token=token)
    auth.join("b", token=token)
    third = auth.anyone().post("/v1/join", auth.join_body(token, "c", *_keys()))
    assert (third.status, third.message) == (401, "all 2 uses of the token are taken")


def test_tokens_that_are_no_good(auth: AuthServer) -> None:
    token = auth.token(ttl=60)
    id, _, secret = token.partition(".")
    wrong = [f"{id}.{'a' * len(secret)}", f"nosuchid.{secret}"]
    for text in wrong:
        answer = auth.anyone().post("/v1/join", auth.join_body(text, "a", *_keys()))
        assert (answer.status, answer.code) == (401, "bad_token")
        assert answer.message == "the token is not valid"
    malformed = auth.anyone().post("/v1/join", auth.join_body("nonsense", "a", *_keys()))
    assert malformed.status == 400
    assert "nonsense" not in malformed.message
    kind = auth.anyone().post("/v1/join", auth.join_body(token, "a", *_keys(), "proxy"))
    assert (kind.status, kind.code) == (401, "bad_token")
    assert "for a node" in kind.message
    auth.clock.now += 7200
    ended = auth.anyone().post("/v1/join", auth.join_body(token, "a", *_keys()))
    assert (ended.status, ended.code, ended.message) == (401, "expired", "the token expired 1h 59m ago")
    assert auth.local().call("DELETE", f"/v1/tokens/{id}").status == 200
    assert auth.anyone().post("/v1/join", auth.join_body(token, "a", *_keys())).code == "bad_token"
    reasons = [event["refusal"] for event in auth.events("node.join.failed")]
    assert reasons.count("bad_token") == 4
    assert secret not in json.dumps(auth.local().get("/v1/audit", limit=1000).body)


def test_a_token_for_other_networks(auth: AuthServer) -> None:
    far = auth.token(cidr=["10.0.0.0/8", "fd00::/8"])
    answer = auth.anyone().post("/v1/join", auth.join_body(far, "a", *_keys()))
    assert (answer.status, answer.code) == (403, "denied")
    near = auth.token(cidr=["127.0.0.0/8"])
    assert auth.join("a", token=near).name == "a"
    assert auth.local().post("/v1/tokens", {"type": "node", "cidr": ["everywhere"]}).status == 400


def test_names_are_unique_and_never_read_as_anothers(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    taken = auth.anyone().post("/v1/join", auth.join_body(auth.token(), "greenhouse", *_keys()))
    assert (taken.status, taken.code) == (409, "exists")
    assert "tctl nodes rm greenhouse" in taken.body["error"]["hint"]
    gate = auth.anyone().post("/v1/join", auth.join_body(auth.token("proxy"), "greenhouse", *_keys(), "proxy"))
    assert gate.code == "exists"
    for name in ("proxy", "auth", "localhost", CLUSTER, f"greenhouse.{CLUSTER}", node.uuid, "Upper", "a b", "", "-x"):
        answer = auth.anyone().post("/v1/join", auth.join_body(auth.token(), name, *_keys()))
        assert answer.status == 400, name
    assert len(auth.local().get("/v1/nodes").body["nodes"]) == 1


def test_name_templates(auth: AuthServer) -> None:
    token = auth.token(uses=5, name_template="berlin-{name}-{uuid8}")
    node = auth.join("pi", token=token)
    assert node.name == f"berlin-pi-{node.uuid[:8]}"
    board = auth.token(uses=5, name_template="pi-{serial}")
    assert auth.join("x", token=board, serial="10000000ABCDEF").name == "pi-10000000abcdef"
    missing = auth.anyone().post("/v1/join", auth.join_body(board, "x", *_keys()))
    assert (missing.status, missing.code) == (400, "bad_request")
    hostile = auth.anyone().post("/v1/join", auth.join_body(board, "x", *_keys(), serial="a/../b"))
    assert hostile.status == 400
    for template in ("pi-{hostname}", "UPPER", "pi {name}", "{"):
        assert auth.local().post("/v1/tokens", {"type": "node", "name_template": template}).status == 400, template
    same = auth.local().post("/v1/tokens", {"type": "node", "name_template": "pi", "uses": 2})
    assert same.status == 400


def test_the_proof_binds_key_challenge_and_request(auth: AuthServer) -> None:
    token, (key, tls_key) = auth.token(), _keys()
    good = auth.join_body(token, "a", key, tls_key)
    other = Ed25519Key.generate()
    request = csr(ed25519.Ed25519PrivateKey.generate())
    challenge = str(good["challenge"])
    wrong = [
        {**good, "ssh_public_key": public_line(other.public_blob)},
        {**good, "tls_csr": request},
        {**good, "proof": proof(b"tinyport-return-v1\0", challenge, str(good["tls_csr"]), key)},
        {**good, "proof": "!!!"},
        {**good, "proof": ""},
    ]
    for body in wrong:
        assert auth.anyone().post("/v1/join", body).status == 400
    for text in ("", "nonsense", "ü", challenge[:-4] + "AAAA"):
        answer = auth.anyone().post("/v1/join", {**good, "challenge": text})
        assert answer.status in (400, 401), answer
    auth.clock.now += 121
    stale = auth.anyone().post("/v1/join", good)
    assert (stale.status, stale.code) == (401, "stale_challenge")
    assert auth.local().get("/v1/tokens").body["tokens"][0]["used"] == 0


def test_pending_devices_wait(auth: AuthServer) -> None:
    node = auth.join("new", token=auth.token(pending=True))
    policy_key = _policy_key(auth)

    def state(signed: object) -> object:
        return open_document(signed, policy_key, "node", CLUSTER)["state"]

    assert state(node.answer["node"]) == "pending"
    assert auth.local().get("/v1/nodes").body["nodes"][0]["status"] == "pending"
    assert auth.local().post("/v1/nodes/new/accept").body["node"]["status"] == "offline"
    assert auth.local().post("/v1/nodes/new/reject").code == "in_use"
    other = auth.join("other", token=auth.token(pending=True))
    assert auth.local().post("/v1/nodes/other/reject").status == 200
    assert other.client.get("/v1/policy").code == "removed"


def _policy_key(auth: AuthServer) -> bytes:
    from tinyport.core.certificate import parse_public_line

    return parse_public_line(auth.local().get("/v1/ca", type="policy").body["keys"][0]["line"])


def test_static_tokens(start: Callable[..., AuthServer]) -> None:
    value = "fleet.0123456789abcdef0123"
    auth = start(static_tokens=(StaticToken("node", value, labels={"site": "berlin"}),))
    for name in ("a", "b", "c"):
        auth.join(name, token=value)
    assert {node["labels"]["site"] for node in auth.local().get("/v1/nodes").body["nodes"]} == {"berlin"}
    wrong = auth.anyone().post("/v1/join", auth.join_body("fleet.0123456789abcdef9999", "d", *_keys()))
    assert wrong.code == "bad_token"


def _renew(auth: AuthServer, node: Machine, generation: int = 1) -> Machine:
    tls_key = ed25519.Ed25519PrivateKey.generate()
    body = {"generation": generation, "ssh_public_key": public_line(node.key.public_blob), "tls_csr": csr(tls_key)}
    answer = node.client.post("/v1/renew", body)
    assert answer.status == 200, answer
    return Machine(node.key, tls_key, "", answer.body, auth.bearer(answer.body["tls_certificate"], tls_key))


def test_renewing_and_a_copy_that_comes_back(auth: AuthServer) -> None:
    first = auth.join("greenhouse")
    lost = _renew(auth, first)
    # The answer was lost: the old certificates still renew, until a newer one was used.
    second = _renew(auth, first)
    assert [lost.answer["generation"], second.answer["generation"]] == [2, 3]
    assert second.uuid == first.uuid
    third = _renew(auth, second)
    copy = first.client.post(
        "/v1/renew",
        {"generation": 3, "ssh_public_key": public_line(first.key.public_blob), "tls_csr": csr(_keys()[1])},
    )
    assert (copy.status, copy.code) == (403, "quarantined")
    assert auth.local().get("/v1/nodes").body["nodes"][0]["status"] == "quarantined"
    assert auth.events("node.quarantined")[0]["generation"] == 1
    assert auth.local().post("/v1/nodes/greenhouse/accept").body["node"]["status"] == "offline"
    assert _renew(auth, third).answer["generation"] == 5


def test_another_key_does_not_renew(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    body = {"generation": 1, "ssh_public_key": public_line(_keys()[0].public_blob), "tls_csr": csr(_keys()[1])}
    answer = node.client.post("/v1/renew", body)
    assert (answer.status, answer.code) == (403, "denied")


def _return(auth: AuthServer, uuid: str, key: Ed25519Key) -> tuple[dict[str, object], ed25519.Ed25519PrivateKey]:
    tls_key = ed25519.Ed25519PrivateKey.generate()
    challenge = auth.anyone().get("/v1/hello").body["challenge"]
    request = csr(tls_key)
    return {
        "uuid": uuid,
        "ssh_public_key": public_line(key.public_blob),
        "tls_csr": request,
        "challenge": challenge,
        "proof": proof(b"tinyport-return-v1\0", challenge, request, key),
    }, tls_key


def test_a_year_in_a_drawer(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    auth.clock.now += 365 * 86400
    renewed = node.client.post("/v1/renew", {})
    assert (renewed.status, renewed.code) == (401, "expired")
    body, _ = _return(auth, node.uuid, node.key)
    answer = auth.anyone().post("/v1/return", body)
    assert answer.status == 200, answer
    assert (answer.body["uuid"], answer.body["name"]) == (node.uuid, "greenhouse")
    assert answer.body["valid_before"] > auth.clock.now
    wrong_key, _ = _return(auth, node.uuid, Ed25519Key.generate())
    nobody, _ = _return(auth, "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b", Ed25519Key.generate())
    refusals = [auth.anyone().post("/v1/return", body) for body in (wrong_key, nobody)]
    # Nobody learns by this which UUIDs there are.
    assert {(refusal.status, json.dumps(refusal.body)) for refusal in refusals} == {(403, json.dumps(refusals[0].body))}
    locked = auth.local().post("/v1/locks", {"target": {"node": "greenhouse"}, "message": "stolen"})
    again, _ = _return(auth, node.uuid, node.key)
    answer = auth.anyone().post("/v1/return", again)
    assert (answer.status, answer.code, answer.message) == (403, "locked", "node greenhouse is locked: stolen")
    auth.local().call("DELETE", f"/v1/locks/{locked.body['id']}")
    auth.local().call("DELETE", f"/v1/nodes/{node.uuid}")
    gone, _ = _return(auth, node.uuid, node.key)
    assert auth.anyone().post("/v1/return", gone).status == 403


def test_a_removed_node_is_refused_everywhere(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    assert node.client.get("/v1/policy").status == 200
    assert auth.local().call("DELETE", "/v1/nodes/greenhouse").status == 200
    for method, path in (("GET", "/v1/policy"), ("GET", "/v1/nodes"), ("POST", "/v1/events"), ("POST", "/v1/renew")):
        answer = node.client.call(method, path, {} if method == "POST" else None)
        assert (answer.status, answer.code) == (403, "removed")
    assert auth.join("greenhouse").uuid != node.uuid


def test_the_same_device_with_a_new_token_keeps_its_record(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    token = auth.token()
    again = auth.anyone().post("/v1/join", auth.join_body(token, "other", node.key, _keys()[1]))
    assert (again.body["uuid"], again.body["name"]) == (node.uuid, "greenhouse")
    used = {row["id"]: row["used"] for row in auth.local().get("/v1/tokens").body["tokens"]}
    assert used[token.partition(".")[0]] == 1
    proxy = auth.anyone().post("/v1/join", auth.join_body(auth.token("proxy"), "p", node.key, _keys()[1], "proxy"))
    assert proxy.code == "exists"


def test_a_source_that_fails_too_often_waits(auth: AuthServer, clock: Clock) -> None:
    auth.service.failures._burst = 3
    body = auth.join_body(f"nosuchid.{'a' * 26}", "a", *_keys())
    codes = [auth.anyone().post("/v1/join", body).code for _ in range(5)]
    assert codes == ["bad_token"] * 3 + ["slow_down"] * 2
    assert len(auth.events("node.join.failed")) == 3
    clock.now += 2
    assert auth.anyone().post("/v1/join", body).code == "bad_token"


def test_a_proxy_is_not_made_to_wait_for_one_behind_it(auth: AuthServer) -> None:
    proxy = auth.join("gate", "proxy")
    proxy.client.post("/v1/presence", {"full": True, "nodes": []})
    auth.service.failures._burst = 3
    body = auth.join_body(f"nosuchid.{'a' * 26}", "a", *_keys())
    assert [auth.anyone().post("/v1/join", body).code for _ in range(8)] == ["bad_token"] * 8
    # Others behind it still join, and the log is not flooded.
    auth.join("a")
    assert len(auth.events("node.join.failed")) == 3


def test_board_names_that_are_long(auth: AuthServer) -> None:
    token = auth.token(name_template="{name}-{uuid8}")
    answer = auth.anyone().post("/v1/join", auth.join_body(token, "a" * 63, *_keys()))
    assert answer.status == 400
    with pytest.raises(AssertionError):
        auth.join("b" * 64)


def _replacing(auth: AuthServer, node: str) -> str:
    answer = auth.local().post("/v1/tokens", {"type": "node", "replaces": node})
    assert answer.status == 200, answer
    return str(answer.body["token"])


def test_a_board_that_was_written_anew_takes_its_old_place(auth: AuthServer) -> None:
    gate = auth.join("gate", "proxy")
    old = auth.join("greenhouse", token=auth.token(labels={"site": "berlin"}))
    token = _replacing(auth, "greenhouse")
    auth.clock.now += 60
    new = auth.join("raspberrypi", token=token)
    assert (new.uuid, new.answer["name"]) == (old.uuid, "greenhouse")
    listed = {node["name"]: node for node in auth.local().get("/v1/nodes").body["nodes"]}
    assert listed["greenhouse"]["labels"] == {"site": "berlin"}
    # What the old one has, in a thief's hands perhaps, is good for nothing.
    assert old.client.get("/v1/policy").code == "replaced"
    body, _ = _return(auth, old.uuid, old.key)
    assert auth.anyone().post("/v1/return", body).status == 403
    assert new.client.get("/v1/policy").status == 200
    assert _renew(auth, new).answer["uuid"] == old.uuid
    assert [event.get("replaced") for event in auth.events("node.join")] == [None, True]
    # Nobody else takes it by the same token.
    assert auth.anyone().post("/v1/join", auth.join_body(token, "other", *_keys())).code == "bad_token"
    assert gate.client.get("/v1/policy").status == 200


def test_while_the_old_one_is_there_the_new_one_waits(auth: AuthServer) -> None:
    gate, old = auth.join("gate", "proxy"), auth.join("greenhouse")
    report = {"full": True, "nodes": [{"uuid": old.uuid, "online": True}]}
    assert gate.client.post("/v1/presence", report).status == 200
    new = auth.join("greenhouse", token=_replacing(auth, "greenhouse"))
    assert new.uuid != old.uuid
    listed = {node["uuid"]: (node["name"], node["status"]) for node in auth.local().get("/v1/nodes").body["nodes"]}
    assert listed[old.uuid] == ("greenhouse", "online")
    assert listed[new.uuid] == (f"greenhouse-{new.uuid[:8]}", "pending")
    assert old.client.get("/v1/policy").status == 200


def test_two_devices_of_one_card_become_two_nodes(auth: AuthServer) -> None:
    gate = auth.join("gate", "proxy")
    card = auth.join("greenhouse", token=auth.token(labels={"site": "berlin"}))
    report = {"full": True, "nodes": [{"uuid": card.uuid, "online": True}]}
    assert gate.client.post("/v1/presence", report).status == 200
    made = auth.local().post("/v1/nodes/greenhouse/split", {"quarantine": True}).body
    assert {node["status"] for node in auth.local().get("/v1/nodes").body["nodes"]} == {"quarantined"}
    auth.clock.now += 60
    original = auth.join("pi", token=made["original"])
    copy = auth.join("pi", token=made["copy"])
    assert original.uuid == card.uuid != copy.uuid
    listed = {node["uuid"]: node for node in auth.local().get("/v1/nodes").body["nodes"]}
    assert (listed[card.uuid]["name"], listed[card.uuid]["labels"]) == ("greenhouse", {"site": "berlin"})
    # The copy decides nothing by labels that somebody gave to another device.
    assert (listed[copy.uuid]["status"], listed[copy.uuid]["labels"]) == ("pending", {})
    assert listed[copy.uuid]["name"] == f"greenhouse-{copy.uuid[:8]}"
    assert card.client.get("/v1/policy").code == "replaced"


def test_who_may_make_tokens_may_not_for_that_become_a_node_that_is_there(auth: AuthServer) -> None:
    auth.join("greenhouse")
    auth.role("tokens", allow={"logins": ["pi"], "rules": [{"resources": ["tokens"], "verbs": ["*"]}]})
    auth.add_user("tom", ["tokens"], [])
    client, _ = auth.login("tom")
    assert client.post("/v1/tokens", {"type": "node"}).status == 200
    assert client.post("/v1/tokens", {"type": "node", "replaces": "greenhouse"}).code == "denied"
    assert client.post("/v1/nodes/greenhouse/split").code == "denied"


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "proxy", "replaces": "greenhouse"},
        {"type": "node", "replaces": "greenhouse", "uses": 2},
        {"type": "node", "replaces": "greenhouse", "labels": {"a": "b"}},
        {"type": "node", "replaces": "nobody"},
        {"type": "node", "replaces": "gate"},
    ],
)
def test_a_token_replaces_one_node_as_it_is(auth: AuthServer, wrong: dict[str, object]) -> None:
    auth.join("gate", "proxy")
    auth.join("greenhouse")
    assert auth.local().post("/v1/tokens", wrong).status in (400, 404)


def test_a_removed_device_hears_that_even_when_its_certificate_has_ended(auth: AuthServer) -> None:
    gone, there = auth.join("greenhouse"), auth.join("shed")
    assert auth.local().call("DELETE", "/v1/nodes/greenhouse").status == 200
    for days in (0, 400):
        auth.clock.now += days * 86400
        assert gone.client.get("/v1/policy").code == "removed"
    assert there.client.get("/v1/policy").code == "expired"
