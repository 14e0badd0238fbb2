"""A join token that is not on the command line, where every user of the machine could read it (ps)."""

from __future__ import annotations

import getpass
import shlex
import sys

from tinyport.host.console import UsageError

#: what stands for the token in its place
STDIN = "-"
# id and secret have at most 128 characters each.
_LONGEST = 300


def read_token(text: str | None) -> str | None:
    """``--token``: "-" is a line of standard input, asked for without an echo at a terminal; anything else is itself.
    UsageError when there is none.
    """
    if text != STDIN:
        return text
    line = getpass.getpass("join token: ") if sys.stdin.isatty() else sys.stdin.readline(_LONGEST + 1)
    token = line.strip()
    if not token or len(token) > _LONGEST:
        raise UsageError("there is no token on standard input", hint="tctl tokens add prints the line to paste")
    return token


def piped(token: str, command: str) -> str:
    """A line to paste: ``command`` reads the token. ``printf`` is part of the shell, so it shows in no list of
    processes. Printed with a space in front, it stays out of the history of shells with HISTCONTROL=ignorespace.
    """
    return f"printf '%s\\n' {shlex.quote(token)} | {command}"
