"""Who is online: reports, leases, restarts."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tinyport.auth.api_proxy import expire_presence, flush_last_seen
from tinyport.auth.presence import FULL_REPORT_GRACE, LEASE, Presence
from tinyport.auth.store_nodes import NodeRow

from .conftest import START, AuthServer, Machine


def _statuses(auth: AuthServer) -> dict[str, str]:
    return {node["name"]: node["status"] for node in auth.local().get("/v1/nodes").body["nodes"]}


def _report(proxy: Machine, full: bool = False, **online: bool) -> None:
    entries = [{"uuid": uuid.replace("_", "-").removeprefix("u"), "online": is_on} for uuid, is_on in online.items()]
    assert proxy.client.post("/v1/presence", {"full": full, "nodes": entries}).body["lease"] == 30


def _key(node: Machine) -> str:
    return "u" + node.uuid.replace("-", "_")


def test_a_killed_proxys_nodes_do_not_stay_online(auth: AuthServer) -> None:
    one, two = auth.join("one", "proxy"), auth.join("two", "proxy")
    a, b = auth.join("a"), auth.join("b")
    _report(one, True, **{_key(a): True, _key(b): True})
    _report(two, True, **{_key(b): True})
    assert _statuses(auth) == {"a": "online", "b": "online"}
    heard = auth.clock.now
    auth.clock.now += 20
    _report(two)
    auth.clock.now += 11
    auth.do(expire_presence(auth.service))
    assert _statuses(auth) == {"a": "offline", "b": "online"}
    proxies = {item["name"]: item["online"] for item in auth.local().get("/v1/status").body["proxies"]}
    assert proxies == {"one": False, "two": True}
    listed = {node["name"]: node for node in auth.local().get("/v1/nodes").body["nodes"]}
    assert listed["a"]["last_seen"] == heard
    assert listed["b"]["proxies"] == [two.uuid]
    assert [event["node"] for event in auth.events("node.offline")] == ["a"]
    assert [event["node"] for event in auth.events("node.online")] == ["a", "b"] or len(auth.events("node.online")) == 2


def test_offline_nodes_are_listed_for_ever(start: Callable[..., AuthServer]) -> None:
    auth = start()
    proxy, node = auth.join("gate", "proxy"), auth.join("a")
    _report(proxy, True, **{_key(node): True})
    auth.clock.now += 10
    _report(proxy)
    auth.do(flush_last_seen(auth.service))
    auth.stop()
    auth.clock.now += 400 * 86400
    again = start()
    (listed,) = again.local().get("/v1/nodes").body["nodes"]
    assert (listed["status"], listed["last_seen"]) == ("offline", START + 10)


def test_what_is_written_of_a_quiet_fleet_is_one_row(auth: AuthServer) -> None:
    proxy, nodes = auth.join("gate", "proxy"), [auth.join(name) for name in "abc"]
    _report(proxy, True, **{_key(node): True for node in nodes})

    async def rows() -> list[NodeRow]:
        return await auth.service.store.read.nodes.all("node")

    before = auth.do(rows())
    auth.clock.now += 10
    _report(proxy)
    auth.do(flush_last_seen(auth.service))
    assert auth.do(rows()) == before
    assert auth.do(auth.service.store.read.cluster.meta("online_at")) == repr(START + 10)


def test_who_had_left_before_a_crash_was_not_there_until_it(start: Callable[..., AuthServer]) -> None:
    auth = start()
    proxy, left, stayed = auth.join("gate", "proxy"), auth.join("left"), auth.join("stayed")
    _report(proxy, True, **{_key(left): True, _key(stayed): True})
    auth.clock.now += 5
    _report(proxy, **{_key(left): False})
    auth.clock.now += 20
    _report(proxy)
    auth.do(flush_last_seen(auth.service))
    auth.stop()
    listed = {node["name"]: node["last_seen"] for node in start().local().get("/v1/nodes").body["nodes"]}
    assert listed == {"left": START + 5, "stayed": START + 25}


def test_what_a_node_declares_is_shown_and_cleaned(auth: AuthServer) -> None:
    proxy, node = auth.join("gate", "proxy"), auth.join("a", token=auth.token(labels={"site": "berlin"}))
    entry = {
        "uuid": node.uuid,
        "online": True,
        "labels": {"model": "pi4", "site": "paris", "bad key": "x", "evil": "\x1b[2J", "n": 5},
        "addresses": ["10.0.0.7:22", "nonsense", 7, "[fd00::1]:3022"],
        "peer": "192.0.2.1:4711\n",
        "version": "0.1.0\x07",
    }
    assert proxy.client.post("/v1/presence", {"full": True, "nodes": [entry]}).status == 200
    (listed,) = auth.local().get("/v1/nodes").body["nodes"]
    assert listed["labels"] == {"site": "berlin"}
    assert listed["declared_labels"] == {"model": "pi4", "site": "paris"}
    assert listed["addresses"] == ["10.0.0.7:22", "[fd00::1]:3022"]
    assert (listed["peer"], listed["version"]) == ("192.0.2.1:4711\\x0a", "0.1.0\\x07")
    # The signed document knows nothing of what a node declares, and the database only of what changed.
    before = auth.do(auth.service.store.read.audit.head())
    assert proxy.client.post("/v1/presence", {"full": False, "nodes": [entry]}).status == 200
    assert auth.do(auth.service.store.read.audit.head()) == before
    # What an entry leaves out stays as it was.
    proxy.client.post("/v1/presence", {"full": False, "nodes": [{"uuid": node.uuid, "online": True}]})
    assert auth.local().get("/v1/nodes").body["nodes"][0]["declared_labels"] == {"model": "pi4", "site": "paris"}


def test_unknown_nodes_and_malformed_reports(auth: AuthServer) -> None:
    proxy = auth.join("gate", "proxy")
    unknown = {"uuid": "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b", "online": True}
    assert proxy.client.post("/v1/presence", {"nodes": [unknown]}).status == 200
    assert auth.local().get("/v1/status").body["nodes"]["online"] == 0
    for nodes in ([{"uuid": "x"}], [5], "x", [{"uuid": unknown["uuid"], "online": "yes"}]):
        assert proxy.client.post("/v1/presence", {"nodes": nodes}).status == 400, nodes


def test_a_removed_node_does_not_come_back_by_a_report(auth: AuthServer) -> None:
    proxy, node = auth.join("gate", "proxy"), auth.join("a")
    _report(proxy, True, **{_key(node): True})
    auth.local().call("DELETE", "/v1/nodes/a")
    _report(proxy, False, **{_key(node): True})
    assert auth.local().get("/v1/status").body["nodes"]["online"] == 0
    assert not auth.service.presence.online(node.uuid)


def test_a_proxys_addresses_reach_the_policy(auth: AuthServer) -> None:
    proxy = auth.join("gate", "proxy", addresses=["127.0.0.1:1"])
    serial = auth.service.issuer.policy.serial
    for _ in range(2):
        proxy.client.post("/v1/presence", {"full": True, "nodes": [], "addresses": ["port.example.com:443"]})
    assert auth.anyone().get("/v1/hello").body["proxies"] == ["port.example.com:443"]
    assert auth.service.issuer.policy.serial == serial + 1
    assert proxy.client.post("/v1/presence", {"addresses": ["nonsense"]}).status == 400


# -------------------------------------------------------------------- the pure part


def test_after_a_start_nobody_is_called_offline_yet() -> None:
    presence = Presence(100.0)
    assert not presence.settled(100.0 + LEASE - 1)
    assert presence.settled(100.0 + LEASE)


def test_a_full_report_in_parts_does_not_flap() -> None:
    presence = Presence(0.0)
    presence.report("p", {"a": True, "b": True}, full=True, now=0.0, wall=0.0)
    change = presence.report("p", {"a": True}, full=True, now=10.0, wall=10.0)
    assert (change.came, change.went) == (frozenset(), frozenset())
    presence.report("p", {"b": True}, full=False, now=10.1, wall=10.1)
    assert presence.expire(10.0 + FULL_REPORT_GRACE) == {}
    presence.report("p", {"a": True}, full=True, now=20.0, wall=20.0)
    assert presence.expire(20.0 + FULL_REPORT_GRACE) == {"b": 20.0}


_REPORTS = st.lists(
    st.tuples(
        st.sampled_from("pq"),
        st.dictionaries(st.sampled_from("abc"), st.booleans()),
        st.booleans(),
        st.floats(0, 40),
    ),
    max_size=20,
)


@given(_REPORTS)
def test_online_is_what_some_live_proxy_says(reports: list[tuple[str, dict[str, bool], bool, float]]) -> None:
    presence, now, online = Presence(0.0), 0.0, set[str]()
    for proxy, nodes, full, pause in reports:
        now += pause
        online -= presence.expire(now).keys()
        change = presence.report(proxy, nodes, full=full, now=now, wall=now)
        assert change.came.isdisjoint(online)
        assert change.went <= online
        online = (online | change.came) - change.went
        for node in "abc":
            assert (
                (node in online)
                == presence.online(node)
                == bool(presence.proxies_of(node))
                == (presence.last_heard(node) is not None)
            )
    assert presence.expire(now + LEASE).keys() == online
    assert not any(presence.online(node) for node in "abc")


def test_traffic_and_clocks_are_shown_as_proxies_tell_them(auth: AuthServer) -> None:
    one, two, node = auth.join("one", "proxy"), auth.join("two", "proxy"), auth.join("a")

    def tell(proxy: Machine, **entry: object) -> dict[str, object]:
        nodes = [{"uuid": node.uuid, "online": True, **entry}]
        assert proxy.client.post("/v1/presence", {"full": False, "nodes": nodes}).status == 200
        (listed,) = auth.local().get("/v1/nodes").body["nodes"]
        found: dict[str, object] = listed
        return found

    assert tell(one)["traffic"] is None
    listed = tell(one, bytes=1000, bytes_since=START - 86400, skew=-7200)
    shown = listed["traffic"]
    assert isinstance(shown, dict)
    assert {key: shown[key] for key in ("bytes", "since", "a_day")} == {
        "bytes": 1000,
        "since": START - 86400,
        "a_day": 1000,
    }
    assert listed["skew"] == -7200
    # Each proxy counts its own, and what one says again replaces what it said.
    tell(two, bytes=500, bytes_since=START)
    shown = tell(one, bytes=1200, bytes_since=START - 86400, skew=0)["traffic"]
    assert isinstance(shown, dict)
    assert (shown["bytes"], shown["since"], shown["a_day"]) == (1700, START - 86400, 1700)
    for wrong in ({"bytes": -1}, {"bytes": "x"}, {"bytes": True}, {"bytes": 5, "bytes_since": "x"}, {"skew": "x"}):
        listed = tell(one, **{"bytes_since": START, **wrong})
        assert (listed["traffic"]["bytes"], listed["skew"]) == (1700, 0)  # type: ignore[index]
    auth.local().call("DELETE", f"/v1/nodes/{node.uuid}")
    assert auth.service.traffic.meters == {}
