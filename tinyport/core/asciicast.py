"""asciicast, version 2 (docs.asciinema.org/manual/asciicast/v2): recordings as every player reads them.

A line of JSON with what it is, then a line for each event: ``[seconds, "o", text]`` shown, ``[seconds, "r", "80x24"]``
another size, ``[seconds, "m", text]`` a marker. Version 3 is read, too: there, seconds count from the event before.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tinyport.core import recording_frames as f
from tinyport.core.errors import PeerError

MEDIA_TYPE = "application/x-asciicast"
SHOWN, RESIZED, MARKED = "o", "r", "m"
#: of a terminal whose size nobody said
COLUMNS, ROWS = 80, 24
MOST_COLUMNS = 10_000
# A frame of ours makes 24 kB at most, when each byte is escaped. asciinema itself writes what a read gave.
MAX_LINE = 4 * 1024 * 1024
_LONGEST = f.MAX_TIME / 1000


@dataclass(frozen=True)
class Header:
    columns: int
    rows: int
    version: int = 2
    timestamp: float | None = None
    title: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """``seconds`` as the line says them."""

    seconds: float
    kind: str
    text: str


def header_line(header: Header) -> str:
    body: dict[str, object] = {"version": 2, "width": header.columns, "height": header.rows}
    if header.timestamp is not None:
        body["timestamp"] = int(header.timestamp)
    if header.title:
        body["title"] = header.title
    if header.env:
        body["env"] = dict(header.env)
    return json.dumps(body, ensure_ascii=False) + "\n"


def event_line(milliseconds: int, kind: str, text: str) -> str:
    return f"[{milliseconds / 1000:.3f}, {json.dumps(kind)}, {json.dumps(text, ensure_ascii=False)}]\n"


class Writer:
    """Frames of one recording → lines. What was cut in two by a read is put together; bytes that are no UTF-8 are
    replaced; where bytes were lost there is a line that says so, for whoever watches, and a marker."""

    def __init__(self) -> None:
        self.progress = f.Progress()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def lines(self, frames: Iterable[f.Frame]) -> list[str]:
        """PeerError when the frames cannot be a recording."""
        return [line for one in frames for line in self._line(one)]

    def _line(self, one: f.Frame) -> list[str]:
        kind, _, _, data = one
        missing = self.progress.follow(one)
        found = self._gap(missing) if missing else []
        if kind == f.OUTPUT:
            text = self._decoder.decode(data)
            return [*found, self._event(SHOWN, text)] if text else found
        if kind == f.RESIZE:
            columns, rows = f.size_of(data)
            return [*found, self._event(RESIZED, f"{columns}x{rows}")]
        if kind == f.MARK:
            return [*found, self._event(MARKED, data.decode("utf-8", "replace"))]
        return [*found, *self._rest()] if kind == f.END else found

    def _event(self, kind: str, text: str) -> str:
        return event_line(self.progress.milliseconds, kind, text)

    def _rest(self) -> list[str]:
        """Half a character that nothing came after."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return [self._event(SHOWN, text)] if text else []

    def _gap(self, missing: int) -> list[str]:
        return [*self._rest(), *self._said(f"{missing} bytes were lost here")]

    def _said(self, words: str) -> list[str]:
        # In a line of its own, inverse: no program of the session could be cut in two by it worse than by the loss.
        line = f"\r\n\x1b[0;7m[tinyport: {words}]\x1b[0m\r\n"
        return [self._event(SHOWN, line), self._event(MARKED, words)]

    def broken_off(self, why: str) -> list[str]:
        """The last lines of a recording that has no end."""
        return [*self._rest(), *self._said(why)]


def header_of(fields: Mapping[str, object]) -> Header:
    """What a recording's head says → the header. Everything in it may be missing or of a wrong type."""
    columns, rows = _size(fields.get("columns")), _size(fields.get("rows"))
    started = fields.get("time")
    known = isinstance(started, (int, float)) and not isinstance(started, bool) and 0 <= started < 2**40
    term = fields.get("term")
    command = fields.get("command")
    user, login, node = (str(fields.get(name) or "?") for name in ("user", "login", "node"))
    return Header(
        columns or COLUMNS,
        rows or ROWS,
        timestamp=float(str(started)) if known else None,
        title=f"{user} as {login} on {node}" + (f": {command}" if isinstance(command, str) and command else ""),
        env={"TERM": term} if isinstance(term, str) and term else {},
    )


def _size(value: object) -> int | None:
    right = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_COLUMNS
    return int(str(value)) if right else None


def parse_header(line: bytes | str) -> Header:
    """The first line of a recording. PeerError when it is none."""
    body = _json(line)
    if not isinstance(body, dict) or body.get("version") not in (2, 3) or isinstance(body.get("version"), bool):
        raise PeerError("this is not a recording: asciicast of version 2 or 3 is needed")
    term = body.get("term")
    terminal = term if body["version"] == 3 and isinstance(term, dict) else {}
    columns = _size(terminal.get("cols", body.get("width")))
    rows = _size(terminal.get("rows", body.get("height")))
    if columns is None or rows is None:
        raise PeerError("this is not a recording: it does not say how large its terminal was")
    stamp = body.get("timestamp")
    title, env = body.get("title"), body.get("env")
    return Header(
        columns,
        rows,
        int(str(body["version"])),
        float(str(stamp)) if _is_time(stamp, 2.0**40) else None,
        title if isinstance(title, str) else "",
        {str(name): value for name, value in env.items() if isinstance(value, str)} if isinstance(env, dict) else {},
    )


def parse_event(line: bytes | str) -> Event:
    """One line after the first. PeerError when it is none."""
    body = _json(line)
    if not isinstance(body, list) or len(body) != 3:
        raise PeerError("a line of the recording is not [seconds, kind, text]")
    seconds, kind, text = body
    if not _is_time(seconds, _LONGEST) or not isinstance(kind, str) or not isinstance(text, str):
        raise PeerError("a line of the recording is not [seconds, kind, text]")
    return Event(float(seconds), kind, text)


def parse_size(text: str) -> tuple[int, int] | None:
    """``80x24`` of an event of kind "r" → (columns, rows); None when it is something else."""
    columns, x, rows = text.partition("x")
    if not x or not all(word.isascii() and word.isdigit() and len(word) < 6 for word in (columns, rows)):
        return None
    size = _size(int(columns)), _size(int(rows))
    return None if size[0] is None or size[1] is None else (size[0], size[1])


def _is_time(value: object, limit: float) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return 0 <= value <= limit and math.isfinite(value)


def _json(line: bytes | str) -> object:
    if len(line) > MAX_LINE:
        raise PeerError(f"a line of the recording is longer than {MAX_LINE} bytes")
    try:
        text = line.decode("utf-8") if isinstance(line, bytes) else line
        found = json.loads(text)
        if "\\u" in text:
            # Half a surrogate pair is text that nothing can show.
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise PeerError("a line of the recording is not JSON") from None
    return found
