"""Taking settings out of a parsed document: each value checked, each problem noted with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tinyport.core.durations import parse_duration
from tinyport.core.errors import TinyportError
from tinyport.core.names import check_label, parse_address, printable
from tinyport.core.spelling import suggestion

Address = tuple[str, int]
ReadSecret = Callable[[str], str]

MAX_PROBLEMS = 100
MAX_TEXT = 8192


class SettingsReader:
    """Takes values out of sections; a wrong one is noted with its place, and the default goes on in its stead."""

    def __init__(self, source: str, read_secret: ReadSecret) -> None:
        self.problems: list[str] = []
        self._source = source
        self._read_secret = read_secret

    def problem(self, place: str, value: object, allowed: str) -> None:
        """Note that ``place`` has ``value`` (None: do not repeat it) where only ``allowed`` would do."""
        said = ":" if value is None else f" is {printable(repr(value), 80)}:"
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"{self._source}: {place}{said} {allowed}")

    def section(self, value: object, place: str, keys: Sequence[str]) -> dict[str, object]:
        """A table with known keys; keys that are not among ``keys`` are problems and left out."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.problem(place, value, "must be a section")
            return {}
        for key in value:
            if key in keys:
                continue
            name = f"{place}.{printable(str(key), 60)}" if place else printable(str(key), 60)
            self.problem(name, None, f"unknown key; {suggestion(str(key), keys)}")
        return {key: item for key, item in value.items() if key in keys}

    def text(self, section: Mapping[str, object], place: str, key: str) -> str | None:
        value = section.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT:
            self.problem(f"{place}.{key}", value, "must be a text")
            return None
        return value

    def path(self, section: Mapping[str, object], place: str, key: str) -> str | None:
        value = self.text(section, place, key)
        if value is not None and "\0" in value:
            self.problem(f"{place}.{key}", value, "must be the name of a file")
            return None
        return value

    def boolean(self, section: Mapping[str, object], place: str, key: str, default: bool) -> bool:
        value = section.get(key, default)
        if not isinstance(value, bool):
            self.problem(f"{place}.{key}", value, "must be true or false")
            return default
        return value

    def whole(
        self, section: Mapping[str, object], place: str, key: str, default: int, most: int, least: int = 0
    ) -> int:
        value = section.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.problem(f"{place}.{key}", value, f"must be a whole number from {least} to {most}")
            return default
        return value

    def choice(self, section: Mapping[str, object], place: str, key: str, default: str, allowed: Sequence[str]) -> str:
        value = section.get(key, default)
        if value not in allowed:
            self.problem(f"{place}.{key}", value, f"must be one of {', '.join(allowed)}")
            return default
        return str(value)

    def duration(self, section: Mapping[str, object], place: str, key: str, default: int, least: int = 0) -> int:
        value = section.get(key)
        if value is None:
            return default
        try:
            seconds = parse_duration(value if isinstance(value, str) else "")
        except TinyportError:
            self.problem(f"{place}.{key}", value, 'must be a duration such as "90s", "30m", "12h"')
            return default
        if seconds < least:
            self.problem(f"{place}.{key}", value, f"must be at least {least} s")
            return default
        return seconds

    def address(self, value: object, place: str, default_port: int | None) -> Address | None:
        try:
            return parse_address(value if isinstance(value, str) else "", default_port)
        except TinyportError:
            self.problem(place, value, 'must be an address such as "0.0.0.0:3022" or "[::]:3022"')
            return None

    def texts(self, section: Mapping[str, object], place: str, key: str) -> tuple[str, ...]:
        value = section.get(key, [])
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.problem(f"{place}.{key}", value, "must be a list of texts")
            return ()
        return tuple(value)

    def labels(self, section: Mapping[str, object], place: str) -> dict[str, str]:
        value = section.get("labels", {})
        if not isinstance(value, Mapping):
            self.problem(f"{place}.labels", value, "must be a table of texts")
            return {}
        found: dict[str, str] = {}
        for key, item in value.items():
            try:
                name, text = check_label(key, item)
                found[name] = text
            except TinyportError as error:
                self.problem(f"{place}.labels.{printable(str(key), 60)}", item, error.hint or error.message)
        return found

    def secret(self, value: object, place: str, *, absent: bool = False) -> str | None:
        """A text, or ``{ path = "..." }``. What it says never appears in a message. ``absent``: the file need not be
        there; None then.
        """
        if value is None:
            return None
        if isinstance(value, str) and value.strip():
            return value.strip()
        path = value.get("path") if isinstance(value, Mapping) and set(value) == {"path"} else None
        if not isinstance(path, str) or not path or "\0" in path:
            self.problem(place, None, 'must be a text or { path = "/a/file" }')
            return None
        try:
            return self._read_secret(path).strip() or None
        except FileNotFoundError as error:
            if not absent:
                self.problem(place, None, f"cannot read {printable(path, 120)}: {(error.strerror or '').lower()}")
        except TinyportError as error:
            self.problem(place, None, error.message)
        except OSError as error:
            self.problem(place, None, f"cannot read {printable(path, 120)}: {(error.strerror or str(error)).lower()}")
        return None
