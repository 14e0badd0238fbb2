"""The table of live sessions, for tsh and tctl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tinyport.host.console_table import table
from tinyport.host.moments import ago

HEADERS = ("SESSION", "USER", "LOGIN", "NODE", "KIND", "STARTED", "STATE", "PARTIES")


def lines(sessions: Iterable[Mapping[str, object]], now: float) -> list[str]:
    """Sessions as auth lists them; all that they say is hostile text."""
    return table([_row(one, now) for one in sessions], HEADERS)


def _row(session: Mapping[str, object], now: float) -> tuple[object, ...]:
    # So much of an id as is typed.
    who = str(session.get("id"))[:12], session.get("user"), session.get("login"), session.get("node")
    return *who, session.get("kind"), ago(session.get("started"), now), session.get("state"), parties(session)


def parties(session: Mapping[str, object]) -> str:
    """Who has joined it, and how."""
    said = session.get("parties")
    found = [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []
    return ", ".join(f"{one.get('user')} ({one.get('mode')})" for one in found)
