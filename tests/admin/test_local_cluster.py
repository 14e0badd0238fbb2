"""What each role of one machine is told: its own section, where its door is, a token when it needs one."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.admin.conftest import PIN, TOKEN, FakeAuth
from tinyport.admin.config_file import check
from tinyport.admin.local_cluster import LocalCluster, listening_address, online_nodes, role_document, with_token
from tinyport.admin.supervisor import Supervisor
from tinyport.core.errors import OperatorError
from tinyport.host.logging_line import Log

DOCUMENT: dict[str, Any] = {
    "tinyport": {"nodename": "pi", "token": TOKEN},
    "auth": {
        "enabled": True,
        "cluster_name": "farm.example",
        "listen": "0.0.0.0:3025",
        "static_tokens": [{"type": "node", "value": "fleet.0123456789abcdef"}],
    },
    "proxy": {"enabled": True, "listen": "[::]:3080"},
    "node": {"enabled": True},
}


def told(role: str, document: dict[str, Any]) -> dict[str, Any]:
    return role_document(role, document, check(document, "t"))


def test_a_role_is_told_its_own_section_and_nothing_of_the_others() -> None:
    for role in ("auth", "proxy", "node"):
        assert sorted(told(role, DOCUMENT)) == sorted(("tinyport", role))
    assert "fleet" not in str(told("proxy", DOCUMENT)) + str(told("node", DOCUMENT))
    assert "token" not in told("auth", DOCUMENT)["tinyport"]


def test_a_role_is_told_where_its_door_on_this_machine_is() -> None:
    assert told("proxy", DOCUMENT)["tinyport"]["server"] == "127.0.0.1:3025"
    assert told("node", DOCUMENT)["tinyport"]["server"] == "[::1]:3080"
    elsewhere = {"tinyport": {"server": "port.example.com:443"}, "node": {"enabled": True}}
    assert told("node", elsewhere)["tinyport"]["server"] == "port.example.com:443"


def test_a_door_that_another_service_of_this_machine_runs() -> None:
    document = {**DOCUMENT, "proxy": {"enabled": False, "listen": "127.0.0.1:4000"}}
    assert told("node", document)["tinyport"]["server"] == "127.0.0.1:4000"
    document["tinyport"] = {"server": "port.example.com:443"}
    assert told("node", document)["tinyport"]["server"] == "port.example.com:443"


def test_the_name_of_the_machine_is_for_its_node() -> None:
    assert told("proxy", DOCUMENT)["tinyport"]["nodename"] == "proxy-pi"
    assert told("node", DOCUMENT)["tinyport"]["nodename"] == "pi"
    alone = {"tinyport": {"nodename": "port", "server": "auth:3025"}, "proxy": {"enabled": True}}
    assert told("proxy", alone)["tinyport"]["nodename"] == "port"


def test_a_role_without_identity_and_token_gets_one_from_auth(fake_auth: FakeAuth) -> None:
    fake_auth.says("POST", "/v1/tokens", {"token": TOKEN, "ca_pins": [PIN]})
    document: dict[str, Any] = {"tinyport": {"data_dir": str(fake_auth.data_dir)}, "node": {"enabled": True}}
    config = check(document, "t")
    assert with_token("node", document, config)["tinyport"]["token"] == TOKEN
    assert fake_auth.asked == [("POST", "/v1/tokens", {"type": "node", "ttl": 600, "uses": 1})]
    given = {**document, "tinyport": {**document["tinyport"], "token": "its.own-0123456789abcdef"}}
    assert with_token("node", given, check(given, "t")) == given
    (fake_auth.data_dir / "node").mkdir()
    (fake_auth.data_dir / "node" / "identity.json").touch()
    assert with_token("node", document, config) == document
    assert len(fake_auth.asked) == 1


def test_online_nodes(fake_auth: FakeAuth) -> None:
    config = check({"tinyport": {"data_dir": str(fake_auth.data_dir)}}, "t")
    assert online_nodes(config) == set()
    nodes = [{"name": "a", "status": "online"}, {"name": "b", "status": "offline"}, "c"]
    fake_auth.says("GET", "/v1/nodes", {"nodes": nodes})
    assert online_nodes(config) == {"a"}


def test_roles_start_in_order_and_keep_the_ports_that_the_system_chose(tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    answers: dict[str, dict[str, Any]] = {
        "auth": {"address": "127.0.0.1:5001"},
        "proxy": {"address": "127.0.0.1:5002"},
        "node": {"listen": ["127.0.0.1:5003"]},
    }

    class Recorder(Supervisor):
        def start(self, name: str, task: Any, *, limit: float | None = None) -> dict[str, Any]:
            told.append((name, task["document"]))
            assert limit is not None
            return answers[name]

        def retask(self, name: str, task: Any) -> None:
            told.append((f"{name} again", task["document"]))

    document: dict[str, Any] = {
        "tinyport": {"nodename": "pi", "data_dir": str(tmp_path)},
        "auth": {"cluster_name": "c", "listen": "127.0.0.1:0"},
        "proxy": {"enabled": True, "listen": "127.0.0.1:0"},
        "node": {"listen": ["127.0.0.1:0"]},
    }
    cluster = LocalCluster(document, "t", Recorder(Log("t", "error")))
    assert cluster.start() == answers
    assert [name for name, _ in told] == ["auth", "auth again", "proxy", "proxy again", "node", "node again"]
    by_name = dict(told)
    assert by_name["auth again"]["auth"]["listen"] == "127.0.0.1:5001"
    assert by_name["proxy"]["tinyport"]["server"] == "127.0.0.1:5001"
    assert by_name["node"]["tinyport"]["server"] == "127.0.0.1:5002"
    assert by_name["node again"]["node"]["listen"] == ["127.0.0.1:5003"]
    assert document["auth"]["listen"] == "127.0.0.1:0"


def test_port_0_is_a_free_one_and_the_last_one_when_it_is_free() -> None:
    first = listening_address("127.0.0.1:0", 3080, None)
    host, _, port = first.rpartition(":")
    assert (host, int(port) > 0) == ("127.0.0.1", True)
    assert listening_address("127.0.0.1:0", 3080, first) == first
    with socket.create_server(("127.0.0.1", int(port))):
        assert listening_address("127.0.0.1:0", 3080, first) != first
    assert listening_address("0.0.0.0", 3080, None) == "0.0.0.0:3080"
    with pytest.raises(OperatorError, match="cannot listen on"):
        listening_address("192.0.2.1:0", 3080, None)
