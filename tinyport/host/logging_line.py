"""One line for each thing worth knowing, to standard error. Without ``logging``, which costs 1.5 MB in a small
process.
"""

from __future__ import annotations

import json
import os
import time

from tinyport.core.names import printable

LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3}


class Log:
    """Writes ``2026-01-31T12:00:00Z info node.link: text key=value`` (or JSON objects), each with one write call."""

    def __init__(self, name: str, level: str = "info", format: str = "text", descriptor: int = 2) -> None:
        self._name = name
        self._level = LEVELS[level]
        self._json = format == "json"
        self._descriptor = descriptor

    def change(self, level: str, format: str) -> None:
        """From now on this level and format."""
        self._level = LEVELS[level]
        self._json = format == "json"

    def debug(self, text: str, **fields: object) -> None:
        self._write("debug", text, fields)

    def info(self, text: str, **fields: object) -> None:
        self._write("info", text, fields)

    def warning(self, text: str, **fields: object) -> None:
        self._write("warning", text, fields)

    def error(self, text: str, **fields: object) -> None:
        self._write("error", text, fields)

    def _write(self, level: str, text: str, fields: dict[str, object]) -> None:
        if LEVELS[level] < self._level:
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            entry = {"time": stamp, "level": level, "name": self._name, "message": text}
            line = json.dumps({**fields, **entry}, default=str)
        else:
            values = "".join(f" {key}={_value(value)}" for key, value in fields.items())
            line = f"{stamp} {level} {self._name}: {printable(text, 2000)}{values}"
        try:
            os.write(self._descriptor, line.encode("utf-8", "backslashreplace") + b"\n")
        except OSError:
            # Nobody reads us any more (a closed pipe, a full disk). A daemon must not stop over its log.
            return


def _value(value: object) -> str:
    text = printable(str(value), 500)
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text or not text else text
