"""A person at a real terminal: a program on a PTY of its own, what it shows, and what is typed."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from tests.scenarios.cluster import LIMIT


class Terminal:
    """``words`` runs in a session of its own with the PTY as its controlling terminal, as in a terminal window."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], rows: int = 24, columns: int = 80) -> None:
        self._master, slave = os.openpty()
        self.resize(rows, columns)
        # setsid --ctty: SIGWINCH and control-C then come as from a terminal window.
        argv = ["setsid", "--ctty", "--wait", *words]
        with os.fdopen(slave, "rb") as terminal:
            self._process = subprocess.Popen(
                argv, stdin=terminal, stdout=terminal, stderr=terminal, env={**env, "TERM": "xterm-256color"}
            )
        self.shown = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # A hang-up, as when the window is closed.
        os.close(self._master)
        self._process.terminate()
        self._process.wait(LIMIT)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def expect(self, text: bytes) -> bytes:
        """Everything up to and with ``text``, which is taken out of what is shown."""
        end = time.monotonic() + LIMIT
        while text not in self.shown:
            assert time.monotonic() < end, f"waited for {text!r}, the terminal shows {self.shown[-2000:]!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self._master, 65536)
                except OSError:
                    # EIO: nobody has the other end any more.
                    assert text in self.shown, f"ended without {text!r}: {self.shown[-2000:]!r}"
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def ask(self, command: bytes, answer: bytes) -> bytes:
        """Type a command line and wait for ``answer``, which must not stand in the line that is echoed."""
        assert answer not in command
        self.type(command + b"\n")
        return self.expect(answer)

    def wait(self) -> int:
        """The exit status of the program."""
        self.expect_end()
        return self._process.wait(LIMIT)

    def expect_end(self) -> None:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self._master, 65536)
                except OSError:
                    return
        raise AssertionError(f"it did not end: {self.shown[-2000:]!r}")
