"""``tctl top``: what it makes of two looks."""

from __future__ import annotations

from tinyport.admin.tctl_top import screen

FIRST = {
    "cluster": "farm.example",
    "time": 1000.0,
    "requests": 100,
    "events": {"user.login": 5, "session.start": 7},
    "nodes": {"online": 2, "offline": 1, "pending": 0, "quarantined": 0},
    "sessions": 3,
    "memory": 50 * 2**20,
    "proxies": [{"name": "edge\x1b[2J", "online": True, "tunnels": 2}],
}


def test_the_first_look_has_no_rates() -> None:
    lines = screen(FIRST, None)
    assert lines[2:5] == ["nodes     2 online, 1 offline", "sessions  3 open", "auth      50 MB, - requests a second"]
    assert any(line.split() == ["logins", "5", "-"] for line in lines)
    assert not any("\x1b" in line for line in lines)


def test_rates_are_of_the_time_between() -> None:
    events = {"user.login": 9, "session.start": 7, "lock.create": 1}
    lines = screen({**FIRST, "time": 1002.0, "requests": 110, "events": events}, FIRST)
    assert "auth      50 MB, 5.0 requests a second" in lines
    rows = [line.split() for line in lines]
    assert ["logins", "9", "2.0"] in rows
    assert ["sessions", "begun", "7", "0.0"] in rows
    assert ["lock.create", "1", "0.5"] in rows


def test_auth_was_started_anew() -> None:
    lines = screen({**FIRST, "time": 1002.0, "requests": 1, "events": {"user.login": 1}}, FIRST)
    assert any(line.split() == ["logins", "1", "-"] for line in lines)
    assert "auth      50 MB, - requests a second" in lines


def test_traffic() -> None:
    most = [{"name": "pi\x1b[2J", "today": 620_000, "month": 9_100_000}]
    lines = screen({**FIRST, "traffic": {"today": 1_500_000, "month": 20_000_000, "over": 1, "most": most}}, None)
    assert "traffic   1500kB today, 20.0MB this month; 1 over budget" in lines
    assert any(line.split()[-2:] == ["620kB", "9100kB"] for line in lines)
    assert not any("\x1b" in line for line in lines)
