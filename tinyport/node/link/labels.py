"""Labels whose values commands print: run by link, without privileges, without a shell, with limits. Light.

What they print is declared by the node: shown and searchable, and never grants anything.
"""

from __future__ import annotations

import os
import resource
import signal

from tinyport.core.names import printable
from tinyport.node.loop import READ, Loop
from tinyport.node.python_process import environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinyport.host.logging_line import Log
    from tinyport.node.loop import Timer

RUN_LIMIT = 10.0
CPU_SECONDS = 10
MAX_OUTPUT = 256
MIN_PERIOD = 60.0
# At boot every command is due at once; a board with one core and a slow card has better things to do.
_APART = 0.5


def value_of(output: bytes) -> str:
    """What a command printed → the label's value: its first line, printable, at most ``MAX_OUTPUT`` characters."""
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return printable(lines[0].strip() if lines else "", MAX_OUTPUT)[:MAX_OUTPUT]


class LabelCommands:
    """Runs each command at its period, and calls ``on_change`` when a value is another one than before.

    A command that fails, hangs or prints nothing leaves its label out, so that nobody takes an old value for a new one.
    """

    def __init__(
        self,
        loop: Loop,
        commands: Sequence[tuple[str, Sequence[str], float]],
        on_change: Callable[[], None],
        log: Log,
    ) -> None:
        self._loop = loop
        self._on_change = on_change
        self._log = log
        self._commands = [_Command(self, name, argv, max(period, MIN_PERIOD)) for name, argv, period in commands]
        #: label → value
        self.values: dict[str, str] = {}

    def start(self) -> None:
        for index, command in enumerate(self._commands):
            self._loop.after(index * _APART, command.run)

    def stop(self) -> None:
        for command in self._commands:
            command.stop()

    def said(self, name: str, value: str | None) -> None:
        before = self.values.get(name)
        if value:
            self.values[name] = value
        else:
            self.values.pop(name, None)
        if self.values.get(name) != before:
            self._on_change()

    def failed(self, name: str, why: str) -> None:
        if name in self.values:
            # Once, not at every period.
            self._log.warning("label command failed", label=name, reason=why)
        else:
            self._log.debug("label command failed", label=name, reason=why)
        self.said(name, None)

    @property
    def loop(self) -> Loop:
        return self._loop


class _Command:
    """One command: idle, then a child with a pipe, then idle until the next period."""

    __slots__ = ("_argv", "_expired", "_held", "_limit", "_name", "_next", "_owner", "_period", "_pid", "_pipe")

    def __init__(self, owner: LabelCommands, name: str, argv: Sequence[str], period: float) -> None:
        self._owner = owner
        self._name = name
        self._argv = [str(word) for word in argv]
        self._period = period
        self._pid = 0
        self._pipe = -1
        self._held = b""
        self._expired = False
        self._limit: Timer | None = None
        self._next: Timer | None = None

    def run(self) -> None:
        loop = self._owner.loop
        self._next = loop.after(self._period, self.run)
        if self._pid:
            return
        self._held, self._expired = b"", False
        try:
            self._pid, self._pipe = _start(self._argv)
        except OSError as error:
            self._owner.failed(self._name, str(error))
            return
        loop.add(self._pipe, READ, self._hear)
        loop.child(self._pid, self._ended)
        self._limit = loop.after(RUN_LIMIT, self._too_long)

    def stop(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._kill()

    def _too_long(self) -> None:
        self._expired = True
        self._kill()

    def _kill(self) -> None:
        # Its group: what it started goes with it.
        if self._pid:
            self._owner.loop.kill(-self._pid, signal.SIGKILL)

    def _hear(self, events: int) -> None:
        piece = os.read(self._pipe, 4096)
        # What is more than a label can show is read, so that the command can end, and forgotten.
        self._held = (self._held + piece)[: 4 * MAX_OUTPUT]
        if not piece:
            self._close()

    def _close(self) -> None:
        if self._pipe >= 0:
            self._owner.loop.remove(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    def _ended(self, status: int) -> None:
        self._pid = 0
        if self._limit is not None:
            self._limit.cancel()
        if self._pipe >= 0:
            # A grandchild may hold the pipe open; what is there now is all that counts.
            os.set_blocking(self._pipe, False)
            try:
                self._held = (self._held + os.read(self._pipe, 4096))[: 4 * MAX_OUTPUT]
            except BlockingIOError:
                pass
            self._close()
        code = os.waitstatus_to_exitcode(status)
        if self._expired:
            self._owner.failed(self._name, f"took longer than {RUN_LIMIT:.0f} s")
        elif code:
            self._owner.failed(self._name, f"ended with {code}")
        else:
            self._owner.said(self._name, value_of(self._held))


def _start(argv: list[str]) -> tuple[int, int]:
    """Fork and exec with empty input and its output on a pipe → (pid, pipe)."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.setpgid(0, 0)
        empty = os.open("/dev/null", os.O_RDWR)
        os.dup2(empty, 0)
        os.dup2(writing, 1)
        os.dup2(empty, 2)
        _limits()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.execvpe(argv[0], argv, environment())
    finally:
        os._exit(127)


def _limits() -> None:
    for what, most in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (most, most))
