"""What auth and browsers say, in JSON: read with bounds, refused in words."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tinyport.core.errors import PeerError


def read_object(data: str | bytes) -> dict[str, object]:
    """A JSON object. PeerError for anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise PeerError("not JSON") from None
    if not isinstance(found, dict):
        raise PeerError("not a JSON object")
    return found


def text_of(message: Mapping[str, object], name: str, limit: int) -> str:
    value = message.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= limit:
        raise PeerError(f"{name}: a text of at most {limit} characters is needed")
    return value


def number_of(message: Mapping[str, object], name: str, low: int, high: int) -> int:
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise PeerError(f"{name}: a number from {low} to {high} is needed")
    return value
