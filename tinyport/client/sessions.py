"""``tsh sessions``: who is where at the moment, as far as one's roles let one see; and ending one."""

from __future__ import annotations

import argparse
import time
import urllib.parse

from tinyport.client.whoami import auth_client, identity_of
from tinyport.core.names import printable
from tinyport.host.console import UsageError, emit
from tinyport.host.console_sessions import lines


def run(args: argparse.Namespace) -> int:
    """Ask auth, and show a line for each live session; or have one ended."""
    if args.action == "kill":
        return _kill(args)
    with auth_client(identity_of(args)) as client:
        answer = client.request("GET", "/v1/sessions")
    found = answer.get("sessions")
    sessions = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    emit(args, {"sessions": sessions}, lambda: lines(sessions, time.time()))
    return 0


def _kill(args: argparse.Namespace) -> int:
    if not args.id:
        raise UsageError("which session?", hint='"tsh sessions" lists them')
    with auth_client(identity_of(args)) as client:
        answer = client.request("DELETE", f"/v1/sessions/{urllib.parse.quote(args.id, safe='')}")
    who, where = printable(str(answer.get("user")), 64), printable(str(answer.get("node")), 64)
    emit(args, answer, lambda: [f"the session of {who} on {where} is being ended"])
    return 0
