"""Where the output of a command on many nodes goes: to the terminal line by line, into files, or kept for JSON."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO, Protocol, TextIO

from tinyport.core.errors import OperatorError
from tinyport.core.names import printable

# A line without an end must not fill our memory.
MAX_LINE = 64 * 1024
#: of each stream of each node, for JSON
MAX_KEPT = 64 * 1024


class Sink(Protocol):
    """One node's output. ``errors``: it is the command's standard error."""

    def write(self, data: bytes, *, errors: bool) -> None: ...

    def close(self) -> dict[str, object]:
        """What JSON says of it."""
        ...


class Lines:
    """``name: line`` for each line, as soon as it is whole. On a terminal a device's control characters are shown, not
    obeyed; on a pipe bytes are what they are.
    """

    def __init__(self, name: str, before: object = None) -> None:
        """``before``: a display with ``hide`` that is in the way, or None."""
        self._name = name
        self._display = before
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
        hide = getattr(self._display, "hide", None)
        if hide is not None:
            hide()
        terminal = stream.isatty()
        for line in lines:
            if terminal:
                text = line.rstrip(b"\r").decode("utf-8", "replace").replace("\t", "    ")
                stream.write(f"{self._name}: {printable(text, MAX_LINE)}\n")
            else:
                stream.flush()
                stream.buffer.write(self._name.encode() + b": " + line + b"\n")
        stream.flush()

    def close(self) -> dict[str, object]:
        for errors, rest in self._rest.items():
            if rest:
                self._show([rest], sys.stderr if errors else sys.stdout)
        return {}


class Files:
    """``NAME.out`` and ``NAME.err`` in a folder; one that stays empty is not made."""

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = {False: folder / f"{name}.out", True: folder / f"{name}.err"}
        self._open: dict[bool, IO[bytes]] = {}
        for path in self._paths.values():
            # Of an earlier run, which this one is not about.
            path.unlink(missing_ok=True)

    def write(self, data: bytes, *, errors: bool) -> None:
        if errors not in self._open:
            self._open[errors] = self._paths[errors].open("wb")
        self._open[errors].write(data)

    def close(self) -> dict[str, object]:
        for file in self._open.values():
            file.close()
        return {"errors" if errors else "output": str(self._paths[errors]) for errors in self._open}


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
