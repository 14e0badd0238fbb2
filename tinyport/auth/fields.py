"""Reading a request's JSON object: each field checked, each refusal naming it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TypeVar

from tinyport.core.durations import format_duration
from tinyport.core.errors import PeerError
from tinyport.core.names import check_label, printable

T = TypeVar("T")
MAX_LIST = 256
MAX_LABELS = 64


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _no_constant(text: str) -> float:
    raise ValueError(text)


def parse_object(data: bytes) -> dict[str, object]:
    """JSON text → object. PeerError for anything else: NaN, numbers without end, broken UTF-16, too deep."""
    try:
        value = json.loads(data.decode("utf-8"), parse_float=_finite, parse_constant=_no_constant)
        if b"\\u" in data:
            # Half a surrogate pair is text that nothing can store.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise PeerError("the request is not JSON") from None
    if not isinstance(value, dict):
        raise PeerError("the request is not a JSON object")
    return value


class Fields:
    """One JSON object of a request. PeerError names the field that is wrong; what is not asked for is ignored."""

    def __init__(self, body: Mapping[str, object]) -> None:
        self.body = body

    def has(self, name: str) -> bool:
        return self.body.get(name) is not None

    def text(self, name: str, limit: int = 1024) -> str:
        value = self.body.get(name)
        if not isinstance(value, str) or not value:
            raise PeerError(f"{name}: a text is needed")
        if len(value) > limit:
            raise PeerError(f"{name}: at most {limit} characters")
        return value

    def optional_text(self, name: str, limit: int = 1024) -> str | None:
        return self.text(name, limit) if self.body.get(name) not in (None, "") else None

    def checked(self, name: str, check: Callable[[object], T]) -> T:
        """A text that ``core.names`` judges."""
        try:
            return check(self.body.get(name))
        except PeerError as error:
            raise PeerError(f"{name}: {error.message}", hint=error.hint) from None

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        value = self.body.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise PeerError(f"{name}: a whole number from {low} to {high} is needed")
        return value

    def seconds(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """As ``integer``; the refusal says it as people say it."""
        try:
            return self.integer(name, low, high, default)
        except PeerError:
            raise PeerError(
                f"{name}: from {format_duration(low)} to {format_duration(high)}, in seconds, is needed"
            ) from None

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.body.get(name, default)
        if not isinstance(value, bool):
            raise PeerError(f"{name}: true or false is needed")
        return value

    def items(self, name: str, limit: int = MAX_LIST) -> list[object]:
        """A list; empty when it is absent."""
        value = self.body.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > limit:
            raise PeerError(f"{name}: a list of at most {limit} is needed")
        return value

    def texts(self, name: str, check: Callable[[object], str]) -> tuple[str, ...]:
        """A list of different texts, each judged by ``check``."""
        found = []
        for item in self.items(name):
            try:
                found.append(check(item))
            except PeerError as error:
                raise PeerError(f"{name}: {error.message}", hint=error.hint) from None
        return tuple(dict.fromkeys(found))

    def table(self, name: str) -> dict[str, object]:
        value = self.body.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > MAX_LIST:
            raise PeerError(f"{name}: an object is needed")
        return value

    def labels(self, name: str) -> dict[str, str]:
        """Labels; none when absent."""
        table = self.table(name)
        if len(table) > MAX_LABELS:
            raise PeerError(f"{name}: at most {MAX_LABELS} labels")
        return dict(_label(name, key, value) for key, value in table.items())


def _label(field: str, key: str, value: object) -> tuple[str, str]:
    try:
        return check_label(key, value)
    except PeerError as error:
        raise PeerError(f"{field}: {error.message}", hint=error.hint) from None


def one_line(value: object, limit: int) -> str:
    """What a peer said about itself, made safe to keep and show; empty when it is no text."""
    return printable(value, limit) if isinstance(value, str) else ""
