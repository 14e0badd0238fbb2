"""The pump between an SSH channel and the descriptors of a session's process. One for each session.

asyncssh's own redirection loses the tail of output or the whole connection when standard error ends before standard
output or a child closes its input early. Here both directions are counted by hand:

- towards the process: data and EOF may come before the descriptors do, and wait; what the process does not take pauses
  the channel; EOF closes its standard input after the last byte; a closed standard input swallows the rest.
- towards the client: nothing is read while the channel's buffer is full; EOF and the exit status go out when the
  process has ended *and* its outputs were read to their end. A terminal is read until it is empty then, as background
  jobs may keep it open (as sshd does). EOF does not go out before: a client that shares its connection closes the
  channel at EOF, asyncssh confirms that at once, and the exit status would have nowhere to go.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

import asyncssh

from tinyport.host import pty
from tinyport.node.worker.pump_parties import PartyPipes
from tinyport.node.worker.pump_recording import Recorder

STDERR = asyncssh.EXTENDED_DATA_STDERR
READ_SIZE = 64 * 1024
# Of a pipe that its writer made wider (our sftp server does), once a read has found it full.
WIDE_READ = 256 * 1024
# A pipe holds 64 KiB; twice as much keeps it full. Of a session with a small window, no more than that.
INPUT_HIGH = 128 * 1024


class Pump:
    """Lifecycle: made with the channel, ``attach`` when the process runs, ``exited`` when it has ended, ``close`` when
    the channel is gone. The descriptors are its own from ``attach`` on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: Any, finished: Callable[[], None]) -> None:
        """``channel``: an asyncssh server channel of bytes; ``finished``: the exit status was sent."""
        self._loop = loop
        self._channel = channel
        self._finished = finished
        self._input_high = min(INPUT_HIGH, channel.get_recv_window())
        self._input = bytearray()
        self._input_ended = False
        self._input_paused = False
        self._writing_paused = False
        #: where input goes; None before attach and after it was closed
        self._stdin: int | None = None
        #: descriptor → datatype of the channel, for outputs that have not ended
        self._outputs: dict[int, int | None] = {}
        self._terminal: int | None = None
        self._read_size = READ_SIZE
        self._attached = False
        self._exit: tuple[int | None, str | None, bool] | None = None
        self._done = False
        #: who looks on; None of a session without a terminal
        self._parties: PartyPipes | None = None
        self._party_dropped: Callable[[int], None] | None = None
        self._recorder: Recorder | None = None

    def attach(self, descriptors: Sequence[int], recorder: Recorder | None = None) -> None:
        """The process runs: the pty's master, or its standard input, output and error."""
        self._recorder = recorder
        if recorder is not None:
            recorder.resumed = self._read_on
        for descriptor in descriptors:
            os.set_blocking(descriptor, False)
        self._attached = True
        self._stdin = descriptors[0]
        if len(descriptors) == 1:
            self._terminal = descriptors[0]
            self._parties = PartyPipes(self._loop, self._typed_by_party, self._drop_party)
            self._outputs = {descriptors[0]: None}
        else:
            self._outputs = {descriptors[1]: None, descriptors[2]: STDERR}
        self._read_on()
        self._write()
        self._maybe_finish()

    # ------------------------------------------------------------------ client to process

    def feed(self, data: bytes) -> None:
        """Data from the client."""
        if self._done or (self._attached and self._stdin is None):
            return
        if self._attached and not self._input:
            # Mostly there is room: then nothing is copied and nothing waits.
            data = data[self._put(data) :]
            if not data:
                return
        self._input += data
        if self._attached:
            self._write()
        if len(self._input) >= self._input_high and not self._input_paused:
            self._input_paused = True
            self._channel.pause_reading()

    def feed_eof(self) -> None:
        """The client has nothing more to send."""
        self._input_ended = True
        if self._attached:
            self._write()

    def _write(self) -> None:
        while self._input and self._stdin is not None:
            # Released before the bytes are taken off the front: a bytearray that somebody looks at keeps its size.
            with memoryview(self._input) as whole, whole[:READ_SIZE] as piece:
                written = self._put(piece)
            if self._stdin is None:
                self._input.clear()
                break
            if not written:
                self._loop.add_writer(self._stdin, self._write)
                return
            del self._input[:written]
            if self._input_paused and len(self._input) < self._input_high // 2:
                self._resume_input()
        if self._stdin is not None:
            self._loop.remove_writer(self._stdin)
            if self._input_ended and self._terminal is None:
                self._close_stdin()
        self._resume_input()

    def _put(self, data: bytes | memoryview) -> int:
        """How much of ``data`` the process took now. All of it, to nowhere, when it takes nothing more."""
        assert self._stdin is not None
        try:
            return os.write(self._stdin, data)
        except BlockingIOError:
            return 0
        except OSError:
            # EPIPE: the process has closed its input; EIO: the terminal has nobody left. What comes is dropped.
            self._close_stdin()
            return len(data)

    def _resume_input(self) -> None:
        if self._input_paused:
            self._input_paused = False
            # Not from within a callback of the channel that delivers data.
            self._loop.call_soon(self._channel.resume_reading)

    def _close_stdin(self) -> None:
        if self._stdin is None:
            return
        self._loop.remove_writer(self._stdin)
        # A terminal is one descriptor for both directions, and still read.
        if self._terminal is None:
            os.close(self._stdin)
        self._stdin = None

    # ------------------------------------------------------------------ process to client

    def pause_writing(self) -> None:
        self._writing_paused = True
        for descriptor in self._outputs:
            self._loop.remove_reader(descriptor)

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._read_on()

    @property
    def _held_up(self) -> bool:
        """Is nothing to be read: the client, or a recording that must be whole, does not keep up?"""
        return self._writing_paused or (self._recorder is not None and self._recorder.blocked)

    def _read_on(self) -> None:
        if self._held_up or self._done:
            return
        for descriptor in list(self._outputs):
            self._loop.add_reader(descriptor, self._read, descriptor)
        if self._exit is not None and self._terminal is not None:
            # Nothing may ever become readable again: look now.
            self._drain_terminal()

    def _read(self, descriptor: int) -> bool:
        """Move one piece. False when there is none now or any more."""
        try:
            data = os.read(descriptor, self._read_size)
        except BlockingIOError:
            return False
        except OSError:
            # EIO: the last process has let go of the terminal.
            data = b""
        if not data:
            self._output_ended(descriptor)
            return False
        if self._parties is not None:
            self._parties.show(data)
        if self._recorder is not None:
            self._record(self._recorder, data)
        self._read_size = WIDE_READ if len(data) >= READ_SIZE else READ_SIZE
        try:
            self._channel.write(data, self._outputs[descriptor])
        except OSError:
            # The client has closed the channel; connection_lost follows.
            self._output_ended(descriptor)
            return False
        return True

    def _record(self, recorder: Recorder, data: bytes) -> None:
        recorder.output(data)
        if recorder.blocked:
            for descriptor in self._outputs:
                self._loop.remove_reader(descriptor)

    def _output_ended(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        del self._outputs[descriptor]
        if descriptor == self._terminal:
            self._close_stdin()
            self._terminal = None
        os.close(descriptor)
        self._maybe_finish()

    def close_output(self) -> None:
        """The client takes no more of it. A terminal is one descriptor for all: there it is read and thrown away."""
        for descriptor, datatype in list(self._outputs.items()):
            if datatype is None and descriptor != self._terminal:
                self._output_ended(descriptor)

    def _drain_terminal(self) -> None:
        while self._terminal is not None and not self._held_up:
            terminal = self._terminal
            if not self._read(terminal):
                if self._terminal is not None:
                    self._output_ended(terminal)
                return

    # ------------------------------------------------------------------ the end

    def exited(self, status: int | None, signal: str | None, core: bool) -> None:
        """The process has ended; RFC 4254 section 6.10."""
        self._exit = status, signal, core
        if self._terminal is not None:
            self._drain_terminal()
        self._maybe_finish()

    def _maybe_finish(self) -> None:
        if self._done or not self._attached or self._outputs or self._exit is None:
            return
        self._done = True
        if self._recorder is not None:
            self._recorder.finish()
        status, signal, core = self._exit
        self._send(self._channel.write_eof)
        if signal is not None:
            self._send(lambda: self._channel.exit_with_signal(signal, core))
        else:
            self._send(lambda: self._channel.exit(status or 0))
        self._close_stdin()
        self._finished()

    def _send(self, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError:
            # The channel is closing already.
            return

    def close(self) -> None:
        """The channel is gone: nobody writes, nobody reads. A terminal's processes hear SIGHUP by the kernel."""
        self._done = True
        self._close_stdin()
        for descriptor in list(self._outputs):
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        self._outputs = {}
        self._terminal = None
        self._input.clear()
        if self._parties is not None:
            self._parties.close()
        if self._recorder is not None:
            self._recorder.finish()

    # ------------------------------------------------------------------ parties

    def join(self, party: int, descriptors: Sequence[int], dropped: Callable[[int], None]) -> None:
        """Somebody sees what the terminal says, by the first descriptor; and types into it, by the second if any."""
        self._party_dropped = dropped
        if self._parties is None:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        self._parties.add(party, descriptors[0], descriptors[1] if len(descriptors) > 1 else None)

    def part(self, party: int) -> None:
        if self._parties is not None:
            self._parties.remove(party)

    def say(self, text: str) -> None:
        """A line of ours to everybody who looks at the terminal."""
        line = f"\r\n[{text}]\r\n".encode()
        if self._parties is not None:
            self._parties.show(line)
        if self._recorder is not None:
            self._recorder.mark(text)
            self._recorder.output(line)
        try:
            self._channel.write(line)
        except OSError:
            # The client has closed the channel; connection_lost follows.
            return

    def _drop_party(self, party: int) -> None:
        if self._party_dropped is not None:
            self._party_dropped(party)

    def _typed_by_party(self, data: bytes) -> bool:
        if data and self._stdin is not None and not self._done:
            self._input += data
            self._write()
        return 2 * len(self._input) < int(self._input_high)

    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        if self._terminal is not None:
            pty.set_size(self._terminal, columns, rows, width, height)
            if self._recorder is not None:
                self._recorder.resize(columns, rows)
