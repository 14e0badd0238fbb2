"""Devices that are registered in advance: who they become, who else does not."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from tinyport.core.certificate import fingerprint, public_line
from tinyport.core.signatures import Ed25519Key

from .conftest import AuthServer


def keys() -> tuple[Ed25519Key, ed25519.Ed25519PrivateKey]:
    return Ed25519Key.generate(), ed25519.Ed25519PrivateKey.generate()


def register(auth: AuthServer, *devices: dict[str, object]) -> dict[str, object]:
    answer = auth.local().post("/v1/registrations", {"devices": list(devices)})
    assert answer.status == 200, answer
    return answer.body


def node_of(auth: AuthServer, name: str) -> dict[str, object]:
    nodes: list[dict[str, object]] = auth.local().get("/v1/nodes").body["nodes"]
    (found,) = [node for node in nodes if node["name"] == name]
    return found


def test_a_registered_device_is_who_it_was_registered_as(auth: AuthServer) -> None:
    key, tls_key = keys()
    register(
        auth,
        {"serial": "1000ABCD", "name": "greenhouse", "labels": {"site": "berlin"}},
        {"ssh_key": public_line(key.public_blob), "name": "shed", "labels": {"rack": "3"}},
    )
    token = auth.token(uses=3, pending=True, labels={"fleet": "one", "site": "factory"})
    anyone = auth.anyone()
    by_serial = anyone.post("/v1/join", auth.join_body(token, "raspberrypi", *keys(), serial="1000abcd"))
    by_key = anyone.post("/v1/join", auth.join_body(token, "raspberrypi", key, tls_key))
    stranger = anyone.post("/v1/join", auth.join_body(token, "other", *keys(), serial="1000abce"))
    assert [answer.status for answer in (by_serial, by_key, stranger)] == [200, 200, 200]
    greenhouse, shed, other = (node_of(auth, name) for name in ("greenhouse", "shed", "other"))
    # Its own labels before the token's; nobody has to look at it again.
    assert (greenhouse["labels"], greenhouse["status"]) == ({"fleet": "one", "site": "berlin"}, "offline")
    assert (shed["labels"], shed["status"]) == ({"fleet": "one", "site": "factory", "rack": "3"}, "offline")
    assert other["status"] == "pending"
    listed = auth.local().get("/v1/registrations").body["registrations"]
    assert {one["value"]: one["node_uuid"] for one in listed} == {
        "1000abcd": by_serial.body["uuid"],
        fingerprint(key.public_blob): by_key.body["uuid"],
    }


def test_a_registration_is_good_once(auth: AuthServer) -> None:
    register(auth, {"serial": "1000abcd", "name": "greenhouse"})
    token = auth.token(uses=9, pending=True)
    key, tls_key = keys()
    first = auth.anyone().post("/v1/join", auth.join_body(token, "pi", key, tls_key, serial="1000abcd"))
    # The same device asks again, as its answer was lost; another one says the same number.
    again = auth.anyone().post("/v1/join", auth.join_body(token, "pi", key, tls_key, serial="1000abcd"))
    other = auth.anyone().post("/v1/join", auth.join_body(token, "second", *keys(), serial="1000abcd"))
    assert (again.body["uuid"], again.body["name"]) == (first.body["uuid"], "greenhouse")
    assert (other.status, other.body["name"]) == (200, "second")
    assert node_of(auth, "second")["status"] == "pending"
    # Removed is removed: an old list does not let it in again.
    assert auth.local().call("DELETE", "/v1/nodes/greenhouse").status == 200
    assert register(auth, {"serial": "1000abcd", "name": "greenhouse"}) == {"added": 0, "joined": 1}
    back = auth.anyone().post("/v1/join", auth.join_body(token, "back", *keys(), serial="1000abcd"))
    assert node_of(auth, str(back.body["name"]))["status"] == "pending"
    (one,) = auth.local().get("/v1/registrations").body["registrations"]
    assert (one["node_uuid"], one["node_name"]) == (first.body["uuid"], None)
    assert auth.local().call("DELETE", f"/v1/registrations/{one['id']}").status == 200
    assert register(auth, {"serial": "1000abcd", "name": "greenhouse"}) == {"added": 1, "joined": 0}


def test_a_registered_name_is_kept_for_its_device(auth: AuthServer) -> None:
    register(auth, {"serial": "1000abcd", "name": "greenhouse"})
    taken = auth.anyone().post("/v1/join", auth.join_body(auth.token(), "greenhouse", *keys()))
    assert taken.status == 409
    assert "device registered as greenhouse" in str(taken.body)
    # Again before it came: the newer word counts.
    assert register(auth, {"serial": "1000abcd", "name": "shed"}) == {"added": 1, "joined": 0}
    assert auth.anyone().post("/v1/join", auth.join_body(auth.token(), "greenhouse", *keys())).status == 200


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ({}, "either a serial or an ssh_key"),
        ({"serial": "1000abcd", "ssh_key": "x"}, "either a serial or an ssh_key"),
        ({"serial": "a b c d"}, "serial: 4 to 40"),
        ({"serial": "abc"}, "serial: 4 to 40"),
        ({"serial": 12345}, "serial: 4 to 40"),
        ({"serial": "1000abcd", "name": "Not A Name"}, "name"),
        ({"serial": "1000abcd", "name": "there"}, "there is a machine called there"),
        ({"serial": "1000abcd", "name": "other"}, "registered for serial 2000abcd"),
        ({"serial": "1000abcd", "labels": {"": "x"}}, "label"),
        ({"serial": "1000abcd", "logins": ["root"]}, "a device is an object"),
        ({"ssh_key": "ssh-ed25519 AAAA"}, "key"),
        ("1000abcd", "a device is an object"),
    ],
)
def test_all_of_a_list_or_nothing(auth: AuthServer, device: object, said: str) -> None:
    auth.join("there")
    register(auth, {"serial": "2000abcd", "name": "other"})
    answer = auth.local().post("/v1/registrations", {"devices": [{"serial": "3000abcd"}, device]})
    assert answer.status in (400, 409), answer
    assert said in str(answer.body)
    assert answer.body["error"]["device"] == 1
    assert len(auth.local().get("/v1/registrations").body["registrations"]) == 1
