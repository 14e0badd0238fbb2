"""Cloned cards: both are seen, the later one waits, one command makes two nodes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from tinyport.auth.api_proxy import expire_presence
from tinyport.auth.copies import NOTICED_WITHIN
from tinyport.auth.presence import FULL_REPORT_GRACE, LEASE
from tinyport.core.certificate import public_line
from tinyport.core.signatures import Ed25519Key

from .conftest import Answer, AuthServer, Machine, csr, proof

FIRST, LATER, THIRD = "a" * 32, "b" * 32, "c" * 32


def here(node: Machine, instance: str) -> dict[str, Any]:
    """As a node does it: the first answer has the time, with which it asks once more."""
    first = node.client.post("/v1/here", {"instance": instance})
    assert (first.status, first.body["again"]) == (200, True), first
    answer = node.client.post("/v1/here", {"instance": instance, "heard": first.body["heard"]})
    assert (answer.status, answer.body["again"]) == (200, False), answer
    return answer.body


def renew(node: Machine, instance: str = "") -> tuple[Answer, Any]:
    tls_key = ed25519.Ed25519PrivateKey.generate()
    body = {"generation": 1, "ssh_public_key": public_line(node.key.public_blob), "tls_csr": csr(tls_key)}
    return node.client.post("/v1/renew", {**body, **({"instance": instance} if instance else {})}), tls_key


def renewed(auth: AuthServer, node: Machine, instance: str = "") -> Machine:
    answer, tls_key = renew(node, instance)
    assert answer.status == 200, answer
    return Machine(node.key, tls_key, "", answer.body, auth.bearer(answer.body["tls_certificate"], tls_key))


def come_back(auth: AuthServer, node: Machine, **fields: object) -> Answer:
    challenge, request = auth.anyone().get("/v1/hello").body["challenge"], csr(node.tls_key)
    body = {
        "uuid": node.uuid,
        "ssh_public_key": public_line(node.key.public_blob),
        "tls_csr": request,
        "challenge": challenge,
        "proof": proof(b"tinyport-return-v1\0", challenge, request, node.key),
    }
    return auth.anyone().post("/v1/return", {**body, **fields})


def listed(auth: AuthServer, name: str = "greenhouse") -> dict[str, Any]:
    (node,) = [node for node in auth.local().get("/v1/nodes").body["nodes"] if node["name"] == name]
    return dict(node)


def document(auth: AuthServer, node: Machine) -> dict[str, Any]:
    signed = auth.do(auth.service.store.read.nodes.document(node.uuid))
    assert signed is not None
    return dict(json.loads(signed["document"]))


def clone(auth: AuthServer) -> Machine:
    """A node and its copy, which auth has told from each other; both have the certificate that is returned."""
    node = auth.join("greenhouse", token=auth.token(labels={"site": "berlin"}))
    here(node, FIRST)
    auth.clock.now += 1
    here(node, LATER)
    auth.clock.now += 1
    assert here(node, FIRST)["renew"]
    return node


def test_the_later_of_two_waits_and_the_first_goes_on(auth: AuthServer) -> None:
    node = clone(auth)
    (copy,) = listed(auth)["copies"]
    assert (listed(auth)["status"], copy["split"], copy["online"]) == ("offline", False, False)
    assert (document(auth, node)["state"], document(auth, node)["copies"]) == ("active", [LATER])
    assert here(node, LATER)["copy"]
    answer, _ = renew(node, LATER)
    assert (answer.status, answer.code) == (403, "quarantined")
    assert "token" not in answer.body["error"]
    # The first has another certificate from here on, and with it there is nothing left to do.
    auth.clock.now += 1
    assert not here(renewed(auth, node, FIRST), FIRST)["renew"]
    assert auth.events("node.quarantined")[0]["copy"] is True
    metrics = auth.local().get("/v1/figures").body["nodes"]
    assert (metrics["quarantined"], metrics["offline"]) == (1, 1)


def test_a_device_that_starts_again_and_renews_is_one(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    for number in range(6):
        auth.clock.now += 1
        found = here(node, f"{number:032x}")
        assert [found[name] for name in ("again", "copy", "split", "renew")] == [False] * 4
        node = renewed(auth, node, f"{number:032x}")
    # The answer was lost: it has the old certificate, and the same process asks again with it.
    renewed(auth, node, f"{5:032x}")
    renewed(auth, node, f"{5:032x}")
    assert listed(auth)["copies"] == []


def test_one_command_makes_two_nodes(auth: AuthServer) -> None:
    node = clone(auth)
    made = auth.local().post("/v1/nodes/greenhouse/split", {"name": "shed", "labels": {"site": "attic"}})
    assert made.status == 200, made
    assert [copy["id"] for copy in made.body["copies"]] == [listed(auth)["copies"][0]["id"]]
    assert document(auth, node)["split"] == [LATER]
    assert here(node, LATER)["split"]
    lost, _ = renew(node, LATER)
    answer, _ = renew(node, LATER)
    assert (answer.status, answer.code) == (403, "split")
    # Of two tokens only the last one counts, and it makes one node.
    token = answer.body["error"]["token"]
    gone = auth.anyone().post(
        "/v1/join", auth.join_body(lost.body["error"]["token"], "pi", Ed25519Key.generate(), csr_key())
    )
    assert gone.code == "bad_token"
    twin = auth.join("greenhouse", token=token)
    assert (twin.name, twin.uuid != node.uuid) == ("shed", True)
    assert (listed(auth, "shed")["status"], listed(auth, "shed")["labels"]) == ("offline", {"site": "attic"})
    assert listed(auth)["copies"] == []
    # Its last tunnel with the old identity may still be there.
    assert (document(auth, node)["copies"], "split" in document(auth, node)) == ([LATER], False)
    # Its answer was lost, and the board was written anew meanwhile: the same node.
    again, _ = renew(node, LATER)
    assert auth.join("greenhouse", token=again.body["error"]["token"]).uuid == twin.uuid


def csr_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def test_once_it_is_a_node_of_its_own_its_old_identity_gets_nothing(auth: AuthServer) -> None:
    node = clone(auth)
    assert auth.local().post("/v1/nodes/greenhouse/split").status == 200
    answer, _ = renew(node, LATER)
    twin = auth.join("pi", token=answer.body["error"]["token"])
    assert twin.name == f"greenhouse-{twin.uuid[:8]}"
    here(renewed(auth, twin), THIRD)
    answer, _ = renew(node, LATER)
    assert (answer.code, "token" in answer.body["error"]) == ("quarantined", False)


def test_a_copy_of_an_older_certificate_waits_at_once_and_starts_as_often_as_it_likes(auth: AuthServer) -> None:
    old = auth.join("greenhouse")
    here(old, FIRST)
    assert not here(renewed(auth, old, FIRST), FIRST)["copy"]
    for number in range(3):
        assert here(old, f"{number:032x}")["copy"]
    assert len(listed(auth)["copies"]) == 1
    assert renew(old, THIRD)[0].code == "quarantined"


def test_a_copy_that_was_away_for_a_year(auth: AuthServer) -> None:
    old = auth.join("greenhouse")
    here(old, FIRST)
    here(renewed(auth, old, FIRST), FIRST)
    auth.clock.now += 366 * 86400
    answer = come_back(auth, old, instance=LATER, generation=1)
    assert (answer.status, answer.code) == (403, "quarantined")
    assert len(listed(auth)["copies"]) == 1
    assert auth.local().post("/v1/nodes/greenhouse/split").status == 200
    token = come_back(auth, old, instance=LATER, generation=1).body["error"]["token"]
    assert auth.join("pi", token=token).name.startswith("greenhouse-")
    # The node itself was away as long, and has the newest certificate.
    assert come_back(auth, old, instance=THIRD, generation=2).status == 200


def test_while_another_one_is_connected_nobody_comes_back(auth: AuthServer) -> None:
    gate, node = auth.join("gate", "proxy"), auth.join("greenhouse")
    here(node, FIRST)
    report = {"full": True, "nodes": [{"uuid": node.uuid, "online": True}]}
    assert gate.client.post("/v1/presence", report).status == 200
    assert come_back(auth, node, instance=LATER, generation=1).code == "in_use"
    assert come_back(auth, node, instance=FIRST, generation=1).status == 200
    report["nodes"] = [{"uuid": node.uuid, "online": False}]
    assert gate.client.post("/v1/presence", report).status == 200
    assert come_back(auth, node, instance=LATER, generation=1).status == 200


def test_proxies_say_where_a_copy_is(auth: AuthServer) -> None:
    gate, node = auth.join("gate", "proxy"), clone(auth)
    entry = {"uuid": node.uuid, "online": False, "copies": [{"instance": LATER, "peer": "10.0.0.9:4242"}]}
    for extra in ({}, {"copies": "x"}, {"copies": [7, {}]}):
        assert gate.client.post("/v1/presence", {"full": True, "nodes": [{**entry, **extra}]}).status == 200
    assert gate.client.post("/v1/presence", {"full": True, "nodes": [entry]}).status == 200
    (copy,) = listed(auth)["copies"]
    assert (copy["online"], copy["peer"]) == (True, "10.0.0.9:4242")
    assert gate.client.post("/v1/presence", {"full": True, "nodes": [{**entry, "copies": []}]}).status == 200
    (copy,) = listed(auth)["copies"]
    assert (copy["online"], copy["peer"]) == (False, "10.0.0.9:4242")


def old_and_gate(auth: AuthServer) -> tuple[Machine, Callable[..., None]]:
    """A node's old certificate, which its copies have, and what its proxy says of which copies are connected."""
    gate, old = auth.join("gate", "proxy"), auth.join("greenhouse")
    here(old, FIRST)
    here(renewed(auth, old, FIRST), FIRST)

    def connected(*instances: str) -> None:
        entry = {"uuid": old.uuid, "online": True}
        copies = [{"instance": one, "peer": "10.0.0.9:1"} for one in instances]
        body = {"nodes": [{**entry, **({"copies": copies} if copies else {})}]}
        assert gate.client.post("/v1/presence", body).status == 200

    return old, connected


def test_a_copy_that_is_back_before_its_leaving_was_heard_of_is_one(auth: AuthServer) -> None:
    old, connected = old_and_gate(auth)
    assert here(old, LATER)["copy"]
    (before,) = listed(auth)["copies"]
    connected(LATER)
    auth.clock.now += 60
    assert auth.local().post("/v1/nodes/greenhouse/split", {"labels": {"site": "attic"}}).status == 200
    # Again, and once more, while auth still hears that the first of its processes is connected.
    for instance in (THIRD, "d" * 32):
        auth.clock.now += 1
        assert here(old, instance)["copy"]
    assert [copy["split"] for copy in listed(auth)["copies"]] == [True, False]
    connected("d" * 32)
    (copy,) = listed(auth)["copies"]
    assert (copy["found"], copy["online"], copy["split"]) == (before["found"], True, True)
    assert document(auth, old)["copies"] == ["d" * 32]
    # Nothing is left that waits for a device that is not there.
    token = renew(old, "d" * 32)[0].body["error"]["token"]
    assert auth.join("pi", token=token).uuid != old.uuid
    assert listed(auth)["copies"] == []


def test_of_a_copy_that_was_split_between_no_row_is_left(auth: AuthServer) -> None:
    old, connected = old_and_gate(auth)
    here(old, LATER)
    connected(LATER)
    auth.clock.now += 1
    here(old, THIRD)
    made = auth.local().post("/v1/nodes/greenhouse/split")
    assert len(made.body["copies"]) == 2
    auth.join("pi", token=renew(old, THIRD)[0].body["error"]["token"])
    connected()
    assert listed(auth)["copies"] == []
    assert "split" not in document(auth, old)


def test_copies_that_were_there_together_stay_two(auth: AuthServer) -> None:
    old, connected = old_and_gate(auth)
    here(old, LATER)
    connected(LATER)
    auth.clock.now += 60
    here(old, THIRD)
    connected(LATER, THIRD)
    # The one that was found last leaves: it is none of those that were there before it.
    connected(LATER)
    assert len(listed(auth)["copies"]) == 2
    here(old, THIRD)
    connected(LATER, THIRD)
    auth.clock.now += NOTICED_WITHIN + 1
    connected(THIRD)
    connected()
    assert len(listed(auth)["copies"]) == 2


def test_a_copy_leaves_with_its_proxy(auth: AuthServer) -> None:
    old, connected = old_and_gate(auth)
    here(old, LATER)
    connected(LATER)
    auth.clock.now += 1
    here(old, THIRD)
    assert len(listed(auth)["copies"]) == 2
    auth.clock.now += LEASE
    auth.do(expire_presence(auth.service))
    (copy,) = listed(auth)["copies"]
    assert (copy["online"], document(auth, old)["copies"]) == (False, [THIRD])


def test_a_proxy_that_starts_again_says_nothing_of_a_copy_that_left_meanwhile(auth: AuthServer) -> None:
    gate, node = auth.join("gate", "proxy"), clone(auth)
    entry = {"uuid": node.uuid, "online": False, "copies": [{"instance": LATER, "peer": "10.0.0.9:4242"}]}
    assert gate.client.post("/v1/presence", {"full": True, "nodes": [entry]}).status == 200
    assert gate.client.post("/v1/presence", {"full": True, "nodes": []}).status == 200
    assert listed(auth)["copies"][0]["online"]
    # The rest of a full report may say it.
    assert gate.client.post("/v1/presence", {"nodes": [entry]}).status == 200
    auth.clock.now += FULL_REPORT_GRACE
    auth.do(expire_presence(auth.service))
    assert listed(auth)["copies"][0]["online"]
    assert gate.client.post("/v1/presence", {"full": True, "nodes": []}).status == 200
    auth.clock.now += FULL_REPORT_GRACE
    auth.do(expire_presence(auth.service))
    assert not listed(auth)["copies"][0]["online"]


def test_accepting_says_that_there_is_one(auth: AuthServer) -> None:
    node = clone(auth)
    assert auth.local().post("/v1/nodes/greenhouse/accept").body["node"]["status"] == "offline"
    assert listed(auth)["copies"] == []
    assert renew(node, LATER)[0].status == 200


def test_a_card_from_a_backup_is_accepted_once_and_for_all(auth: AuthServer) -> None:
    old = auth.join("greenhouse")
    renewed(auth, renewed(auth, old))
    assert renew(old)[0].code == "quarantined"
    assert listed(auth)["status"] == "quarantined"
    assert auth.local().post("/v1/nodes/greenhouse/accept").status == 200
    assert renew(old)[0].status == 200
    assert listed(auth)["status"] == "offline"


def test_after_a_restored_backup_of_auth_nobody_is_a_copy(start: Callable[..., AuthServer]) -> None:
    auth = start()
    node = auth.join("greenhouse")
    here(node, FIRST)

    async def forget() -> None:
        # What the backup does not know: the last certificate, the last processes.
        async with auth.service.store.write() as tables:
            await tables.cluster._rows.run("DELETE FROM certificates")
            await tables.nodes.set_generations(node.uuid, 7, 7)

    auth.do(forget())
    for instance in (LATER, THIRD):
        auth.clock.now += 1
        found = here(node, instance)
        assert not found["copy"]
    assert renew(node, THIRD)[0].status == 200


def test_removing_the_node_removes_its_copies(auth: AuthServer) -> None:
    node = clone(auth)
    assert auth.local().call("DELETE", "/v1/nodes/greenhouse").status == 200
    assert node.client.post("/v1/here", {"instance": LATER}).code == "removed"
    assert auth.do(auth.service.store.read.copies.of(node.uuid)) == []


def test_words_that_come_late_or_are_somebody_elses_say_nothing(auth: AuthServer) -> None:
    node, other = auth.join("greenhouse"), auth.join("shed")
    before = here(node, FIRST)["heard"]
    auth.clock.now += 10
    now = here(node, LATER)["heard"]
    assert not node.client.post("/v1/here", {"instance": FIRST, "heard": before}).body["again"]
    stated, _, mac = now.partition("-")
    made_up = (f"{float(stated) + 60:.3f}-{mac}", f"1.0-{mac}", f"{stated}-", "nan-", "-", "x" * 100)
    for heard in (now, here(other, FIRST)["heard"], *made_up):
        assert node.client.post("/v1/here", {"instance": FIRST, "heard": heard}).body["again"]
    assert listed(auth)["copies"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"instance": "x"},
        {"instance": 7},
        {"instance": FIRST, "heard": 1},
        {"instance": FIRST, "heard": True},
        {"instance": FIRST, "heard": "x" * 101},
    ],
)
def test_what_is_not_said_right(auth: AuthServer, body: dict[str, object]) -> None:
    answer = auth.join("greenhouse").client.post("/v1/here", body)
    assert (answer.status, answer.code) == (400, "bad_request")


def test_a_swarm_of_copies_quarantines_the_node_and_no_more(auth: AuthServer) -> None:
    gate, node = auth.join("gate", "proxy"), auth.join("greenhouse")
    here(node, FIRST)
    newest = renewed(auth, node, FIRST)
    here(newest, FIRST)
    there = []
    for number in range(20):
        instance = f"{number:032x}"
        here(node, instance)
        there.append({"instance": instance, "peer": "10.0.0.9:1"})
        entry = {"uuid": node.uuid, "online": True, "copies": there}
        assert gate.client.post("/v1/presence", {"full": True, "nodes": [entry]}).status == 200
    assert len(listed(auth)["copies"]) == 16
    assert listed(auth)["status"] == "quarantined"


def test_a_node_without_copies_is_quarantined_by_nobody_who_does_not_say_so(auth: AuthServer) -> None:
    old = auth.join("greenhouse")
    for body in ({}, {"copies": True}, {"copies": True, "quarantine": True}):
        refused = auth.local().post("/v1/nodes/greenhouse/split", body)
        assert (refused.status, refused.code) == (404, "not_found"), body
    assert "tctl nodes split greenhouse --yes" in refused.body["error"]["hint"]
    assert listed(auth)["status"] == "offline"
    assert auth.events("node.split") == []
    # One that auth itself has quarantined is nobody's loss.
    renewed(auth, renewed(auth, old))
    assert renew(old)[0].code == "quarantined"
    assert {"original", "copy"} <= auth.local().post("/v1/nodes/greenhouse/split").body.keys()


@pytest.mark.parametrize("body", [{"name": "greenhouse"}, {"name": "auth"}, {"name": "{what}"}, {"labels": {"": "x"}}])
def test_a_split_that_cannot_be(auth: AuthServer, body: dict[str, object]) -> None:
    clone(auth)
    assert auth.local().post("/v1/nodes/greenhouse/split", body).status in (400, 409)


def join_again(auth: AuthServer, node: Machine, token: str) -> Answer:
    tls_key = ed25519.Ed25519PrivateKey.generate()
    return auth.anyone().post("/v1/join", auth.join_body(token, "pi", node.key, tls_key))


@pytest.mark.parametrize("same_token", [True, False])
def test_no_token_makes_the_node_of_a_copied_card(auth: AuthServer, same_token: bool) -> None:
    """A join by a key that is a node's already is for an answer that was lost, and not for whoever has copied a key in
    use: its newer certificate would have the node taken for the copy."""
    token = auth.token(uses=5)
    gate, node = auth.join("gate", "proxy"), auth.join("greenhouse", token=token)
    assert join_again(auth, node, token).status == 200
    again = renewed(auth, node, "a" * 32)
    here(again, "a" * 32)
    stolen = token if same_token else auth.token()
    body = {"full": True, "nodes": [{"uuid": node.uuid, "online": True}]}
    assert gate.client.post("/v1/presence", body).status == 200
    assert join_again(auth, node, stolen).code == "in_use"
    # Nor while it is away and known to have a copy.
    body["nodes"] = [{"uuid": node.uuid, "online": False}]
    assert gate.client.post("/v1/presence", body).status == 200
    assert here(node, "b" * 32)["copy"] is True
    assert join_again(auth, node, stolen).code == "quarantined"
    assert here(again, "a" * 32)["copy"] is False
