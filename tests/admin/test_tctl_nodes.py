"""``tctl nodes`` on many at once: by auth's labels alone, listed before anything is done."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.admin.conftest import FakeAuth, Run

At = Callable[[Path], Run]


def node(number: int, status: str, labels: dict[str, str], **more: object) -> dict[str, object]:
    uuid = f"0c9a7f4e-0000-4000-8000-00000000000{number}"
    return {"name": f"pi-{number}", "uuid": uuid, "status": status, "labels": labels, **more}


NODES = [
    node(1, "offline", {"site": "old"}),
    node(2, "online", {"site": "old"}),
    node(3, "offline", {"site": "new"}),
    # What it says of itself puts it nowhere.
    node(4, "offline", {}, declared_labels={"site": "old"}),
]


def test_what_is_selected_is_listed_first(fake_auth: FakeAuth, tctl: At) -> None:
    fake_auth.says("GET", "/v1/nodes", {"nodes": NODES})
    ran = tctl(fake_auth.data_dir)("nodes", "rm", "--selector", "site=old")
    assert ran.status == 2
    assert "2 nodes are selected, and nothing was done" in ran.err
    assert "pi-1" in ran.err
    assert "pi-4" not in ran.err
    assert [method for method, _, _ in fake_auth.asked] == ["GET"]


@pytest.mark.parametrize(("typed", "status"), [("2\n", 0), ("yes\n", 2), ("\n", 2), ("", 2)])
def test_at_a_terminal_the_number_is_asked_for(
    fake_auth: FakeAuth, tctl: At, monkeypatch: pytest.MonkeyPatch, typed: str, status: int
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    fake_auth.says("GET", "/v1/nodes", {"nodes": NODES})
    for one in NODES[:2]:
        fake_auth.says("DELETE", f"/v1/nodes/{one['uuid']}", {"name": one["name"], "uuid": one["uuid"]})
    shown = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    monkeypatch.setattr("sys.stderr", shown)
    ran = tctl(fake_auth.data_dir)("nodes", "rm", "site=old")
    assert ran.status == status
    assert "2 nodes. Type their number to go on: " in shown.getvalue()
    assert [method for method, _, _ in fake_auth.asked].count("DELETE") == (0 if status else 2)


def test_nodes_are_locked_by_label(fake_auth: FakeAuth, tctl: At) -> None:
    fake_auth.says("GET", "/v1/nodes", {"nodes": NODES})
    fake_auth.says("POST", "/v1/locks", {"id": "abcd"})
    words = ("lock", "site=old", "--ttl", "2h", "--message", "being moved", "--yes")
    ran = tctl(fake_auth.data_dir)("nodes", *words)
    assert (ran.status, ran.out.count("is locked; tctl unlock abcd removes it")) == (0, 2)
    assert [body for method, _, body in fake_auth.asked if method == "POST"] == [
        {"target": {"node": one["uuid"]}, "ttl": 7200, "message": "being moved"} for one in NODES[:2]
    ]


def test_then_it_is_done_to_each(fake_auth: FakeAuth, tctl: At) -> None:
    fake_auth.says("GET", "/v1/nodes", {"nodes": NODES})
    for one in NODES[:2]:
        fake_auth.says("PATCH", f"/v1/nodes/{one['uuid']}", {"node": one})
    ran = tctl(fake_auth.data_dir)("nodes", "label", "--selector", "site=o*", "room=7", "--yes")
    assert (ran.status, ran.out) == (0, "labels of pi-1: site=old\nlabels of pi-2: site=old\n")
    assert [body for method, _, body in fake_auth.asked if method == "PATCH"] == [{"labels": {"room": "7"}}] * 2


def test_one_that_fails_does_not_stop_the_others(fake_auth: FakeAuth, tctl: At) -> None:
    fake_auth.says("GET", "/v1/nodes", {"nodes": NODES})
    fake_auth.says("DELETE", f"/v1/nodes/{NODES[2]['uuid']}", {"name": "pi-3", "uuid": NODES[2]["uuid"]})
    run = tctl(fake_auth.data_dir)
    ran = run("nodes", "rm", "--status", "offline", "--yes")
    assert (ran.status, ran.out) == (1, "node pi-3 was removed\n")
    assert ran.err.count("tctl: error:") == 2
    ran = run("nodes", "rm", "--status", "offline", "--yes", "--format", "json")
    assert [("error" in one, one.get("name")) for one in ran.json["nodes"]] == [
        (True, None),
        (False, "pi-3"),
        (True, None),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rm",), "which nodes?"),
        (("rm", "pi-1", "--selector", "site=old"), "not both"),
        (("rm", "--selector", "site=nowhere", "--yes"), "no node is selected"),
        (("rm", "--selector", "site", "--yes"), "site"),
        (("label", "pi-1"), "which labels?"),
        (("accept", "--yes"), "which nodes?"),
    ],
)
def test_mistakes_do_nothing(fake_auth: FakeAuth, tctl: At, words: tuple[str, ...], said: str) -> None:
    fake_auth.says("GET", "/v1/nodes", {"nodes": NODES})
    ran = tctl(fake_auth.data_dir)("nodes", *words)
    assert ran.status != 0
    assert said in ran.err
    assert all(method == "GET" for method, _, _ in fake_auth.asked)


def test_what_waits_may_be_there_and_what_is_locked_says_so(fake_auth: FakeAuth, tctl: At) -> None:
    lock = {"id": "4f", "expires": None, "message": "being moved\x1b[2J"}
    nodes = [
        node(1, "pending", {}, proxies=["x"], last_seen=1.0, version="0.1.0"),
        node(2, "offline", {}, locked=lock, last_seen=1.0, version="0.1.0"),
        node(3, "quarantined", {}, locked=lock, version="0.1.0"),
    ]
    fake_auth.says("GET", "/v1/nodes", {"nodes": nodes})
    listed = [line.split()[:3] for line in tctl(fake_auth.data_dir)("nodes", "ls").out.splitlines()[1:]]
    assert listed[0] == ["pi-1", "pending", "now"]
    assert listed[1][:2] == ["pi-2", "locked"]
    assert listed[2] == ["pi-3", "quarantined", "never"]
    # Who never came has said nothing of a clock.
    last = tctl(fake_auth.data_dir)("nodes", "ls", "-v").out.splitlines()[-1]
    assert last.split()[1:] == ["quarantined", "0", "-", "-", "-", "-", nodes[2]["uuid"]]


def test_a_page_has_what_an_administrator_compares(fake_auth: FakeAuth, tctl: At) -> None:
    found = node(
        1,
        "pending",
        {},
        fingerprint="SHA256:abc",
        serial="1000abcd",
        same_serial={"name": "old", "status": "offline", "last_seen": 0},
        locked={"id": "4f", "expires": None, "message": "being moved"},
    )
    fake_auth.says("GET", "/v1/nodes/pi-1", {"node": found, "days": [], "months": []})
    lines = tctl(fake_auth.data_dir)("nodes", "show", "pi-1").out.splitlines()
    for line in (
        "locked          until it is removed, tctl unlock 4f: being moved",
        "host key        SHA256:abc",
        "serial          1000abcd",
        "serial of       old, which is offline, seen never",
    ):
        assert line in lines
