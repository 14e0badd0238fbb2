"""Moments as people say them."""

from __future__ import annotations

from tinyport.core.durations import parse_duration
from tinyport.core.errors import PeerError
from tinyport.host.console import UsageError

_UNITS = (("year", 365 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


def span(seconds: float) -> str:
    """Seconds as "3 minutes": one unit, rounded down, which is all that a listing needs. What is just short of a round
    number counts as that: a token of half an hour has 30 minutes when it is shown, not 29.
    """
    left = int(abs(seconds) * 1.02 + 0.5)
    for word, size in _UNITS:
        if left >= size:
            count = left // size
            return f"{count} {word}{'' if count == 1 else 's'}"
    return "a moment"


def ago(moment: object, now: float) -> str:
    """Unix seconds as "3 minutes ago" or "in 2 hours"; "never" for what is no moment."""
    if not isinstance(moment, (int, float)) or isinstance(moment, bool) or moment <= 0:
        return "never"
    distance = now - moment
    return f"{span(distance)} ago" if distance >= 0 else f"in {span(distance)}"


def seconds(text: str) -> int:
    """A duration as people type it ("30m"). UsageError for anything else."""
    try:
        return parse_duration(text)
    except PeerError as error:
        raise UsageError(error.message, hint=error.hint) from None


def when(text: str, now: float) -> float:
    """A moment as people type it, a duration back ("2h") or a local date ("2026-01-31", "2026-01-31T12:00"), as Unix
    seconds. UsageError for anything else.
    """
    import time

    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        try:
            return time.mktime(time.strptime(text, form))
        except (ValueError, OverflowError):
            continue
    try:
        return now - parse_duration(text)
    except PeerError as error:
        raise UsageError(error.message, hint='write "2h" for two hours ago, or "2026-01-31T12:00"') from None
