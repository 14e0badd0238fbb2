"""``tctl audit`` and ``tctl sessions``: what happened, and what happens."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

from tinyport.admin import tctl_audit_check
from tinyport.admin.answers import path, rows
from tinyport.admin.connection import connect
from tinyport.core.events import CODES
from tinyport.core.names import printable
from tinyport.core.session_joining import MODES, OBSERVER
from tinyport.core.spelling import nearest
from tinyport.host.console import CommandLine, UsageError, emit, format_time, output_options
from tinyport.host.console_sessions import lines
from tinyport.host.moments import when

#: shown in their own columns
_COLUMNS = ("id", "time", "code", "event", "user", "node", "cluster", "received", "node_uuid", "proxy_uuid", "boot")
_MOMENTS = ("expires", "until")
#: how many events are shown, at the start of -f, and at most (the server's own bound)
SHOWN, FOLLOWED, MOST = 200, 10, 1000
# Auth says every 10 s that it is alive.
SILENCE = 35.0


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
    audit.add_argument("--user", metavar="U", help="by this user")
    audit.add_argument("--node", metavar="N", help="on this node")
    audit.add_argument("--type", metavar="T", help="an event (session.start) or its code (T2000I)")
    audit.add_argument("--since", metavar="T", help='how long ago ("2h"), or a date ("2026-01-31", "2026-01-31T12:00")')
    audit.add_argument("--until", metavar="T", help="until then, in the same words")
    audit.add_argument("--limit", type=int, metavar="N", help=f"the newest N (default {SHOWN}, at most {MOST})")
    tctl_audit_check.add_commands(audit)
    sessions = parser.command("sessions", help="live sessions", examples=["tctl sessions ls"])
    sessions.command(
        "ls", _sessions, help="list live sessions", parents=[output_options()], examples=["tctl sessions ls"]
    )
    join = sessions.command(
        "join",
        _join,
        help="join a live session, to look on or to type, too",
        description="Join a live session, with a login of your own, as tsh join does.",
        examples=["tctl sessions join 3fa9", "tctl sessions join --mode peer 3fa9"],
    )
    join.add_argument("--mode", choices=MODES, default=OBSERVER, help=f"how to be there (default: {OBSERVER})")
    join.add_argument("id", metavar="ID", help="the session's id, or how it begins")
    kill = sessions.command(
        "kill",
        _kill,
        help="end a live session",
        description="End a live session, wherever it is. The person reads who ended it.",
        parents=[output_options()],
        examples=["tctl sessions kill 3fa9"],
    )
    kill.add_argument("id", metavar="ID", help="the session's id, or how it begins")


def _query(args: argparse.Namespace) -> dict[str, str]:
    now = time.time()
    query = {
        "user": args.user,
        "node": args.node,
        "type": None if args.type is None else _event_name(args.type),
        "since": None if args.since is None else f"{when(args.since, now):.0f}",
        "until": None if args.until is None else f"{when(args.until, now):.0f}",
    }
    return {name: value for name, value in query.items() if value is not None}


def _event_name(text: str) -> str:
    """An event's name, which may be given by its code. UsageError when there is no such event."""
    names = {code: name for name, code in CODES.items()}
    name = names.get(text.upper(), text)
    if name not in CODES:
        near = nearest(name, CODES)
        hint = f"did you mean {near}?" if near else "for example session.start, or its code T2000I"
        raise UsageError(f"there is no event {printable(text, 40)!r}", hint=hint)
    return name


def _audit(args: argparse.Namespace) -> int:
    limit = args.limit or (FOLLOWED if args.follow else SHOWN)
    if not 1 <= limit <= MOST:
        raise UsageError(f"--limit is from 1 to {MOST}")
    query = _query(args)
    with connect(args) as client:
        answer = client.request("GET", _audit_path({**query, "limit": str(limit)}))
        events = rows(answer, "events")
        if not args.follow:
            emit(args, answer, lambda: [event_line(event) for event in events])
            return 0
        _print(args, events)
        last = answer.get("last")
        query.pop("since", None)
        for event in client.stream("GET", _audit_path({**query, "after": str(last), "follow": "1"}), silence=SILENCE):
            if "event" in event:
                _print(args, [event])
    return 0


def _audit_path(query: dict[str, str]) -> str:
    return f"/v1/audit?{urllib.parse.urlencode(query)}"


def _print(args: argparse.Namespace, events: list[dict[str, Any]]) -> None:
    """JSON of a list that has no end is one object a line."""
    for event in events:
        print(json.dumps(event).replace("\x7f", "\\u007f") if args.format == "json" else event_line(event), flush=True)


def event_line(event: dict[str, Any]) -> str:
    """An event for people: when, what, who, where, and whatever else it says. All of it may be hostile text."""
    name = printable(str(event.get("event")), 30)
    code = printable(str(event.get("code")), 10)
    rest = " ".join(
        f"{printable(key, 40)}={_value(key, value)}"
        for key, value in event.items()
        if key not in _COLUMNS and value is not None
    )
    columns = f"{_time(event.get('time'))}  {code:<7} {name:<18} {_name(event.get('user')):<12}"
    return f"{columns} {_name(event.get('node')):<16} {rest}".rstrip()


def _name(value: object) -> str:
    return printable(value, 40) if isinstance(value, str) and value else "-"


def _time(value: object) -> str:
    return format_time(value) if isinstance(value, (int, float)) else "-"


def _value(key: str, value: object) -> str:
    """A word, or quoted JSON when it is more than one."""
    if key in _MOMENTS and isinstance(value, (int, float)):
        return f'"{_time(value)}"'
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    text = value if isinstance(value, str) else json.dumps(value)
    shown = printable(text, 200)
    return json.dumps(shown, ensure_ascii=False) if " " in shown or not shown else shown


def _sessions(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("GET", "/v1/sessions")
    found = rows(answer, "sessions")
    emit(args, answer, lambda: lines(found, time.time()))
    return 0


def _join(args: argparse.Namespace) -> int:
    """An SSH connection to the node with a person's certificate, so it is tsh's: this process becomes it."""
    tsh = shutil.which("tsh", path=f"{Path(sys.argv[0]).resolve().parent}:{os.environ.get('PATH', os.defpath)}")
    if tsh is None or args.config:
        why = "auth's socket is no way to a node" if args.config else "there is no tsh here"
        raise UsageError(why, hint=f'run "tsh join {printable(args.id, 40)}" as yourself')
    who = ["-i", args.identity] if args.identity else []
    who += [f"--proxy={args.proxy}"] if args.proxy else []
    sys.stdout.flush()
    os.execv(tsh, ["tsh", *who, "join", f"--mode={args.mode}", "--", args.id])


def _kill(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("DELETE", path("/v1/sessions", args.id))
    who, where = printable(str(answer.get("user")), 64), printable(str(answer.get("node")), 64)
    emit(args, answer, lambda: [f"the session of {who} on {where} is being ended"])
    return 0
