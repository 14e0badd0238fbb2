"""One-time codes at the terminal: asking for one when auth wants it, and showing a new authenticator's QR code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tinyport.client import prompt
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.names import printable

T = TypeVar("T")

#: codes of refusals that a one-time code cures
WANTED = frozenset(("otp_required", "mfa_required"))
# A version 40 code has 177 modules a side.
_MOST_ROWS = 177
_QUIET = 2


def with_code(ask: Callable[[dict[str, object]], T]) -> T:
    """``ask`` with nothing more, and when auth wants a code, again with ``{"otp": ...}`` from the person."""
    try:
        return ask({})
    except AccessDenied as error:
        if error.code not in WANTED:
            raise
    return ask({"otp": prompt.code("one-time code: ")})


def show_enrolment(found: object) -> None:
    """What an authenticator needs (``totp`` of the API), on standard error. PeerError when it is malformed."""
    if not isinstance(found, Mapping) or not isinstance(found.get("secret"), str):
        raise PeerError("auth sent no secret for an authenticator")
    rows = found.get("qr")
    print("Scan this with an authenticator app:", file=sys.stderr)
    for line in qr_lines(rows if isinstance(rows, list) else []):
        print(line, file=sys.stderr)
    print(f"Or type this into it: {printable(str(found['secret']), 64)}", file=sys.stderr)


def qr_lines(rows: Sequence[object]) -> list[str]:
    """Rows of 0 and 1 → lines for a terminal, two rows in each. Light modules are drawn and dark ones left blank: right
    on dark terminals, and scanners read the other way round, too. PeerError when they are no QR code."""
    texts = [row for row in rows if isinstance(row, str) and set(row) <= {"0", "1"} and len(row) <= _MOST_ROWS]
    if not texts or len(texts) != len(rows) or len(texts) > _MOST_ROWS:
        raise PeerError("auth sent a QR code that is none")
    wide = len(texts[0]) + 2 * _QUIET
    framed = ["0" * wide] * _QUIET + [f"{'0' * _QUIET}{row}{'0' * _QUIET}" for row in texts] + ["0" * wide] * _QUIET
    if len(framed) % 2:
        framed.append("0" * wide)
    drawn = {"00": "█", "01": "▀", "10": "▄", "11": " "}
    return [
        "".join(drawn[above + below] for above, below in zip(framed[number], framed[number + 1], strict=True))
        for number in range(0, len(framed), 2)
    ]
