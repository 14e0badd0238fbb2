"""Rotations of the CAs over the API: who signs in which phase, who is told, who follows, and what a compromise ends."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tinyport.auth.tls_certificates import pin_of
from tinyport.core.certificate import Certificate, parse_public_line, public_line
from tinyport.core.errors import PeerError
from tinyport.core.policy import Policy, open_document, version
from tinyport.core.rotation import Rotation
from tinyport.core.succession import follow
from tinyport.link.api import pin_of as pin_of_pem

from .conftest import CLUSTER, AuthServer, Clock, Machine, csr

FORWARD = ("init", "update_clients", "update_servers", "standby")


def step(auth: AuthServer, phase: str, *types: str) -> dict[str, Any]:
    answer = auth.local().post("/v1/rotation", {"types": list(types or ("user", "host", "tls")), "phase": phase})
    assert answer.status == 200, answer
    return answer.body


def policy(auth: AuthServer) -> Policy:
    return auth.service.issuer.policy


def issuer_of(auth: AuthServer, pem: str) -> str:
    """ "active" or "new": whose signature is on a leaf."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    for state, authority in auth.service.authority.ring.tls.items():
        try:
            certificate.verify_directly_issued_by(authority.certificate)
        except Exception:
            continue
        return state
    return "nobody"


def ssh_issuer(auth: AuthServer, line: str, type: str) -> str:
    key = Certificate.decode(parse_public_line(line)).ca_key
    ring = auth.service.authority.ring
    return next(state for (name, state), held in ring.ssh.items() if name == type and held.public_blob == key)


def renew(auth: AuthServer, machine: Machine, *, trust: list[str] | None = None) -> dict[str, Any]:
    auth.tls_cas = trust or auth.service.authority.tls_cas
    client = auth.bearer(machine.answer["tls_certificate"], machine.tls_key)
    body = {
        "generation": machine.answer["generation"],
        "ssh_public_key": public_line(machine.key.public_blob),
        "tls_csr": csr(machine.tls_key),
    }
    answer = client.post("/v1/renew", body)
    assert answer.status == 200, answer
    machine.answer = answer.body
    return answer.body


def server_issuer(auth: AuthServer) -> str:
    """Who signed what auth's own listener shows."""
    connection: Any = auth.anyone().connect()
    connection.connect()
    try:
        der = connection.sock.getpeercert(binary_form=True)
    finally:
        connection.close()
    pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
    return issuer_of(auth, pem)


def test_who_signs_in_which_phase(auth: AuthServer, clock: Clock) -> None:
    auth.add_user("alice", ["access"], ["pi"])
    node, proxy = auth.join("greenhouse"), auth.join("gate", "proxy", addresses=["127.0.0.1:1"])
    seen = []
    for phase in FORWARD[:3]:
        step(auth, phase)
        clock.now += 60
        # Whoever comes back after a step is served, with what they had before it.
        renew(auth, node)
        renew(auth, proxy)
        auth.tls_cas = auth.service.authority.tls_cas
        _, login = auth.login("alice")
        assert len(login["tls_cas"]) == len(login["host_cas"]) == 2
        seen.append(
            {
                "user ssh": ssh_issuer(auth, login["ssh_certificate"], "user"),
                "user tls": issuer_of(auth, login["tls_certificate"]),
                "node ssh": ssh_issuer(auth, node.answer["ssh_certificate"], "host"),
                "node tls": issuer_of(auth, node.answer["tls_certificate"]),
                "proxy ssh": ssh_issuer(auth, proxy.answer["ssh_certificate"], "host"),
                "proxy tls": issuer_of(auth, proxy.answer["tls_certificate"]),
                "auth tls": server_issuer(auth),
            }
        )
        known = policy(auth)
        assert [len(known.user_cas), len(known.host_cas), len(known.tls_cas)] == [2, 2, 2]
    new_to = [{name for name, state in found.items() if state == "new"} for found in seen]
    assert new_to[0] == set()
    assert new_to[1] == {"user ssh", "user tls", "node tls"}
    assert new_to[2] == set(seen[2])
    new = [authority.pin for authority in auth.service.authority.ring.tls_authorities()][-1]
    step(auth, "standby")
    assert list(auth.service.authority.ca_pins) == [new]
    known = policy(auth)
    assert [len(known.user_cas), len(known.host_cas), len(known.tls_cas)] == [1, 1, 1]
    # What was let in by the old user CA stays, and lets nobody in.
    assert len(known.retired_user_cas) == 1
    assert known.retired_user_cas[0] not in known.user_cas
    assert renew(auth, node)["generation"] > 0
    events = [(event["type"], event["phase"]) for event in auth.events("ca.rotate")]
    assert sorted(events) == sorted((type, phase) for type in ("user", "host", "tls") for phase in FORWARD)


def test_one_type_rotates_alone(auth: AuthServer) -> None:
    before = auth.service.authority.tls_cas, auth.service.authority.user_cas
    for phase in FORWARD:
        step(auth, phase, "host")
    assert (auth.service.authority.tls_cas, auth.service.authority.user_cas) == before
    assert len(auth.service.authority.host_cas) == 1


def test_rolling_back_leaves_what_was_there(auth: AuthServer, clock: Clock) -> None:
    node = auth.join("greenhouse")
    before = auth.service.authority.tls_cas, auth.service.authority.user_cas, auth.service.authority.host_cas
    for phase in FORWARD[:3]:
        step(auth, phase)
    clock.now += 60
    renew(auth, node)
    assert issuer_of(auth, node.answer["tls_certificate"]) == "new"
    assert auth.anyone().get("/v1/hello").body["successions"]
    step(auth, "rollback")
    assert auth.anyone().get("/v1/hello").body["successions"] == []
    clock.now += 60
    renew(auth, node)
    assert issuer_of(auth, node.answer["tls_certificate"]) == "active"
    step(auth, "standby")
    renew(auth, node)
    assert (auth.service.authority.tls_cas, auth.service.authority.user_cas, auth.service.authority.host_cas) == before
    assert policy(auth).retired_user_cas == ()


def test_a_phase_that_does_not_follow_changes_nothing(auth: AuthServer) -> None:
    step(auth, "init", "tls")
    ring, serial = auth.service.authority.ring.rows, policy(auth).serial
    answer = auth.local().post("/v1/rotation", {"types": ["user", "tls"], "phase": "init"})
    assert (answer.status, answer.code) == (409, "in_use")
    assert "phase init" in answer.message
    assert auth.service.authority.ring.rows == ring
    assert policy(auth).serial == serial
    for body in (
        {},
        {"types": ["user"], "phase": "sideways"},
        {"types": ["all"]},
        {"types": ["user"], "grace": 1},
        {"types": ["user"], "phase": "init", "grace": 3600},
    ):
        assert auth.local().post("/v1/rotation", body).status == 400, body


def test_it_goes_by_itself_in_a_grace_period(auth: AuthServer, clock: Clock) -> None:
    from tinyport.auth.rotating import advance

    answer = auth.local().post("/v1/rotation", {"types": ["user", "tls"], "grace": 3 * 3600})
    assert answer.status == 200, answer
    assert [one["phase"] for one in answer.body["types"]] == ["init", "standby", "init"]
    assert answer.body["types"][0]["next_at"] == clock.now + 3600
    for phase in FORWARD[1:]:
        clock.now += 3599
        auth.do(advance(auth.service))
        assert auth.service.authority.ring.phase("tls") != phase
        clock.now += 2
        auth.do(advance(auth.service))
        assert {type: auth.service.authority.ring.phase(type) for type in ("user", "tls")} == {
            "user": phase,
            "tls": phase,
        }
    assert {event["by"] for event in auth.events("ca.rotate")} == {"local", "grace period"}


def phase_of(auth: AuthServer, type: str) -> str:
    return str(auth.service.authority.ring.phase(type))


def is_there(auth: AuthServer, proxy: Machine) -> None:
    """It reports, with the certificate that it joined with."""
    auth.tls_cas = auth.service.authority.tls_cas
    client = auth.bearer(proxy.answer["tls_certificate"], proxy.tls_key)
    assert client.post("/v1/presence", {"full": True, "nodes": []}).status == 200


@pytest.mark.parametrize("types", [("tls",), ("host",), ("user", "host", "tls")])
def test_it_does_not_end_while_a_proxy_that_is_there_has_not_followed(
    auth: AuthServer, clock: Clock, types: tuple[str, ...]
) -> None:
    proxy = auth.join("edge", "proxy")
    step(auth, "init", *types)
    is_there(auth, proxy)
    # Steps that end nothing do not wait.
    step(auth, "update_clients", *types)
    step(auth, "update_servers", *types)
    refused = auth.local().post("/v1/rotation", {"types": list(types), "phase": "standby"})
    assert (refused.status, refused.body["error"]["code"]) == (409, "in_use")
    assert "edge" in refused.body["error"]["message"]
    assert {phase_of(auth, type) for type in types} == {"update_servers"}
    renew(auth, proxy)
    step(auth, "standby", *types)


def test_rolling_back_waits_for_it_too_and_an_administrator_need_not(auth: AuthServer) -> None:
    proxy = auth.join("edge", "proxy")
    step(auth, "init", "tls")
    is_there(auth, proxy)
    step(auth, "rollback", "tls")
    body = {"types": ["tls"], "phase": "standby"}
    assert auth.local().post("/v1/rotation", body).status == 409
    assert auth.local().post("/v1/rotation", {**body, "force": "yes"}).status == 400
    assert auth.local().post("/v1/rotation", {**body, "force": True}).status == 200


def test_people_alone_wait_for_no_proxy(auth: AuthServer) -> None:
    proxy = auth.join("edge", "proxy")
    for phase in FORWARD[:3]:
        step(auth, phase, "user")
    is_there(auth, proxy)
    step(auth, "standby", "user")


def test_a_grace_period_waits_until_it_has_followed_or_is_gone(auth: AuthServer, clock: Clock) -> None:
    from tinyport.auth.rotating import advance

    proxy = auth.join("edge", "proxy")

    def next_step() -> str:
        clock.now += 3601
        is_there(auth, proxy)
        auth.do(advance(auth.service))
        return phase_of(auth, "tls")

    assert auth.local().post("/v1/rotation", {"types": ["tls"], "grace": 3 * 3600}).status == 200
    assert [next_step(), next_step(), next_step()] == ["update_clients", "update_servers", "update_servers"]
    assert auth.local().get("/v1/status").body["rotation"]["waits_for"] == ["edge"]
    renew(auth, proxy)
    assert auth.local().get("/v1/status").body["rotation"]["waits_for"] == []
    assert next_step() == "standby"


def test_a_rotation_survives_a_restart(start: Callable[..., AuthServer]) -> None:
    auth = start()
    step(auth, "init")
    step(auth, "update_clients")
    rows = auth.service.authority.ring.rows
    auth.stop()
    again = start()
    assert again.service.authority.ring.rows == rows
    assert again.service.authority.ring.phase("user") == "update_clients"
    step(again, "update_servers")


def test_machines_are_told_to_renew_and_are_seen_to_follow(auth: AuthServer, clock: Clock) -> None:
    node, other = auth.join("greenhouse"), auth.join("shed")
    assert policy(auth).renew_before == 0
    step(auth, "init")
    assert node.answer["valid_after"] < policy(auth).renew_before <= clock.now + 1
    assert policy(auth).renew_within == pytest.approx(2 / 50, abs=0.1)
    state = auth.local().get("/v1/status").body["rotation"]
    assert state["followed"]["node"] == {"followed": 0, "of": 2}
    # Even within this very second: what is issued now counts as new.
    assert renew(auth, node)["valid_after"] >= policy(auth).renew_before
    state = auth.local().get("/v1/status").body["rotation"]
    assert state["followed"]["node"] == {"followed": 1, "of": 2}
    assert state["behind"] == [{"name": other.name, "kind": "node", "online": False}]


def test_whose_logins_are_from_before_is_told(auth: AuthServer, clock: Clock) -> None:
    auth.user("alice", ["access"], ["pi"])
    auth.user("bob", ["access"], ["pi"])
    assert auth.local().get("/v1/status").body["rotation"]["logins"] == []
    clock.now += 60
    assert [one["user"] for one in step(auth, "init")["logins"]] == ["alice", "bob"]
    clock.now += 60
    auth.tls_cas = auth.service.authority.tls_cas
    auth.login("bob")
    # Bob's first login may be on another machine of his.
    assert {one["user"] for one in auth.local().get("/v1/status").body["rotation"]["logins"]} == {"alice", "bob"}
    clock.now += 12 * 3600 - 60
    assert auth.local().get("/v1/status").body["rotation"]["logins"] == []
    assert [one["user"] for one in step(auth, "update_clients")["logins"]] == ["bob"]
    step(auth, "rollback")
    assert step(auth, "standby")["logins"] == []


def test_a_clients_certificate_of_a_retired_ca_is_not_taken(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    for phase in FORWARD:
        step(auth, phase)
    auth.tls_cas = auth.service.authority.tls_cas
    with pytest.raises((ssl.SSLError, ConnectionError)):
        auth.bearer(node.answer["tls_certificate"], node.tls_key).get("/v1/policy")


def test_the_chain_leads_through_several_rotations(auth: AuthServer) -> None:
    first = auth.service.authority.ca_pins[0]
    policy_key = auth.service.authority.policy_key_blob
    for _ in range(3):
        for phase in FORWARD:
            step(auth, phase, "tls")
    hello = auth.anyone().get("/v1/hello").body
    reached = follow(hello["successions"], [first], cluster=CLUSTER, pin_of=pin_of_pem, policy_key=policy_key)
    assert [reached] == hello["tls_cas"]


def test_after_a_compromise_nothing_leads_on(auth: AuthServer, clock: Clock, start: Callable[..., AuthServer]) -> None:
    node = auth.join("greenhouse")
    for phase in FORWARD:
        step(auth, phase)
    auth.tls_cas = auth.service.authority.tls_cas
    auth.user("alice", ["access"], ["pi"])
    old = auth.service.authority
    pins, old_user, policy_key = old.ca_pins, old.user_cas, old.policy_key_blob
    watched = auth.join("gate", "proxy", addresses=["127.0.0.1:1"]).client.lines("/v1/watch")
    while "policy" not in (line := next(watched)):
        pass
    assert auth.local().post("/v1/rotation/compromised", {"cluster": "other"}).status == 400
    answer = auth.local().post("/v1/rotation/compromised", {"cluster": CLUSTER})
    assert answer.status == 200, answer
    assert sorted(answer.body["told"] + answer.body["not_told"]) == ["gate", "greenhouse"]
    assert not set(answer.body["ca_pins"]) & set(pins)
    hello = auth.anyone().get("/v1/hello").body
    assert hello["successions"] == []
    # The last word under the old key: the new user CA alone, and nothing comes after it.
    while "policy" not in (line := next(watched)):
        pass
    last = Policy.parse(open_document(line["policy"], policy_key, "policy", CLUSTER))
    assert [public_line(blob) for blob in last.user_cas] == [
        " ".join(text.split()[:2]) for text in auth.service.authority.user_cas
    ]
    assert not set(old_user) & set(auth.service.authority.user_cas)
    assert last.retired_user_cas == ()
    assert version({"epoch": last.epoch, "serial": last.serial}) == (2**63 - 1, 2**63 - 1)
    with pytest.raises(PeerError, match="not signed"):
        open_document(auth.service.issuer.signed, policy_key, "policy", CLUSTER)
    # The policy, the nodes' documents and the audit log's head are under the new key.
    assert auth.local().get("/v1/audit/head").status == 200
    document = auth.do(auth.service.store.read.nodes.document(node.uuid))
    open_document(document, auth.service.authority.policy_key_blob, "node", CLUSTER)
    # With the same keys, a new pin and a new token it is the same node again.
    auth.tls_cas = auth.service.authority.tls_cas
    body = auth.join_body(auth.token(), "greenhouse", node.key, node.tls_key)
    joined = auth.anyone().post("/v1/join", body)
    assert (joined.status, joined.body["uuid"], joined.body["name"]) == (200, node.uuid, "greenhouse"), joined
    assert len(auth.events("ca.compromised")) == 1
    watched.close()


def test_the_private_half_of_a_retired_key_is_gone(auth: AuthServer, tmp_path: Path) -> None:
    rows = dict(auth.service.authority.ring.rows)
    for phase in FORWARD:
        step(auth, phase)
    auth.stop()
    kept = (tmp_path / "auth" / "auth.db").read_bytes()
    for (type, _), row in rows.items():
        lines = row.private.splitlines()
        secret = lines[min(3, len(lines) - 2)]
        assert (secret.encode() in kept) == (type == "policy")


def test_what_is_not_on_the_disk_signs_nothing(auth: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinyport.auth import rotating

    async def full(*_: object, **__: object) -> None:
        raise PeerError("the disk is full")

    ring = auth.service.authority.ring.rows
    monkeypatch.setattr(auth.service.audit, "record", full)
    with pytest.raises(PeerError, match="the disk is full"):
        auth.do(rotating.rotate(auth.service, ["tls"], "init", by="local"))
    assert auth.service.authority.ring.rows == ring
    assert auth.service.authority.ring.phase("tls") == "standby"


def test_values_are_read_back_as_they_were(auth: AuthServer) -> None:
    rotation = Rotation("host", "init", 1.5, 2.5, 90.0)

    async def there_and_back() -> dict[str, Rotation]:
        async with auth.service.store.write() as tables:
            await tables.authorities.put_rotation(rotation)
            found = await tables.authorities.rotations()
            await tables.authorities.put_rotation(Rotation("host"))
        return found

    assert auth.do(there_and_back())["host"] == rotation
    assert pin_of(auth.service.authority.ring.tls["active"].certificate) == auth.service.authority.ca_pins[0]
