"""Reading the auth API's answers, which are JSON from a server that may be newer than we are; and shared pieces of
tables.
"""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from tinyport.core.errors import PeerError, TinyportError
from tinyport.core.labels import parse_pairs
from tinyport.host import moments
from tinyport.host.console import UsageError


def rows(answer: Mapping[str, object], key: str) -> list[dict[str, Any]]:
    """The list of objects under ``key``. PeerError when there is none."""
    found = answer.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise PeerError(f"auth's answer has no {key}", hint="is auth of another version?")
    return found


def table_of(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def labels_text(labels: object) -> str:
    """``{"a": "b"}`` → ``a=b``, sorted."""
    return " ".join(f"{key}={value}" for key, value in sorted(table_of(labels).items()))


def ago(moment: object) -> str:
    """Unix seconds as "3 minutes ago", by this machine's clock."""
    return moments.ago(moment, time.time())


def path(*pieces: str) -> str:
    """``("/v1/users", name)`` → a path in which whatever was typed stays one piece."""
    return "/".join([pieces[0], *(urllib.parse.quote(piece, safe="") for piece in pieces[1:])])


def words(value: object) -> str:
    """A list as ``a,b``."""
    return ",".join(str(item) for item in value) if isinstance(value, list) else ""


def duration(text: str | None) -> int | None:
    """``--ttl``'s value in seconds. UsageError when it is none."""
    return None if text is None else moments.seconds(text)


def pairs(given: list[str]) -> dict[str, str]:
    """``k=v`` words. UsageError when one is not."""
    try:
        return parse_pairs(given)
    except TinyportError as error:
        raise UsageError(error.message, hint=error.hint) from None


def names(text: str | None) -> list[str]:
    """``a,b`` → ["a", "b"]."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def body(**fields: object) -> dict[str, object]:
    """A request's body without what was not given."""
    return {key: value for key, value in fields.items() if value is not None}
