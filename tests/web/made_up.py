"""Answers for pages that would need a fleet to be full: what auth would say of one. Hostile names are among it."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.web.person import Person

HOSTILE = "<script>alert(1)</script>"
NOW = int(time.time())
FINGERPRINT = f"SHA256:{'Ab3/' * 10}xyz"


def _node(number: int, name: str, status: str, seen: int, labels: dict[str, str], **declared: str) -> dict[str, Any]:
    return {
        "kind": "node",
        "uuid": f"{number:08x}-1111-4222-8333-444455556666",
        "name": name,
        "status": status,
        "last_seen": NOW - seen,
        "addresses": [f"10.1.0.{number}"],
        "peer": f"203.0.113.{number}:40222",
        "labels": labels,
        "declared_labels": declared,
        "version": "0.4.0",
        "created": NOW - 900_000,
        "proxies": [],
    }


NODES = [
    _node(1, "greenhouse-north", "online", 0, {"site": "berlin", "kind": "gateway"}, arch="aarch64", kernel="6.12"),
    _node(2, "greenhouse-south", "online", 0, {"site": "berlin", "kind": "sensor"}, arch="armv7l"),
    _node(3, "pump-7", "offline", 7200, {"site": "potsdam"}),
    _node(4, HOSTILE, "online", 0, {"note": "<img src=x onerror=alert(1)>"}, evil='"><svg onload=alert(1)>'),
    _node(5, "attic-router", "offline", 4_000_000, {"site": "hamburg", "kind": "openwrt"}),
    {
        **_node(6, "new-pi", "pending", 60, {"site": "berlin"}, note="<img src=x onerror=alert(1)>"),
        "serial": "10000000abcdef",
        "fingerprint": FINGERPRINT,
        "same_serial": {"uuid": "x", "name": "pump-7", "status": "offline", "last_seen": NOW - 7200},
        "proxies": ["p"],
    },
    {**_node(9, "odd-pi", "pending", 60, {}), "serial": HOSTILE + "1" * 200, "fingerprint": FINGERPRINT},
    _node(7, "clone-pi", "quarantined", 600, {"site": "berlin"}),
    {
        **_node(8, "twin-pi", "online", 0, {"site": "berlin"}),
        "copies": [
            {
                "id": "3f9a01bc",
                "online": True,
                "peer": "203.0.113.9:4242",
                "found": NOW - 60,
                "last_seen": NOW,
                "split": False,
            },
            {
                "id": "77aa01bc",
                "online": False,
                "peer": "",
                "found": NOW - 90_000,
                "last_seen": NOW - 7200,
                "split": True,
            },
        ],
    },
    {
        **_node(10, "stolen-pi", "online", 0, {"site": "berlin"}),
        "locked": {"id": "4f", "expires": None, "message": f"stolen {HOSTILE}{'x' * 200}"},
    },
]
SESSIONS = [
    {
        "id": "a" * 32,
        "user": "alice",
        "login": "pi",
        "node": "greenhouse-north",
        "kind": "shell",
        "since": NOW - 300,
        "state": "live",
        "join": ["observer", "peer"],
        "parties": [{"user": "bob", "mode": "observer"}],
    },
    {
        "id": "b" * 32,
        "user": HOSTILE,
        "login": "root",
        "node": "pump-7",
        "kind": "exec",
        "command": f"apt-get upgrade {HOSTILE}",
        "since": NOW - 4000,
        "state": "lost",
        "join": [],
        "parties": [],
    },
]
TOKENS = [
    {
        "id": "abcdefghij",
        "type": "node",
        "created": NOW,
        "expires": NOW + 1700,
        "uses": 5,
        "used": 2,
        "labels": {"site": "berlin"},
        "name_template": "pi-{serial}",
        "cidr": ["10.0.0.0/8"],
        "pending": True,
    }
]
LOCKS = [
    {
        "id": "1a2b",
        "target": {"user": "mallory"},
        "expires": None,
        "message": f"laptop lost on the train {HOSTILE}",
        "created": NOW - 5000,
        "created_by": "alice",
    },
    {
        "id": "2a2b",
        "target": {"node": "pump-7"},
        "expires": NOW + 9000,
        "message": "",
        "created": NOW - 50,
        "created_by": "alice",
    },
]
RECORDING = {
    "id": "c" * 32,
    "user": "alice",
    "login": "pi",
    "node": "greenhouse-north",
    "kind": "shell",
    "started": NOW - 3000,
    "ended": NOW - 2900,
    "seconds": 100.0,
    "bytes": 48_211,
    "state": "complete",
    "lost": 0,
    "parties": [{"user": "bob", "mode": "observer"}],
}
RECORDINGS = [
    RECORDING,
    {**RECORDING, "id": "d" * 32, "user": "carol", "state": "live", "ended": None},
    {**RECORDING, "id": "e" * 32, "kind": "exec", "command": HOSTILE, "state": "incomplete", "lost": 12_345},
]


def cast() -> str:
    """A recording of a hundred seconds: a line each second in colours, a change of size, and a minute of nothing."""
    lines: list[object] = [{"version": 2, "width": 90, "height": 24, "timestamp": NOW}]
    for second in range(40):
        lines.append([float(second), "o", f"\x1b[3{second % 8}mline {second}\x1b[0m of \x1b[1m40\x1b[0m\r\n"])
    lines.append([41.0, "r", "100x30"])
    lines.append([41.5, "o", f"\x1b]0;title\x07needle in a haystack {HOSTILE}\r\n"])
    lines.append([42.0, "m", "2000 bytes are missing here"])
    lines.append([100.0, "o", "the last line\r\n"])
    return "".join(json.dumps(line) + "\n" for line in lines)


def fill(person: Person) -> None:
    """Whatever this person's page asks, there is much of it."""
    answers = {
        "nodes": {"nodes": NODES},
        "sessions": {"sessions": SESSIONS},
        "tokens": {"tokens": TOKENS},
        "locks": {"locks": LOCKS},
    }
    for path, answer in answers.items():
        _answer(person, f"{person.base}/web/api/v1/{path}", json.dumps(answer), "application/json")
    listed = json.dumps({"recordings": RECORDINGS, "next": None})
    _answer(person, f"{person.base}/web/api/v1/recordings?*", listed, "application/json")
    _answer(person, f"{person.base}/web/api/v1/recordings/{'c' * 32}", cast(), "application/x-asciicast")


def _answer(person: Person, url: str, body: str, kind: str) -> None:
    def answer(route: Any) -> None:
        if route.request.method == "GET":
            route.fulfill(status=200, content_type=kind, body=body)
        else:
            route.continue_()

    person.page.route(url, answer)
