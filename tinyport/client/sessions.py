"""``tsh sessions``: who is where at the moment, as far as one's roles let one see; and ending one."""

from __future__ import annotations

import argparse
import time
import urllib.parse
from collections.abc import Mapping

from tinyport.client.whoami import auth_client, identity_of
from tinyport.core.durations import format_duration
from tinyport.core.names import printable
from tinyport.host.console import UsageError, emit, table


def run(args: argparse.Namespace) -> int:
    """Ask auth, and show a line for each live session; or have one ended."""
    if args.action == "kill":
        return _kill(args)
    with auth_client(identity_of(args)) as client:
        answer = client.request("GET", "/v1/sessions")
    found = answer.get("sessions")
    sessions = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    now = time.time()
    emit(
        args,
        {"sessions": sessions},
        lambda: table(
            [_row(one, now) for one in sessions],
            ("SESSION", "USER", "LOGIN", "NODE", "KIND", "SINCE", "STATE", "PARTIES"),
        ),
    )
    return 0


def _row(session: Mapping[str, object], now: float) -> tuple[object, ...]:
    since = session.get("since", session.get("time"))
    ago = f"{format_duration(now - since)} ago" if isinstance(since, (int, float)) else ""
    node = session.get("node_name") or session.get("node")
    who = session.get("id"), session.get("user"), session.get("login"), node
    said = session.get("parties")
    parties = [f"{one.get('user')} ({one.get('mode')})" for one in said] if isinstance(said, list) else []
    return *who, session.get("kind"), ago, session.get("state"), ", ".join(parties)


def _kill(args: argparse.Namespace) -> int:
    if not args.id:
        raise UsageError("which session?", hint='"tsh sessions" lists them')
    with auth_client(identity_of(args)) as client:
        answer = client.request("DELETE", f"/v1/sessions/{urllib.parse.quote(args.id, safe='')}")
    who, where = printable(str(answer.get("user")), 64), printable(str(answer.get("node")), 64)
    emit(args, answer, lambda: [f"the session of {who} on {where} is being ended"])
    return 0
