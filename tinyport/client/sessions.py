"""``tsh sessions``: who is where at the moment, as far as one's roles let one see."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

from tinyport.client.whoami import auth_client, identity_of
from tinyport.core.durations import format_duration
from tinyport.host.console import emit, table


def run(args: argparse.Namespace) -> int:
    """Ask auth, and show a line for each live session."""
    with auth_client(identity_of(args)) as client:
        answer = client.request("GET", "/v1/sessions")
    found = answer.get("sessions")
    sessions = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    now = time.time()
    emit(
        args,
        {"sessions": sessions},
        lambda: table([_row(one, now) for one in sessions], ("SESSION", "USER", "LOGIN", "NODE", "SINCE")),
    )
    return 0


def _row(session: Mapping[str, object], now: float) -> tuple[object, ...]:
    since = session.get("since", session.get("time"))
    ago = f"{format_duration(now - since)} ago" if isinstance(since, (int, float)) else ""
    node = session.get("node_name") or session.get("node")
    return session.get("session") or session.get("id"), session.get("user"), session.get("login"), node, ago
