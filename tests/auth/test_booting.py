"""Devices that keep their keys in memory: new keys at each boot, the same node; and nobody else is it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from contextlib import closing
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tinyport.auth.booting import DEVICE_PREFIX
from tinyport.core.certificate import Certificate, fingerprint, parse_public_line, public_line
from tinyport.core.signatures import Ed25519Key

from .conftest import Answer, AuthServer, Machine, csr_der
from .test_boards import BOARD, nodes, report, settle
from .test_copies import here


def boot_body(
    auth: AuthServer, device: Ed25519Key | None, key: Ed25519Key, tls_key: Any, /, **fields: object
) -> dict[str, object]:
    body = auth.join_body("", "raspberrypi", key, tls_key)
    del body["token"], body["kind"]
    if device is not None:
        digest = hashlib.sha256(csr_der(str(body["tls_csr"]))).digest()
        digest += hashlib.sha256(key.public_blob).digest()
        signature = device.sign(DEVICE_PREFIX + str(body["challenge"]).encode() + b"\0" + digest)
        body["device_key"] = public_line(device.public_blob)
        body["device_proof"] = base64.b64encode(signature).decode()
    return {**body, **fields}


def keys() -> tuple[Ed25519Key, ed25519.Ed25519PrivateKey]:
    return Ed25519Key.generate(), ed25519.Ed25519PrivateKey.generate()


def machine(auth: AuthServer, answer: Answer, key: Ed25519Key, tls_key: Any) -> Machine:
    assert answer.status == 200, answer
    return Machine(key, tls_key, "", answer.body, auth.bearer(answer.body["tls_certificate"], tls_key))


def boot(auth: AuthServer, device: Ed25519Key | None, **fields: object) -> Machine:
    key, tls_key = keys()
    answer = auth.anyone().post("/v1/boot", boot_body(auth, device, key, tls_key, **fields))
    return machine(auth, answer, key, tls_key)


def refused(auth: AuthServer, device: Ed25519Key | None, **fields: object) -> Answer:
    answer = auth.anyone().post("/v1/boot", boot_body(auth, device, *keys(), **fields))
    assert answer.status != 200, answer
    return answer


def register(auth: AuthServer, device: Ed25519Key, **fields: object) -> None:
    item = {"ssh_key": public_line(device.public_blob), **fields}
    assert auth.local().post("/v1/registrations", {"devices": [item]}).status == 200


def test_a_registered_device_is_the_same_node_after_each_boot(auth: AuthServer) -> None:
    device = Ed25519Key.generate()
    register(auth, device, name="greenhouse", labels={"site": "berlin"})
    first = boot(auth, device)
    assert first.client.get("/v1/policy").status == 200
    assert (first.name, nodes(auth)["greenhouse"]["status"]) == ("greenhouse", "offline")
    settle(auth)
    second = boot(auth, device)
    assert (second.uuid, second.name) == (first.uuid, "greenhouse")
    assert nodes(auth)["greenhouse"]["labels"] == {"site": "berlin"}
    # Another host key, with a certificate of the same principals; what was before is good for nothing.
    certificates = [Certificate.decode(parse_public_line(one.answer["ssh_certificate"])) for one in (first, second)]
    assert certificates[0].public_key != certificates[1].public_key
    assert certificates[0].principals == certificates[1].principals
    assert first.client.get("/v1/policy").code == "replaced"
    assert second.client.get("/v1/policy").status == 200
    signed = auth.do(auth.service.store.read.nodes.document(second.uuid))
    assert signed is not None
    assert json.loads(signed["document"])["since"] > 0
    assert [event["node"] for event in auth.events("node.join")] == ["greenhouse"]
    (event,) = auth.events("node.boot")
    assert (event["node_uuid"], event["device_key"]) == (first.uuid, fingerprint(device.public_blob))


def test_a_lost_answer_costs_nothing(auth: AuthServer) -> None:
    device, (key, tls_key) = Ed25519Key.generate(), keys()
    register(auth, device, name="greenhouse")
    answers = [auth.anyone().post("/v1/boot", boot_body(auth, device, key, tls_key)) for _ in range(2)]
    assert [answer.body.get("name") for answer in answers] == ["greenhouse", "greenhouse"]
    assert machine(auth, answers[1], key, tls_key).client.get("/v1/policy").status == 200


def test_a_token_brings_the_device_key_along(auth: AuthServer) -> None:
    device, (key, tls_key) = Ed25519Key.generate(), keys()
    assert refused(auth, device).code == "unknown_device"
    assert public_line(device.public_blob) in str(refused(auth, device).body["error"]["hint"])
    proofs = boot_body(auth, device, key, tls_key, token=auth.token(pending=True), kind="node")
    joined = machine(auth, auth.anyone().post("/v1/join", proofs), key, tls_key)
    assert nodes(auth)["raspberrypi"]["status"] == "pending"
    settle(auth)
    # Without the token from now on, and still somebody whom an administrator has to accept.
    assert boot(auth, device).uuid == joined.uuid
    assert nodes(auth)["raspberrypi"]["status"] == "pending"


def test_no_token_makes_another_node_of_a_known_device_key(auth: AuthServer) -> None:
    device = Ed25519Key.generate()
    register(auth, device, name="greenhouse")
    node = boot(auth, device)
    token = auth.token()
    proofs = boot_body(auth, device, *keys(), token=token, kind="node")
    assert auth.anyone().post("/v1/join", proofs).code == "in_use"
    assert set(nodes(auth)) == {"greenhouse"}
    settle(auth)
    assert boot(auth, device).uuid == node.uuid
    # Nor is the token used up by it.
    assert auth.join("other", token=token).name == "other"


def test_whoever_has_no_device_key_is_nobody(auth: AuthServer) -> None:
    device, other = Ed25519Key.generate(), Ed25519Key.generate()
    register(auth, device, name="greenhouse")
    good = boot_body(auth, device, *keys())
    stolen = {**boot_body(auth, other, *keys()), "device_key": good["device_key"]}
    replayed = {**boot_body(auth, None, *keys()), **{name: good[name] for name in ("device_key", "device_proof")}}
    for body in (
        stolen,
        # Of other keys, or of another moment.
        replayed,
        {**good, "challenge": auth.anyone().get("/v1/hello").body["challenge"]},
        {**good, "device_proof": "AAAA"},
        {**good, "device_proof": 7},
        {**good, "device_key": "ssh-ed25519 AAAA"},
        {**good, "device_key": good["ssh_public_key"]},
        {**good, "proof": base64.b64encode(bytes(64)).decode()},
    ):
        answer = auth.anyone().post("/v1/boot", body)
        assert (answer.status, answer.code) == (400, "bad_request"), (body, answer)
    assert auth.anyone().post("/v1/boot", boot_body(auth, None, *keys())).code == "bad_request"
    assert "greenhouse" not in nodes(auth)


def test_a_device_key_may_be_of_other_kinds(auth: AuthServer) -> None:
    """What TPMs and secure elements make: ECDSA on P-256."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    from tinyport.core.sshwire import mpint, string

    private = ec.generate_private_key(ec.SECP256R1())
    openssh = serialization.PublicFormat.OpenSSH
    line = private.public_key().public_bytes(serialization.Encoding.OpenSSH, openssh).decode()

    class Device(Ed25519Key):
        def __init__(self) -> None:
            self.public_blob = parse_public_line(line)

        def sign(self, data: bytes) -> bytes:
            pair = decode_dss_signature(private.sign(data, ec.ECDSA(hashes.SHA256())))
            return string(b"ecdsa-sha2-nistp256") + string(b"".join(mpint(number) for number in pair))

    register(auth, Device(), name="greenhouse")
    assert boot(auth, Device()).name == "greenhouse"


def test_one_device_at_a_time(auth: AuthServer) -> None:
    device, gate = Ed25519Key.generate(), auth.join("gate", "proxy")
    register(auth, device, name="greenhouse")
    settle(auth)
    first = boot(auth, device)
    # Nobody was seen yet: who has just booted has a moment to be connected.
    answer = refused(auth, device)
    assert (answer.status, answer.code) == (409, "in_use")
    report(auth, gate, first, True)
    auth.clock.now += 25
    # A proxy is asked whether it is there indeed: a device whose power failed was not seen to go.
    with closing(gate.client.lines("/v1/watch")) as lines:
        next(line for line in lines if "keepalive" in line)
        assert refused(auth, device).code == "in_use"
        assert next(line for line in lines if "ask" in line) == {"ask": first.uuid}
    assert auth.events("node.boot.failed")[-1]["refusal"] == "in_use"
    assert first.client.get("/v1/policy").status == 200
    report(auth, gate, first, False)
    assert boot(auth, device).uuid == first.uuid


def test_who_has_booted_is_not_pushed_aside_before_its_tunnel_was_heard_of(auth: AuthServer) -> None:
    device = Ed25519Key.generate()
    register(auth, device, name="greenhouse")
    settle(auth)
    first = boot(auth, device)
    here(first, "a" * 32)
    assert refused(auth, device).code == "in_use"
    assert first.client.get("/v1/policy").status == 200
    # A clock that was ahead when it booted, and has been put right since.
    settle(auth)

    async def ahead() -> None:
        async with auth.service.store.write() as tables:
            await tables.nodes.set_since(first.uuid, auth.clock.now + 365 * 86400)

    auth.do(ahead())
    boot(auth, device)


def test_two_that_boot_at_once_are_not_both_it(auth: AuthServer) -> None:
    device = Ed25519Key.generate()
    register(auth, device, name="greenhouse")
    settle(auth)
    bodies = [boot_body(auth, device, *keys()) for _ in range(4)]
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda body=body: answers.append(auth.anyone().post("/v1/boot", body)))
        for body in bodies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answer.code or "in" for answer in answers) == ["in", "in_use", "in_use", "in_use"]


def test_removed_locked_and_quarantined_devices_stay_out(auth: AuthServer) -> None:
    device = Ed25519Key.generate()
    register(auth, device, name="greenhouse")
    node = boot(auth, device)
    settle(auth)
    lock = auth.local().post("/v1/locks", {"target": {"node": "greenhouse"}}).body
    assert refused(auth, device).code == "locked"
    assert auth.local().call("DELETE", f"/v1/locks/{lock['id']}").status == 200

    async def quarantine() -> None:
        async with auth.service.store.write() as tables:
            await tables.nodes.set_state(node.uuid, "quarantined")

    auth.do(quarantine())
    assert refused(auth, device).code == "quarantined"
    assert auth.local().call("DELETE", "/v1/nodes/greenhouse").status == 200
    assert refused(auth, device).code == "removed"
    # An old list does not let it in again; a new token, or registering it anew, does.
    register(auth, device, name="greenhouse")
    assert refused(auth, device).code == "removed"
    key, tls_key = keys()
    proofs = boot_body(auth, device, key, tls_key, token=auth.token(), kind="node")
    again = machine(auth, auth.anyone().post("/v1/join", proofs), key, tls_key)
    assert again.uuid != node.uuid
    settle(auth)
    assert boot(auth, device).uuid == again.uuid


def test_by_a_token_that_names_the_board(auth: AuthServer) -> None:
    token = auth.token(serials=[BOARD], uses=1, labels={"site": "berlin"})
    first = boot(auth, None, token=token, serial=BOARD.upper())
    settle(auth)
    # Its one use is the board's first boot.
    second = boot(auth, None, token=token, serial=BOARD)
    assert (second.uuid, second.name) == (first.uuid, "raspberrypi")
    assert first.client.get("/v1/policy").code == "replaced"
    gate = auth.join("gate", "proxy")
    report(auth, gate, second, True)
    assert refused(auth, None, token=token, serial=BOARD).code == "in_use"
    report(auth, gate, second, False)
    for fields in ({"serial": "10000000ffff"}, {}):
        assert refused(auth, None, token=token, **fields).code == "not_named"
    assert refused(auth, None, token=auth.token(), serial=BOARD).code == "not_named"
    assert refused(auth, None, token=f"{token[:-1]}x", serial=BOARD).code == "bad_token"
    settle(auth)
    assert auth.local().call("DELETE", f"/v1/tokens/{token.partition('.')[0]}").status == 200
    assert refused(auth, None, token=token, serial=BOARD).code == "bad_token"


def test_a_token_that_is_over_lets_no_board_in(auth: AuthServer) -> None:
    token = auth.token(serials=[BOARD], uses=1, ttl=600)
    boot(auth, None, token=token, serial=BOARD)
    auth.clock.now += 601
    assert refused(auth, None, token=token, serial=BOARD).code == "expired"


def test_a_device_that_boots_in_circles_has_to_wait(auth: AuthServer) -> None:
    device = Ed25519Key.generate()
    register(auth, device, name="greenhouse")
    for _ in range(11):
        boot(auth, device)
        auth.clock.now += 21
    assert refused(auth, device).code == "slow_down"
    auth.clock.now += 600
    boot(auth, device)


@pytest.mark.parametrize("name", ["device_key", "device_proof"])
def test_the_fields_are_bounded(auth: AuthServer, name: str) -> None:
    body = boot_body(auth, Ed25519Key.generate(), *keys())
    assert auth.anyone().post("/v1/boot", {**body, name: "A" * 5000}).code == "bad_request"


def test_a_host_key_is_no_device_key(auth: AuthServer) -> None:
    """A registration by SSH host key lets a device join; whoever copies its card does not boot in its place by it."""
    host_key, tls_key = keys()
    register(auth, host_key, name="greenhouse")
    joined = auth.anyone().post("/v1/join", auth.join_body(auth.token(), "pi", host_key, tls_key))
    node = machine(auth, joined, host_key, tls_key)
    settle(auth)
    assert refused(auth, host_key).code == "host_key"
    assert node.client.get("/v1/policy").status == 200


@pytest.mark.parametrize("way", ["replaces", "board"])
def test_keys_of_a_device_whose_place_was_taken_are_nobody_s(auth: AuthServer, way: str) -> None:
    """Neither its host key by which it was registered, nor its device key, gets the thief of a replaced device in."""
    host_key, tls_key = keys()
    register(auth, host_key, name="greenhouse")
    body = auth.join_body(auth.token(), "pi", host_key, tls_key, serial=BOARD)
    old = machine(auth, auth.anyone().post("/v1/join", body), host_key, tls_key)
    settle(auth)
    device = Ed25519Key.generate()
    terms = {"replaces": "greenhouse"} if way == "replaces" else {"serials": [BOARD]}
    key, tls_key = keys()
    body = boot_body(auth, device, key, tls_key, token=auth.token(**terms), kind="node", serial=BOARD)
    new = machine(auth, auth.anyone().post("/v1/join", body), key, tls_key)
    assert new.uuid == old.uuid
    settle(auth)
    assert refused(auth, host_key).code == "removed"
    assert boot(auth, device).uuid == old.uuid
    settle(auth)
    # The next one: also by a device key.
    newest = auth.join("pi", token=auth.token(**terms), serial=BOARD)
    assert newest.uuid == old.uuid
    settle(auth)
    assert refused(auth, device).code == "removed"
    assert newest.client.get("/v1/policy").status == 200


def test_nobody_else_s_claim_to_a_serial_number_keeps_a_board_from_booting(auth: AuthServer) -> None:
    token = auth.token(serials=[BOARD], uses=1)
    first = boot(auth, None, token=token, serial=BOARD)
    for name in ("impostor", "another"):
        auth.join(name, token=auth.token(), serial=BOARD)
    settle(auth)
    assert boot(auth, None, token=token, serial=BOARD).uuid == first.uuid


def test_a_site_that_boots_after_a_power_cut_shuts_nobody_out(auth: AuthServer) -> None:
    """Auth takes them for connected for a while; that is nobody's failure."""
    gate, devices = auth.join("gate", "proxy"), [Ed25519Key.generate() for _ in range(3)]
    for number, device in enumerate(devices):
        register(auth, device, name=f"pi-{number}")
        report(auth, gate, boot(auth, device), True)
    auth.clock.now += 25
    for device in devices:
        for _ in range(8):
            assert refused(auth, device).code == "in_use"
    assert auth.service.failures._level("127.0.0.1", auth.clock.monotonic()) == 0
    # Whoever asks on and on is counted.
    for _ in range(8):
        refused(auth, devices[0])
    assert auth.service.failures._level("127.0.0.1", auth.clock.monotonic()) > 0
