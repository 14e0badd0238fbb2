"""One session in an SSH connection: its streams are ours (standard input, output, error), its end is our exit status.

Life: ``run`` opens the channel, pumps until it is closed and everything was written, and returns the status. The
terminal is raw exactly while the channel is open.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tinyport.client.escape import DISCONNECT, HELP, SUSPEND, EscapeReader, help_lines
from tinyport.client.stdio import Input, Output
from tinyport.client.terminal import RawTerminal, is_terminal, modes_of, size_of
from tinyport.core.names import printable
from tinyport.host.console import print_error

if TYPE_CHECKING:
    import asyncssh

#: ssh's own status for everything that is not the remote command's.
LOST = 255
#: as a shell says that SIGPIPE ended a program
PIPE_CLOSED = 141

# RFC 4254 section 5.2: the extended data type of standard error.
_STDERR = 1


@dataclass(frozen=True)
class SessionWish:
    """``command``: None for a shell. ``pty``: ask for a terminal. ``escape``: the escape character's code or None.
    ``x11``: forward the display.
    """

    command: str | None
    pty: bool
    subsystem: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    escape: int | None = ord("~")
    x11: bool = False


def _environment(wished: Mapping[str, str]) -> dict[bytes | str, bytes | str]:
    return {os.fsencode(name): os.fsencode(value) for name, value in wished.items()}


class Session:
    """The callbacks of one session channel, and the pumps between it and this process's streams."""

    def __init__(self, wish: SessionWish, loop: asyncio.AbstractEventLoop) -> None:
        self._wish = wish
        self._loop = loop
        self._channel: Any = None
        self._closed = asyncio.Event()
        self._status: int | None = None
        self._signal: str | None = None
        self._trouble: Exception | None = None
        self._told: int | None = None
        self._held = [0]
        self._output = Output(loop, 1, self._hold, self._release, self._output_broken)
        self._errors = Output(loop, 2, self._hold, self._release, lambda: None)
        self._input = Input(loop, 0, self._typed, self._input_ended)
        # Escapes make sense where a person types into a remote terminal; elsewhere they would damage data.
        person = wish.pty and is_terminal(0)
        self._escapes = EscapeReader(wish.escape if person else None)
        self._raw = RawTerminal(0) if person else None

    # ------------------------------------------------------------------ life

    async def run(self, connection: asyncssh.SSHClientConnection) -> int:
        """Open, pump, and return the exit status. Raises asyncssh's errors when the channel cannot be opened."""
        wish = self._wish
        size = size_of(0)
        terminal: dict[str, Any] = {}
        if wish.pty:
            terminal = {
                "request_pty": "force",
                "term_type": os.environ.get("TERM", "dumb"),
                "term_size": size,
                "term_modes": modes_of(0),
            }
        else:
            terminal = {"request_pty": False}
        try:
            await connection.create_session(
                lambda: self,  # type: ignore[arg-type, return-value]
                None if wish.subsystem else wish.command,
                subsystem=wish.command if wish.subsystem else None,
                env=_environment(wish.environment),
                encoding=None,
                x11_forwarding="ignore_failure" if wish.x11 else False,
                **terminal,
            )
            if wish.x11 and connection._x11_listener is None:
                # As ssh: said, and gone on without. asyncssh would say it to a log only.
                print_error("tsh: X11 forwarding request failed")
            await self._pump()
        finally:
            self._finish()
        return self._verdict()

    async def _pump(self) -> None:
        if self._raw is not None:
            self._raw.enter()
        if self._wish.pty:
            self._loop.add_signal_handler(signal.SIGWINCH, self._window_changed)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            self._loop.add_signal_handler(number, self._told_to_end, number)
        self._input.resume()
        await self._closed.wait()
        await self._output.drained()
        await self._errors.drained()

    def _finish(self) -> None:
        for number in (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            self._loop.remove_signal_handler(number)
        self._input.close()
        self._output.close()
        self._errors.close()
        if self._raw is not None:
            self._raw.close()

    def _verdict(self) -> int:
        if self._told is not None:
            return self._told
        if self._status is not None:
            return self._status
        if self._signal is not None:
            # ssh, too, answers 255 here: 128+n would be a status that the command itself could have had.
            print(f"tsh: error: the command was ended by SIG{printable(self._signal, 20)}", file=sys.stderr)
        elif self._trouble is not None:
            raise self._trouble
        return LOST

    def _told_to_end(self, number: int) -> None:
        # As ssh: "Killed by signal", status 255, whichever signal it was.
        self._told = LOST
        self._close()
        # Neither the node's answer nor a slow reader of our output is waited for.
        self._closed.set()
        self._output.close()
        self._errors.close()

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()

    # ------------------------------------------------------------------ from the node

    def connection_made(self, chan: Any) -> None:
        self._channel = chan

    def session_started(self) -> None:
        return

    def data_received(self, data: bytes, datatype: int | None) -> None:
        (self._errors if datatype == _STDERR else self._output).write(data)

    def eof_received(self) -> bool:
        # The node will say nothing more; it may still listen.
        return True

    def exit_status_received(self, status: int) -> None:
        self._status = status

    def exit_signal_received(self, name: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._signal = name.partition("@")[0]

    def connection_lost(self, exc: Exception | None) -> None:
        self._trouble = exc
        self._closed.set()

    def xon_xoff_requested(self, client_can_do: bool) -> None:
        # We never do flow control by ^S and ^Q ourselves: the node's terminal does.
        return

    def _hold(self) -> None:
        self._held[0] += 1
        if self._channel is not None:
            self._channel.pause_reading()

    def _release(self) -> None:
        self._held[0] -= 1
        if self._held[0] == 0 and self._channel is not None:
            self._channel.resume_reading()

    def _output_broken(self) -> None:
        if self._status is None and self._told is None:
            self._told = PIPE_CLOSED
        self._close()

    # ------------------------------------------------------------------ to the node

    def pause_writing(self) -> None:
        self._input.pause()

    def resume_writing(self) -> None:
        self._input.resume()

    def _typed(self, data: bytes) -> None:
        data, commands = self._escapes.feed(data)
        if self._channel.is_closing():
            return
        if data:
            self._channel.write(data)
        for command in commands:
            if command == DISCONNECT:
                self._told = LOST
                self._note("Connection closed.")
                self._channel.close()
                self._closed.set()
            elif command == HELP:
                assert self._escapes.character is not None
                self._note(*help_lines(self._escapes.character))
            elif command == SUSPEND:
                self._suspend()

    def _input_ended(self) -> None:
        if not self._channel.is_closing():
            self._channel.write_eof()

    def _note(self, *lines: str) -> None:
        # The terminal is raw: a newline alone does not go back to the first column.
        self._errors.write("\r\n".join(("", *lines, "")).encode())

    def _suspend(self) -> None:
        assert self._raw is not None
        self._raw.restore()
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here again after "fg".
        self._raw.enter()
        self._window_changed()

    def _window_changed(self) -> None:
        columns, rows, wide, high = size_of(0)
        if columns and self._channel is not None and not self._channel.is_closing():
            self._channel.change_terminal_size(columns, rows, wide, high)
