"""/etc/environment and /etc/default/locale: what every session of this machine has, as pam_env reads it."""

from __future__ import annotations

import os

FILES = ("/etc/environment", "/etc/default/locale")
MAX_FILE = 64 * 1024
MAX_VARIABLES = 64


def read_environment(paths: tuple[str, ...] = FILES) -> dict[str, str]:
    """Variables of the files, later ones winning. What cannot be read, or is no assignment, is left out.

    pam_env(8): ``KEY=VALUE`` lines, ``export`` before and quotes around allowed, ``#`` begins a comment; nothing is
    expanded.
    """
    found: dict[str, str] = {}
    for path in paths:
        for line in _lines(path):
            name, equals, value = line.removeprefix("export ").strip().partition("=")
            if equals and _is_name(name) and "\0" not in value and len(found) < MAX_VARIABLES:
                found[name] = _unquoted(value)
    return found


def _lines(path: str) -> list[str]:
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read(MAX_FILE) or b""
    except OSError:
        return []
    text = data.decode("utf-8", "surrogateescape")
    return [line.strip() for line in text.splitlines() if not line.lstrip().startswith("#")]


def _is_name(name: str) -> bool:
    return name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()


def _unquoted(value: str) -> str:
    value = value.partition(" #")[0].strip() if value[:1] not in ("'", '"') else value.strip()
    for quote in ('"', "'"):
        if len(value) >= 2 and value[0] == value[-1] == quote:
            return value[1:-1]
    return value


def clean(environment: dict[str, str]) -> dict[str, str]:
    """Without what must be the session's own, whatever a file says."""
    own = ("HOME", "USER", "LOGNAME", "SHELL", "MAIL", "TERM")
    return {name: value for name, value in environment.items() if name not in own and os.sep not in name}
