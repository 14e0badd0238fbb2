"""Recordings at a prompt: which are wanted, the table of them, and writing one into a file; for tsh and tctl."""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence

from tinyport.core.durations import format_duration
from tinyport.core.errors import OperatorError, PeerError
from tinyport.host.console import UsageError, format_time
from tinyport.host.console_progress import format_size
from tinyport.host.console_sessions import parties
from tinyport.host.console_table import table
from tinyport.host.moments import when

PATH = "/v1/recordings"
#: how many are shown, and asked for at a time (the server's own bound)
SHOWN, MOST = 50, 1000
HEADERS = ("RECORDING", "STARTED", "LASTED", "USER", "LOGIN", "NODE", "KIND", "SIZE", "STATE", "PARTIES")

#: asks auth: path → answer
Ask = Callable[[str], Mapping[str, object]]


def add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user", metavar="U", help="of this user")
    parser.add_argument("--node", metavar="N", help="on this node")
    parser.add_argument("--login", metavar="L", help="as this login")
    parser.add_argument("--since", metavar="T", help='begun since: how long ago ("2h"), or a date ("2026-01-31T12:00")')
    parser.add_argument("--until", metavar="T", help="begun before")
    parser.add_argument("--text", metavar="TEXT", help="that showed this text")
    parser.add_argument("--limit", type=int, metavar="N", help=f"the newest N (default {SHOWN}, at most {MOST})")


def find(args: argparse.Namespace, ask: Ask) -> list[Mapping[str, object]]:
    """The recordings that the filters want, the newest first."""
    now = time.time()
    wanted = args.limit or SHOWN
    if not 1 <= wanted <= MOST:
        raise UsageError(f"--limit is from 1 to {MOST}")
    query = {name: getattr(args, name) for name in ("user", "node", "login", "text")}
    for name in ("since", "until"):
        text = getattr(args, name)
        query[name] = None if text is None else f"{when(text, now):.0f}"
    given = {name: value for name, value in query.items() if value}
    found: list[Mapping[str, object]] = []
    after: object = None
    while len(found) < wanted:
        page = {**given, "limit": str(wanted - len(found)), **({"after": str(after)} if after else {})}
        answer = ask(f"{PATH}?{urllib.parse.urlencode(page)}")
        some = answer.get("recordings")
        found += [one for one in some if isinstance(one, dict)] if isinstance(some, list) else []
        if not answer.get("next") or answer.get("next") == after:
            break
        after = answer["next"]
    return found


def lines(found: Iterable[Mapping[str, object]]) -> list[str]:
    """The table of them."""
    return table([_row(one) for one in found], HEADERS)


def _row(one: Mapping[str, object]) -> Sequence[object]:
    started, seconds, size = (_number(one.get(name)) for name in ("started", "seconds", "bytes"))
    state = f"{one.get('state')}"
    if lost := _number(one.get("lost")):
        state += f", {format_size(lost)} lost"
    lasted = format_duration(seconds)
    id = str(one.get("id"))
    who = one.get("user"), one.get("login"), one.get("node"), one.get("kind")
    # So much of an id as is typed.
    return id[:12], format_time(started), lasted, *who, format_size(size), state, parties(one)


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0


def path_of(id: str, *, follow: bool = False) -> str:
    return f"{PATH}/{urllib.parse.quote(id, safe='')}" + ("?follow=1" if follow else "")


def save(parts: Iterable[bytes], target: str) -> None:
    """Write lines into a file of one's own (0600), or to standard output for ``-``. OperatorError when it is there
    already: whose recording it is, nobody could tell."""
    if target == "-":
        for part in parts:
            sys.stdout.buffer.write(part + b"\n")
        sys.stdout.buffer.flush()
        return
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise OperatorError(f"{target} is there already", hint="give another name, or remove it") from None
    with open(descriptor, "wb") as file:
        try:
            count = 0
            for part in parts:
                file.write(part + b"\n")
                count += 1
            if not count:
                raise PeerError("auth sent no recording")
        except BaseException:
            # Half of one would pass for all of it.
            os.unlink(target)
            raise
