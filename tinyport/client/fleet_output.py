"""Where the output of a command on many nodes goes: to the terminal line by line, into files, or kept for JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol, TextIO

from tinyport.core.errors import OperatorError
from tinyport.core.names import printable
from tinyport.host.console import paint

# A line without an end must not fill our memory.
MAX_LINE = 64 * 1024
#: of each stream of each node, for JSON
MAX_KEPT = 64 * 1024


class Sink(Protocol):
    """One node's output. ``errors``: it is the command's standard error. OSError when it cannot be written."""

    def write(self, data: bytes, *, errors: bool) -> None: ...

    def close(self) -> dict[str, object]:
        """What JSON says of it."""
        ...


class Screen(Protocol):
    """What is drawn at the bottom of the terminal, in the way of lines."""

    def hide(self) -> None: ...

    def draw(self, *, now: bool = False) -> None: ...


class Lines:
    """``name: line`` for each line, as soon as it is whole. On a terminal a device's control characters are shown, not
    obeyed; on a pipe bytes are what they are.
    """

    def __init__(self, name: str, before: Screen | None = None) -> None:
        """``before``: what is drawn on the same terminal."""
        self._name = name
        self._screen = before
        self._rest = {False: b"", True: b""}

    def write(self, data: bytes, *, errors: bool) -> None:
        *lines, rest = (self._rest[errors] + data).split(b"\n")
        while len(rest) > MAX_LINE:
            lines.append(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._rest[errors] = rest
        if lines:
            self._show(lines, sys.stderr if errors else sys.stdout)

    def _show(self, lines: list[bytes], stream: TextIO) -> None:
        if not stream.isatty():
            stream.flush()
            for line in lines:
                stream.buffer.write(self._name.encode() + b": " + line + b"\n")
            stream.flush()
            return
        if self._screen is not None:
            self._screen.hide()
        name = paint(f"{self._name}:", "cyan", stream)
        stream.writelines(f"{name} {_as_shown(line)}\n" for line in lines)
        stream.flush()
        if self._screen is not None:
            self._screen.draw(now=True)

    def close(self) -> dict[str, object]:
        for errors, rest in self._rest.items():
            if rest:
                self._show([rest], sys.stderr if errors else sys.stdout)
        self._rest = {False: b"", True: b""}
        return {}


def _as_shown(line: bytes) -> str:
    # A progress bar is drawn over itself; its last state is what a terminal would show.
    line = line.rstrip(b"\r").rpartition(b"\r")[2]
    return printable(line.decode("utf-8", "replace").replace("\t", "    "), MAX_LINE)


class Files:
    """``NAME.out`` and ``NAME.err`` in a folder; one that stays empty is not made."""

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = _paths(folder, name)
        self._open: dict[bool, IO[bytes]] = {}

    def write(self, data: bytes, *, errors: bool) -> None:
        if errors not in self._open:
            self._open[errors] = self._paths[errors].open("wb", buffering=0)
        _write_all(self._open[errors], data)

    def close(self) -> dict[str, object]:
        for file in self._open.values():
            # Whatever is in its way was raised by "write".
            with suppress(OSError):
                file.close()
        return {"errors" if errors else "output": str(self._paths[errors]) for errors in self._open}


def _write_all(file: IO[bytes], data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _paths(folder: Path, name: str) -> dict[bool, Path]:
    return {False: folder / f"{name}.out", True: folder / f"{name}.err"}


def without_earlier(folder: Path, names: Iterable[str]) -> None:
    """Take away what an earlier run left of these nodes: of those that are away now there would be old news."""
    for name in names:
        for path in _paths(folder, name).values():
            path.unlink(missing_ok=True)


class Kept:
    """The beginning of each stream, for JSON."""

    def __init__(self) -> None:
        self._data = {False: bytearray(), True: bytearray()}
        self._cut = False

    def write(self, data: bytes, *, errors: bool) -> None:
        kept = self._data[errors]
        room = MAX_KEPT - len(kept)
        self._cut = self._cut or len(data) > room
        kept += data[:room]

    def close(self) -> dict[str, object]:
        out, err = (bytes(self._data[errors]).decode("utf-8", "replace") for errors in (False, True))
        return {"stdout": out, "stderr": err, "truncated": self._cut}


def output_folder(text: str) -> Path:
    """Made when it is not there; OperatorError when it cannot be."""
    folder = Path(text)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "no permission to write there")
    except OSError as error:
        raise OperatorError(f"--output-dir {printable(text, 200)}: {(error.strerror or str(error)).lower()}") from None
    return folder
