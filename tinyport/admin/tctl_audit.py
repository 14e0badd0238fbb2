"""``tctl audit`` and ``tctl sessions``: what happened, and what happens."""

from __future__ import annotations

import argparse
import json
import time
import urllib.parse
from typing import Any

from tinyport.admin.answers import ago, duration, rows
from tinyport.admin.connection import connect
from tinyport.core.errors import OperatorError
from tinyport.core.names import printable
from tinyport.host.console import CommandLine, emit, format_time, output_options, table

#: shown in their own columns
_COLUMNS = ("id", "time", "code", "event", "user", "node", "node_name", "cluster", "arrived", "hash", "previous")


def add_commands(parser: CommandLine) -> None:
    audit = parser.command(
        "audit",
        _audit,
        help="the audit log",
        examples=[
            "tctl audit --since 1h",
            "tctl audit -f --user alice",
            "tctl audit --type session.start --format json",
        ],
        parents=[output_options()],
    )
    audit.add_argument("-f", "--follow", action="store_true", help="go on as events come")
    audit.add_argument("--user", metavar="U")
    audit.add_argument("--node", metavar="N")
    audit.add_argument("--type", metavar="T", help="an event (session.start) or its code (T2000I)")
    audit.add_argument("--since", metavar="T", help='how long ago ("2h"), or a date ("2026-01-31" or with "T12:00")')
    audit.add_argument("--until", metavar="T")
    audit.add_argument("--limit", type=int, default=200, metavar="N", help="the newest N (default %(default)s)")
    sessions = parser.command("sessions", help="live sessions", examples=["tctl sessions ls"])
    sessions.command(
        "ls", _sessions, help="list live sessions", parents=[output_options()], examples=["tctl sessions ls"]
    )


def _when(text: str | None) -> float | None:
    """A moment as people write it → Unix seconds."""
    if text is None:
        return None
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        try:
            return time.mktime(time.strptime(text, form))
        except ValueError:
            continue
    return time.time() - (duration(text) or 0)


def _audit(args: argparse.Namespace) -> int:
    if not 1 <= args.limit <= 10_000:
        raise OperatorError("--limit is from 1 to 10000", code="usage")
    query: dict[str, Any] = {"limit": args.limit}
    for name, value in (
        ("user", args.user),
        ("node", args.node),
        ("type", args.type),
        ("since", _when(args.since)),
        ("until", _when(args.until)),
    ):
        if value is not None:
            query[name] = value
    if args.follow:
        query["follow"] = 1
        with connect(args) as client:
            for event in client.stream("GET", f"/v1/audit?{urllib.parse.urlencode(query)}"):
                if "event" in event:
                    print(json.dumps(event) if args.format == "json" else _line(event), flush=True)
        return 0
    with connect(args) as client:
        answer = client.request("GET", f"/v1/audit?{urllib.parse.urlencode(query)}")
    events = rows(answer, "events")
    emit(args, answer, lambda: [_line(event) for event in events])
    return 0


def _line(event: dict[str, Any]) -> str:
    stamp = event.get("time")
    when = format_time(stamp) if isinstance(stamp, (int, float)) else "-"
    subject = printable(str(event.get("user") or "-"), 40)
    node = printable(str(event.get("node_name") or event.get("node") or "-"), 40)
    rest = " ".join(
        f"{key}={printable(str(value), 120)}"
        for key, value in event.items()
        if key not in _COLUMNS and value is not None
    )
    name = printable(str(event.get("event")), 30)
    code = printable(str(event.get("code")), 10)
    return f"{when}  {code:<7} {name:<18} {subject:<12} {node:<16} {rest}".rstrip()


def _sessions(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("GET", "/v1/sessions")
    lines = [
        (
            s.get("id") or s.get("session"),
            s.get("user"),
            s.get("login"),
            s.get("node_name") or s.get("node"),
            ago(s.get("started")),
        )
        for s in rows(answer, "sessions")
    ]
    emit(args, answer, lambda: table(lines, ("SESSION", "USER", "LOGIN", "NODE", "STARTED")))
    return 0
