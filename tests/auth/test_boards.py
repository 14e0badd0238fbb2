"""Boards that were written anew: by their serial number, which counts only where an administrator has named it."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from tinyport.core.signatures import Ed25519Key

from .conftest import AuthServer, Machine
from .test_copies import here, renew

BOARD = "10000000abcd"


def nodes(auth: AuthServer) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in auth.local().get("/v1/nodes").body["nodes"]}


def settle(auth: AuthServer) -> None:
    """Who is offline is known."""
    auth.clock.now += 60


def report(auth: AuthServer, gate: Machine, node: Machine, online: bool) -> None:
    body = {"full": True, "nodes": [{"uuid": node.uuid, "online": online}]}
    assert gate.client.post("/v1/presence", body).status == 200


def test_a_token_that_names_the_board_gives_it_its_old_place(auth: AuthServer) -> None:
    old = auth.join("greenhouse", token=auth.token(labels={"site": "berlin"}), serial=BOARD)
    settle(auth)
    new = auth.join("raspberrypi", token=auth.token(serials=[BOARD.upper()]), serial=BOARD)
    assert (new.uuid, new.name) == (old.uuid, "greenhouse")
    assert nodes(auth)["greenhouse"]["labels"] == {"site": "berlin"}
    assert old.client.get("/v1/policy").code == "replaced"
    assert auth.events("node.join")[-1]["replaced"] is True


def test_a_registered_board_is_the_node_that_it_became(auth: AuthServer) -> None:
    device = {"serial": BOARD, "name": "greenhouse"}
    assert auth.local().post("/v1/registrations", {"devices": [device]}).status == 200
    fleet = auth.token(uses=9)
    old = auth.join("pi", token=fleet, serial=BOARD)
    settle(auth)
    # By the fleet's token alone an administrator has to look, and sees what it may be.
    new = auth.join("pi", token=fleet, serial=BOARD)
    assert new.uuid != old.uuid
    found = nodes(auth)["pi"]
    assert (found["uuid"], found["status"]) == (new.uuid, "pending")
    twin = found["same_serial"]
    assert (twin["name"], twin["uuid"], twin["status"]) == ("greenhouse", old.uuid, "offline")
    assert auth.join("pi", token=auth.token(serials=[BOARD]), serial=BOARD).uuid == old.uuid


def test_while_the_old_one_is_there_or_may_be_it_waits(auth: AuthServer) -> None:
    gate, old = auth.join("gate", "proxy"), auth.join("greenhouse", serial=BOARD)
    report(auth, gate, old, True)
    report(auth, gate, old, False)
    # Auth has just started: another proxy may have it.
    first = auth.join("pi", token=auth.token(serials=[BOARD]), serial=BOARD)
    settle(auth)
    report(auth, gate, old, True)
    second = auth.join("pi", token=auth.token(serials=[BOARD]), serial=BOARD)
    for name, node, status in (("pi", first, "online"), (f"pi-{second.uuid[:8]}", second, "online")):
        found = nodes(auth)[name]
        assert (found["uuid"], found["status"], found["same_serial"]["status"]) == (node.uuid, "pending", status)
    report(auth, gate, old, False)
    # Those that wait are no reason not to know it.
    assert auth.join("pi", token=auth.token(serials=[BOARD]), serial=BOARD).uuid == old.uuid


def test_a_number_that_several_have_is_nobodys(auth: AuthServer) -> None:
    first, second = (auth.join(name, serial=BOARD) for name in ("a", "b"))
    settle(auth)
    third = auth.join("c", token=auth.token(serials=[BOARD]), serial=BOARD)
    assert third.uuid not in (first.uuid, second.uuid)
    assert nodes(auth)["c"]["same_serial"] is None


def test_other_boards_wait_and_unnamed_numbers_mean_nothing(auth: AuthServer) -> None:
    auth.join("greenhouse", serial=BOARD)
    settle(auth)
    token = auth.token(serials=["10000000ffff"], uses=3)
    for name, fields in (("a", {"serial": BOARD}), ("b", {}), ("c", {"serial": "10000000FFFF"})):
        auth.join(name, token=token, **fields)
    assert [nodes(auth)[name]["status"] for name in "abc"] == ["pending", "pending", "offline"]
    # A fleet whose machines all say the same is let in as before.
    auth.join("d", serial=BOARD)
    assert nodes(auth)["d"]["status"] == "offline"


def test_who_may_make_tokens_may_not_for_that_name_boards(auth: AuthServer) -> None:
    auth.role("tokens", allow={"logins": ["pi"], "rules": [{"resources": ["tokens"], "verbs": ["*"]}]})
    client, _ = auth.user("tom", ["tokens"], [])
    assert client.post("/v1/tokens", {"type": "node", "serials": [BOARD]}).code == "denied"


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "proxy", "serials": [BOARD]},
        {"type": "node", "serials": ["abc"]},
        {"type": "node", "serials": "x"},
        {"type": "node", "serials": [7]},
        {"type": "node", "serials": ["a b c d"]},
        {"type": "node", "serials": [f"{number:08}" for number in range(300)]},
        {"type": "node", "serials": [BOARD], "replaces": "greenhouse"},
    ],
)
def test_serials_that_are_none(auth: AuthServer, wrong: dict[str, object]) -> None:
    auth.join("greenhouse")
    assert auth.local().post("/v1/tokens", wrong).status == 400


def test_a_pending_device_is_given_the_place_of_an_old_one(auth: AuthServer) -> None:
    gate, old = auth.join("gate", "proxy"), auth.join("greenhouse", token=auth.token(labels={"site": "berlin"}))
    new = auth.join("pi", token=auth.token(pending=True))
    accept = "/v1/nodes/pi/accept"
    assert auth.local().post(accept, {"replaces": "greenhouse"}).status == 400
    here(new, "a" * 32)
    report(auth, gate, old, True)
    assert auth.local().post(accept, {"replaces": "greenhouse"}).code == "in_use"
    report(auth, gate, old, False)
    for wrong in ("pi", "gate", "nobody"):
        assert auth.local().post(accept, {"replaces": wrong}).status in (400, 404)
    assert auth.local().post(accept, {"replaces": "greenhouse"}).status == 200
    assert (nodes(auth)["pi"]["status"], nodes(auth)["pi"]["copies"]) == ("pending", [])
    # It may have started again since.
    assert here(new, "b" * 32)["split"]
    answer, _ = renew(new, "b" * 32)
    auth.clock.now += 60
    back = auth.join("pi", token=answer.body["error"]["token"])
    assert (back.uuid, back.name) == (old.uuid, "greenhouse")
    assert list(nodes(auth)) == ["greenhouse"]
    assert (nodes(auth)["greenhouse"]["status"], nodes(auth)["greenhouse"]["labels"]) == ("offline", {"site": "berlin"})
    assert old.client.get("/v1/policy").code == "replaced"
    assert new.client.get("/v1/policy").code == "removed"


def test_one_that_is_accepted_already_takes_no_place(auth: AuthServer) -> None:
    auth.join("greenhouse")
    new = auth.join("pi")
    here(new, "a" * 32)
    assert auth.local().post("/v1/nodes/pi/accept", {"replaces": "greenhouse"}).status == 400


def test_a_key_that_is_known_is_known_whatever_number_it_says(auth: AuthServer) -> None:
    auth.join("greenhouse", serial=BOARD)
    settle(auth)
    key, tls_key = Ed25519Key.generate(), ed25519.Ed25519PrivateKey.generate()
    token = auth.token(serials=[BOARD], uses=2)
    first = auth.anyone().post("/v1/join", auth.join_body(token, "pi", key, tls_key, serial="10000000ffff"))
    again = auth.anyone().post("/v1/join", auth.join_body(token, "pi", key, tls_key, serial=BOARD))
    assert (again.body["uuid"], again.body["name"]) == (first.body["uuid"], "pi")
