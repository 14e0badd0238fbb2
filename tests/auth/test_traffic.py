"""What nodes cost on the wire: added up by day and month, on disk, within budgets."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyport.auth.store_traffic import month_of, name_of
from tinyport.auth.traffic import KEEP_DAYS, save_traffic

from .conftest import START, AuthServer, Machine

DAY = 86400.0
FIRST = int(START // DAY)


def tell(auth: AuthServer, proxy: Machine, node: Machine, count: int, since: float) -> dict[str, Any]:
    """A proxy's report; what is shown of the node then."""
    entry = {"uuid": node.uuid, "online": True, "bytes": count, "bytes_since": since}
    # Started anew, it has another port.
    client = auth.bearer(proxy.answer["tls_certificate"], proxy.tls_key)
    assert client.post("/v1/presence", {"full": False, "nodes": [entry]}).status == 200
    return shown(auth, node)


def later(auth: AuthServer, proxy: Machine, node: Machine, count: int, since: float) -> dict[str, Any]:
    """The same, when the certificates of the first day are none any more."""

    async def say() -> None:
        auth.service.traffic.said(node.uuid, proxy.uuid, count, since, auth.clock.now)

    auth.do(say())
    return shown(auth, node)


def shown(auth: AuthServer, node: Machine) -> dict[str, Any]:
    found: dict[str, Any] = auth.local().get(f"/v1/nodes/{node.uuid}").body["node"]["traffic"]
    return found


def sums(traffic: dict[str, Any]) -> tuple[int, int, int, int]:
    return traffic["today"], traffic["yesterday"], traffic["month"], traffic["last_month"]


def test_days_and_months_add_up(auth: AuthServer) -> None:
    one, two, node = auth.join("one", "proxy"), auth.join("two", "proxy"), auth.join("a")
    assert sums(tell(auth, one, node, 100, START)) == (100, 0, 100, 0)
    assert sums(tell(auth, one, node, 100, START)) == (100, 0, 100, 0)
    assert sums(tell(auth, one, node, 150, START)) == (150, 0, 150, 0)
    assert sums(tell(auth, two, node, 50, START)) == (200, 0, 200, 0)
    # It was started anew; and one that counts backwards takes nothing away.
    assert sums(tell(auth, one, node, 30, START + 1)) == (230, 0, 230, 0)
    assert sums(tell(auth, one, node, 10, START + 1)) == (230, 0, 230, 0)
    auth.clock.now += DAY
    assert sums(shown(auth, node)) == (0, 230, 230, 0)
    assert sums(tell(auth, two, node, 60, START)) == (10, 230, 240, 0)
    auth.clock.now += DAY * 2
    assert sums(shown(auth, node)) == (0, 0, 240, 0)
    while month_of(int(auth.clock.now // DAY)) == month_of(FIRST):
        auth.clock.now += DAY
    assert sums(later(auth, two, node, 65, START))[2:] == (5, 240)
    # A count of weeks that auth hears of for the first time is of no day.
    late = auth.join("three", "proxy")
    assert sums(later(auth, late, node, 10**9, auth.clock.now - 20 * DAY))[2:] == (5, 240)


def test_what_was_told_outlives_auth(start: Callable[..., AuthServer]) -> None:
    auth = start()
    proxy, node = auth.join("one", "proxy"), auth.join("a")
    tell(auth, proxy, node, 100, START)
    auth.stop()
    auth = start()
    assert sums(shown(auth, node)) == (100, 0, 100, 0)
    assert sums(tell(auth, proxy, node, 130, START)) == (130, 0, 130, 0)
    # Killed: what is not on disk comes with the proxy's next words, and nothing twice.
    auth.do(save_traffic(auth.service))
    tell(auth, proxy, node, 150, START)
    auth.service.traffic.__init__()  # type: ignore[misc]
    auth.stop()
    auth = start()
    assert sums(shown(auth, node)) == (130, 0, 130, 0)
    assert sums(tell(auth, proxy, node, 170, START)) == (170, 0, 170, 0)


def test_it_costs_the_disk_little(auth: AuthServer, tmp_path: Path) -> None:
    """Reports write nothing; an hour's are one transaction."""
    proxy, node = auth.join("one", "proxy"), auth.join("a")
    tell(auth, proxy, node, 1, START)
    changes = auth.service.store._writer._connection.total_changes
    for count in range(2, 50):
        tell(auth, proxy, node, count, START)
    assert auth.service.store._writer._connection.total_changes == changes
    auth.do(save_traffic(auth.service))
    assert auth.service.store._writer._connection.total_changes == changes + 2
    auth.do(save_traffic(auth.service))
    assert auth.service.store._writer._connection.total_changes == changes + 2
    with sqlite3.connect(tmp_path / "auth" / "auth.db") as database:
        assert database.execute("SELECT day, bytes FROM traffic_days").fetchall() == [(FIRST, 49)]
    database.close()


def test_what_is_said_while_it_is_written_is_not_lost(auth: AuthServer) -> None:
    proxy, node = auth.join("one", "proxy"), auth.join("a")
    tell(auth, proxy, node, 10, START)
    traffic = auth.service.traffic
    batch = traffic.unsaved()
    tell(auth, proxy, node, 25, START)
    traffic.saved(batch)
    left = traffic.unsaved()
    assert (dict(left.days), dict(left.meters)) == (
        {(node.uuid, FIRST): 15},
        {(node.uuid, proxy.uuid): (25, START)},
    )


def test_one_node_in_full_and_days_become_months(auth: AuthServer) -> None:
    proxy, node = auth.join("one", "proxy"), auth.join("a")
    tell(auth, proxy, node, 100, START)
    auth.do(save_traffic(auth.service))
    auth.clock.now += DAY
    tell(auth, proxy, node, 120, START)
    auth.do(save_traffic(auth.service))
    found = auth.local().get("/v1/nodes/a").body
    assert found["node"]["name"] == "a"
    assert found["days"] == [{"day": name_of(FIRST), "bytes": 100}, {"day": name_of(FIRST + 1), "bytes": 20}]
    month = name_of(FIRST)[:7]
    assert found["months"] == [{"month": month, "bytes": 120}]
    auth.clock.now += DAY * (KEEP_DAYS + 5)
    later(auth, proxy, node, 121, START)
    auth.do(save_traffic(auth.service))
    found = auth.local().get("/v1/nodes/a").body
    assert [day["bytes"] for day in found["days"]] == [1]
    assert [one["bytes"] for one in found["months"]] == [120, 1]
    assert auth.local().get("/v1/nodes/nowhere").status == 404
    # What is left of a node that was removed goes in time.
    auth.local().call("DELETE", "/v1/nodes/a")
    assert auth.service.traffic.unsaved().days == {}
    auth.clock.now += DAY * 500
    later(auth, proxy, auth.join("b"), 1, auth.clock.now)
    auth.do(save_traffic(auth.service))
    rows = auth.service.store.read.traffic
    assert auth.do(rows.days_of(node.uuid)) == []
    assert auth.do(rows.months_of(node.uuid)) == {}
    assert [meter.node for meter in auth.do(rows.meters())] != [node.uuid]


def test_over_budget_is_told_once_a_day(start: Callable[..., AuthServer]) -> None:
    auth = start()
    proxy, node, other = auth.join("one", "proxy"), auth.join("a"), auth.join("b")
    auth.local().call("PATCH", "/v1/nodes/a", {"labels": {"uplink": "lte"}})
    budgets = [{"labels": {"uplink": "lte"}, "budget": "100kB"}]
    config = "/v1/resources/cluster_config/cluster"
    assert auth.local().call("PUT", config, {"node_budget": "1MB", "node_budgets": budgets}).status == 200
    found = tell(auth, proxy, node, 200_000, START)
    assert (found["budget"], found["over"]) == (100_000, True)
    found = tell(auth, proxy, other, 200_000, START)
    assert (found["budget"], found["over"]) == (1_000_000, False)
    figures = auth.local().get("/v1/figures").body["traffic"]
    assert (figures["bytes"], figures["today"], figures["month"], figures["over"]) == (400_000, 400_000, 400_000, 1)
    assert {one["name"] for one in figures["most"]} == {"a", "b"}
    auth.do(save_traffic(auth.service))
    (told,) = auth.events("node.over_budget")
    assert (told["node"], told["bytes"], told["budget"], told["code"]) == ("a", 200_000, 100_000, "TJ016W")
    tell(auth, proxy, node, 300_000, START)
    auth.stop()
    auth = start()
    tell(auth, proxy, node, 400_000, START)
    auth.do(save_traffic(auth.service))
    assert len(auth.events("node.over_budget")) == 1
    auth.clock.now += DAY
    assert shown(auth, node)["over"] is False
    tell(auth, proxy, node, 600_000, START)
    auth.do(save_traffic(auth.service))
    assert len(auth.events("node.over_budget")) == 2


def test_budgets_that_are_none(auth: AuthServer) -> None:
    def put(value: object) -> int:
        return auth.local().call("PUT", "/v1/resources/cluster_config/cluster", {"node_budgets": value}).status

    good = {"labels": {"uplink": "lte"}, "budget": "100kB"}
    assert put([good]) == 200
    wrongs: tuple[object, ...] = (
        good,
        "x",
        [1],
        [good] * 17,
        [{"labels": {"a": "b"}}],
        [{**good, "more": 1}],
        [{**good, "budget": "1kB"}],
        [{**good, "budget": 5}],
        [{**good, "labels": {}}],
        [{**good, "labels": {"a b": "c"}}],
        [{**good, "labels": {"a": 1}}],
        [{**good, "labels": ["a"]}],
    )
    for wrong in wrongs:
        assert put(wrong) == 400, wrong


def test_a_node_that_a_role_hides_is_shown_to_nobody_who_has_it(auth: AuthServer) -> None:
    proxy, node = auth.join("one", "proxy"), auth.join("a")
    auth.local().call("PATCH", "/v1/nodes/a", {"labels": {"secret": "yes"}})
    tell(auth, proxy, node, 1000, START)
    rules = [{"resources": ["nodes", "status"], "verbs": ["read"]}]
    auth.role("reader", allow={"rules": rules})
    auth.role("blind", deny={"node_labels": {"secret": ["yes"]}})
    reader, _ = auth.user("rita", ["reader"], ["pi"])
    blind, _ = auth.user("bob", ["reader", "blind"], ["pi"])
    assert reader.get("/v1/nodes/a").status == 200
    assert [one["name"] for one in reader.get("/v1/figures").body["traffic"]["most"]] == ["a"]
    assert (blind.get("/v1/nodes/a").status, blind.get(f"/v1/nodes/{node.uuid}").code) == (404, "not_found")
    assert blind.get("/v1/figures").body["traffic"]["most"] == []
    # Proxies are no nodes.
    assert reader.get("/v1/nodes/one").status == 404
