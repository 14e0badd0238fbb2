"""Asking the person: passwords, codes, yes or no. On the terminal; the first two also as lines of standard input."""

from __future__ import annotations

import os
import sys

from tinyport.core.errors import OperatorError
from tinyport.core.names import printable

MAX_PASSWORD = 1024
MAX_CODE = 16


def interactive() -> bool:
    """Is there a person at standard input?"""
    return sys.stdin is not None and sys.stdin.isatty()


def password(question: str) -> str:
    """A password: asked for on the terminal without echo, or, when standard input is none, its first line (without
    the line end). OperatorError when it is empty, too long, or not UTF-8.
    """
    if interactive():
        import getpass

        try:
            answer = getpass.getpass(printable(question))
        except EOFError:
            raise OperatorError("no password was given") from None
    else:
        answer = _line_of_stdin()
    if not answer or len(answer) > MAX_PASSWORD:
        raise OperatorError(f"a password has 1 to {MAX_PASSWORD} characters; this one has {len(answer)}")
    return answer


def code(question: str) -> str:
    """A one-time code: shown while it is typed, as it is worth nothing a minute later."""
    if interactive():
        print(printable(question), end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
    else:
        answer = _line_of_stdin()
    answer = answer.strip()
    if not answer or len(answer) > MAX_CODE:
        raise OperatorError("no one-time code was given", hint="it has six digits, and your authenticator shows it")
    return answer


def new_password(question: str) -> str:
    """A password to be set: on a terminal it is asked for twice."""
    first = password(question)
    if interactive() and password("again: ") != first:
        raise OperatorError("the two passwords differ")
    return first


def _line_of_stdin() -> str:
    held = b""
    # A byte at a time: what follows the line belongs to whoever reads standard input next.
    while not held.endswith(b"\n") and len(held) <= 4 * MAX_PASSWORD:
        piece = os.read(0, 1)
        if not piece:
            break
        held += piece
    if not held:
        raise OperatorError(
            "no password: standard input is empty and no terminal",
            hint="write the password to standard input, one line",
        )
    try:
        return held.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError:
        raise OperatorError("the password on standard input is not UTF-8") from None


def confirmed(question: str) -> bool:
    """yes or no, as ssh asks; anything but those two asks again. No when there is no terminal."""
    if not interactive():
        return False
    while True:
        print(f"{question} (yes/no)? ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer or answer.strip().lower() == "no":
            return False
        if answer.strip().lower() == "yes":
            return True
