"""The proxy's own copy: only forward, only signed, and there again after a restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.proxy.conftest import Cluster
from tinyport.core.errors import AccessDenied, PeerError, Unavailable
from tinyport.core.policy import NodeDocument
from tinyport.host.logging_line import Log
from tinyport.proxy.knowledge import Knowledge


def fresh(cluster: Cluster, folder: Path) -> Knowledge:
    return Knowledge(folder, "farm", cluster.policy_key.public_blob, Log("test", "error"))


def everybody(node: NodeDocument) -> bool:
    return True


def test_it_survives_a_restart(cluster: Cluster, tmp_path: Path) -> None:
    first = fresh(cluster, tmp_path)
    with pytest.raises(Unavailable):
        _ = first.policy
    assert first.take_policy(cluster.policy())
    pi = cluster.node("greenhouse")
    assert first.take_node(cluster.node_document(pi)) == pi.uuid
    saved = first.unsaved_nodes()
    assert saved is not None
    assert first.unsaved_nodes() is None
    first.nodes_file.write_bytes(saved)
    second = fresh(cluster, tmp_path)
    second.load()
    assert second.policy_version == first.policy_version
    assert second.locate("greenhouse", everybody, sees_all=True).uuid == pi.uuid
    assert second.unsaved_nodes() is None


def test_damage_on_disk_is_left_behind(cluster: Cluster, tmp_path: Path) -> None:
    pi = cluster.node("greenhouse")
    good = json.dumps(cluster.node_document(pi)).encode()
    forged = json.dumps({"document": "{}", "signature": "AAAA"}).encode()
    for damage in (b"", b"{", b"[]", forged, b"\xff"):
        (tmp_path / "policy.json").write_bytes(damage)
        (tmp_path / "nodes.jsonl").write_bytes(damage + b"\n" + good + b"\n")
        found = fresh(cluster, tmp_path)
        found.load()
        assert not found.has_policy
        assert found.node_count == 1


def test_only_forward(cluster: Cluster, tmp_path: Path) -> None:
    held = fresh(cluster, tmp_path)
    told: list[str | None] = []
    held.on_change.append(told.append)
    old, new = cluster.policy(), cluster.policy()
    assert held.take_policy(new)
    assert not held.take_policy(old)
    assert not held.take_policy(new)
    assert held.signed_policy == new
    # A restored backup: smaller serial, larger epoch.
    assert held.take_policy(cluster.policy(epoch=2, serial=1))
    pi = cluster.node("greenhouse")
    held.take_node(cluster.node_document(pi, serial=5))
    held.take_node(cluster.node_document(pi, serial=4, name="stolen"))
    assert held.locate("greenhouse", everybody, sees_all=True).serial == 5
    assert told == [None, None, pi.uuid]
    with pytest.raises(PeerError):
        held.take_policy(Cluster().policy())


def test_a_disk_that_fails_does_not_keep_an_old_policy_alive(cluster: Cluster, tmp_path: Path) -> None:
    held = Knowledge(
        tmp_path / "not there", "farm", cluster.policy_key.public_blob, Log("test", "error", descriptor=-1)
    )
    assert held.take_policy(cluster.policy())
    assert held.has_policy


def test_names(cluster: Cluster, tmp_path: Path) -> None:
    held = fresh(cluster, tmp_path)
    one, two = cluster.node("one", site="berlin"), cluster.node("two", site="paris")
    for node in (one, two):
        held.take_node(cluster.node_document(node))
    for target in ("one", "ONE", "one.farm", one.uuid, f"{one.uuid}.farm", "site=berlin", " one ", "site=ber*"):
        assert held.locate(target, everybody, sees_all=True).uuid == one.uuid
    for target, code in (("three", "no_such_node"), ("site=rome", "no_such_node"), ("=", "no_such_node")):
        with pytest.raises(AccessDenied) as caught:
            held.locate(target, everybody, sees_all=True)
        assert caught.value.code == code
    with pytest.raises(AccessDenied) as caught:
        held.locate("site=*", everybody, sees_all=True)
    assert caught.value.code == "ambiguous"
    # Who may not see everything cannot tell a hidden node from a name that nobody has.
    refusals = []
    for target in ("one", "nobody", "site=berlin", "site=rome"):
        with pytest.raises(AccessDenied) as caught:
            held.locate(target, lambda node: False, sees_all=False)
        refusals.append((caught.value.code, caught.value.message, caught.value.hint))
    assert set(refusals) == {("denied", "access denied", '"tsh ls" lists the nodes that you may reach')}
    # A name that moves.
    held.take_node(cluster.node_document(one, serial=2, name="three"))
    assert held.locate("three", everybody, sees_all=True).uuid == one.uuid
    with pytest.raises(AccessDenied, match="there is no node one"):
        held.locate("one", everybody, sees_all=True)
    held.remove_node(one.uuid)
    assert held.node_count == 1
