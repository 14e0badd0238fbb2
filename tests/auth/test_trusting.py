"""Trusted clusters as resources and from the configuration file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tinyport.core.certificate import public_line
from tinyport.core.errors import ConfigError
from tinyport.core.policy import Policy
from tinyport.core.signatures import Ed25519Key
from tinyport.core.trust import parse_trusted_cluster

from .conftest import AuthServer

PATH = "/v1/resources/trusted_cluster/partner.example"
PARTNER = public_line(Ed25519Key.generate().public_blob)
OTHER = public_line(Ed25519Key.generate().public_blob)
DOCUMENT = {"name": "partner.example", "user_ca": PARTNER, "role_map": [{"remote": "admin", "local": ["access"]}]}


def policy(auth: AuthServer) -> Policy:
    return auth.service.issuer.policy


def test_it_comes_changes_and_goes(auth: AuthServer) -> None:
    local = auth.local()
    assert local.call("PUT", PATH + "?create=1", DOCUMENT).status == 200
    (held,) = policy(auth).trusted_clusters
    assert held == parse_trusted_cluster(DOCUMENT)
    assert local.call("PUT", PATH + "?create=1", DOCUMENT).code == "exists"
    assert local.call("PUT", PATH, {**DOCUMENT, "enabled": False}).status == 200
    # Nodes are told of no cluster from which nobody comes.
    assert policy(auth).trusted_clusters == ()
    assert local.get(PATH).body["resource"]["enabled"] is False
    assert local.call("DELETE", PATH).status == 200
    assert local.call("DELETE", PATH).code == "not_found"
    for what in ("create", "update", "delete"):
        (event,) = auth.events(f"trusted_cluster.{what}")
        assert event["cluster_name"] == "partner.example"
        assert event["cluster"] == policy(auth).cluster


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"user_ca": "nonsense"}, "user_ca: not an SSH public key"),
        ({"role_map": [{"remote": "admin", "local": ["nobody"]}]}, "there is no role nobody here"),
        ({"role_map": [{"remote": "^(a+)+$", "local": ["access"]}]}, "is no pattern"),
    ],
)
def test_what_cannot_be_is_said(auth: AuthServer, changes: dict[str, Any], problem: str) -> None:
    answer = auth.local().call("PUT", PATH, {**DOCUMENT, **changes})
    assert (answer.status, answer.code) == (400, "config")
    assert any(problem in said for said in answer.body["error"]["problems"]), answer.body
    assert policy(auth).trusted_clusters == ()


def test_a_cluster_is_told_by_its_key_and_is_not_ours(auth: AuthServer) -> None:
    local, ours = auth.local(), policy(auth)
    own_name = f"/v1/resources/trusted_cluster/{ours.cluster}"
    assert "own name" in local.call("PUT", own_name, {**DOCUMENT, "name": ours.cluster}).message
    for key in (ours.user_cas[0], ours.host_cas[0]):
        assert "a CA of this cluster" in local.call("PUT", PATH, {**DOCUMENT, "user_ca": public_line(key)}).message
    assert local.call("PUT", PATH, DOCUMENT).status == 200
    third = {**DOCUMENT, "name": "third.example"}
    assert "a key of partner.example" in local.call("PUT", "/v1/resources/trusted_cluster/third.example", third).message
    # It may have its keys anew under its own name.
    assert local.call("PUT", PATH, {**DOCUMENT, "user_ca": [PARTNER, OTHER]}).status == 200


def test_only_who_may_can(auth: AuthServer) -> None:
    auth.role("reader", allow={"logins": ["pi"], "rules": [{"resources": ["trusted_clusters"], "verbs": ["read"]}]})
    client, _ = auth.user("eve", ["reader"], ["pi"])
    assert client.get("/v1/resources/trusted_cluster").status == 200
    assert client.call("PUT", PATH, DOCUMENT).code == "denied"
    assert client.call("DELETE", PATH).code == "denied"


def test_a_user_from_there_can_be_locked(auth: AuthServer) -> None:
    assert auth.local().post("/v1/locks", {"target": {"user": "alice@partner.example"}}).status == 200
    for bad in ("alice@", "@partner.example", "alice@x@y", "a lice@x"):
        assert auth.local().post("/v1/locks", {"target": {"user": bad}}).status == 400


def test_where_one_may_go_and_whether_it_is_there(auth: AuthServer) -> None:
    """Keys and addresses of tunnels are between the clusters: people are told what they need."""
    client, _ = auth.user("ann", ["access"], ["pi"])
    proxy = auth.join("gate", "proxy", addresses=["127.0.0.1:1"]).client
    pin = "sha256:" + "1" * 64
    for name, more in (
        ("public.example", {"host_ca": PARTNER, "public_addr": "port.public.example:443"}),
        ("leaf.example", {"host_ca": OTHER}),
        ("guests.example", {"user_ca": public_line(Ed25519Key.generate().public_blob), "server": "g:1", "ca_pin": pin}),
        ("off.example", {"host_ca": public_line(Ed25519Key.generate().public_blob), "enabled": False}),
    ):
        answer = auth.local().call("PUT", f"/v1/resources/trusted_cluster/{name}", {"name": name, **more})
        assert answer.status == 200, answer.body

    def known() -> dict[str, Any]:
        return {one.pop("name"): one for one in client.get("/v1/clusters").body["clusters"]}

    public = {"host_ca": [PARTNER], "public_addr": "port.public.example:443"}
    assert known() == {"public.example": public, "leaf.example": {"host_ca": [OTHER], "online": False}}
    assert proxy.post("/v1/presence", {"full": True, "nodes": [], "clusters": ["leaf.example"]}).status == 200
    assert known()["leaf.example"]["online"] is True
    # What is not said is as before; a proxy that is gone vouches for nothing.
    proxy.post("/v1/presence", {"full": False, "nodes": []})
    assert known()["leaf.example"]["online"] is True
    auth.clock.now += 31
    assert known()["leaf.example"]["online"] is False
    for wrong in (["Not A Name"], "leaf.example", [5]):
        for key in ("clusters", "partners"):
            assert proxy.post("/v1/presence", {"full": True, "nodes": [], key: wrong}).status == 400
    proxy.post("/v1/presence", {"full": True, "nodes": [], "partners": ["guests.example"]})
    state = {one.pop("name"): one for one in auth.local().get("/v1/status").body["clusters"]}
    assert state["guests.example"] == {"enabled": True, "online": None, "dialled": True}
    assert state["off.example"] == {"enabled": False, "online": None, "dialled": None}


def test_the_file_has_the_last_word_on_what_it_names(start: Callable[..., AuthServer]) -> None:
    cluster = parse_trusted_cluster(DOCUMENT)
    first = start(trusted_clusters=(cluster,))
    assert policy(first).trusted_clusters == (cluster,)
    for method in ("PUT", "DELETE"):
        answer = first.local().call(method, PATH, DOCUMENT)
        assert answer.code == "in_use"
        assert "configuration file" in answer.message
    second = {"name": "second.example", "user_ca": OTHER}
    assert first.local().call("PUT", "/v1/resources/trusted_cluster/second.example", second).status == 200
    serial = policy(first).serial
    first.stop()
    same = start(trusted_clusters=(cluster,))
    assert policy(same).serial == serial
    same.stop()
    without = start()
    # What a person made stays.
    assert [held.name for held in policy(without).trusted_clusters] == ["second.example"]
    assert len(without.events("trusted_cluster.delete")) == 1
    without.stop()
    with pytest.raises(ConfigError):
        start(trusted_clusters=(parse_trusted_cluster({**DOCUMENT, "name": policy(without).cluster}),))
