"""What ``store_*.py`` needs of a database connection, and JSON in columns."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Rows(Protocol):
    """A connection that executes SQL. ``store.Database`` is one."""

    async def all(self, sql: str, *values: object) -> Sequence[sqlite3.Row]: ...

    async def one(self, sql: str, *values: object) -> sqlite3.Row | None: ...

    async def run(self, sql: str, *values: object) -> int: ...

    async def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None: ...


def pack(value: object) -> str:
    """A JSON value as the text of a column, always the same text for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def unpack(text: str) -> Any:
    """The value that ``pack`` made into ``text``. What we wrote ourselves, so its type is known to the reader."""
    return json.loads(text)
