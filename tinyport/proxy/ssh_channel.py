"""What is opened on an SSH connection to the gateway.

Channels joined with nodes' streams, and sessions that explain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

import asyncssh

from tinyport.core.errors import TinyportError
from tinyport.core.names import printable
from tinyport.host.logging_line import Log
from tinyport.proxy.splice import HALF_CLOSED
from tinyport.proxy.stream import CHUNK, HIGH, LOW, Stream

REASON_LIMIT = 400

#: what cuts → the time in which it may
Watched = Callable[[Callable[[str], None]], AbstractContextManager[None]]


class Carrier(Protocol):
    """The SSH connection as a pump sees it."""

    #: its transport takes no more for now
    full: bool
    pumps: set[Pump]
    peer: tuple[str, int]


class NoShell(asyncssh.SSHServerSession[bytes]):
    """Whatever is asked of a session, the answer is how to use the proxy."""

    def __init__(self, text: str) -> None:
        self._text = text

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._chan = chan

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        return True

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        return True

    def session_started(self) -> None:
        self._chan.write_stderr(self._text.encode())
        self._chan.exit(1)


class Pump(asyncssh.SSHTCPSession[bytes]):
    """One channel joined with a node's stream; owns the stream. Ends when either side has."""

    def __init__(
        self,
        conn: Carrier,
        stream: Stream,
        name: str,
        watched: Watched,
        finish: Callable[[Stream], None],
        log: Log,
    ) -> None:
        """``name``: what is at the stream's other end. ``watched``: the watch over what was allowed, which cuts."""
        self._conn = conn
        self._stream = stream
        self._name = name
        self._watched = watched
        self._finish = finish
        self._log = log
        self._watch = ExitStack()
        self._full = False
        self._free: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._chan = chan
        chan.set_write_buffer_limits(high=HIGH, low=LOW)
        self._conn.pumps.add(self)
        self._watch.enter_context(self._watched(self._cut))
        self._start(self._from_node())

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cut(self, reason: str) -> None:
        self._stream.abort()
        self._chan.abort()

    # ------------------------------------------------------------------ node → client

    async def _from_node(self) -> None:
        turns = 0
        try:
            while data := await self._stream.receive(CHUNK):
                self._chan.write(data)
                if self._full or self._conn.full:
                    self._free = asyncio.get_running_loop().create_future()
                    await self._free
                turns += 1
                if turns % 4 == 0:
                    await asyncio.sleep(0)
        except OSError as error:
            # The node's connection broke, or the client closed the channel under us. Either way it is over.
            self._log.debug("session broke", to=self._name, reason=error)
        # What was written before still goes out first.
        self._chan.close()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self.go_on()

    def go_on(self) -> None:
        """There may be room again towards the client."""
        if self._free is not None and not self._free.done() and not self._full and not self._conn.full:
            self._free.set_result(None)

    # ------------------------------------------------------------------ client → node

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._stream.closed:
            return
        self._stream.offer(data)
        if self._stream.queued > HIGH:
            self._chan.pause_reading()
            self._start(self._until_drained())

    async def _until_drained(self) -> None:
        try:
            await self._stream.drained(LOW)
        except OSError:
            # The reader notices the same and closes the channel.
            return
        self._chan.resume_reading()

    def eof_received(self) -> bool:
        self._start(self._end_input())
        return True

    async def _end_input(self) -> None:
        try:
            await self._stream.send_eof()
        except OSError:
            return
        # SSH ends both ways at once. A node that keeps its side open has this long to finish.
        await asyncio.sleep(HALF_CLOSED)
        self._stream.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.close()
        self._conn.pumps.discard(self)
        for task in self._tasks:
            task.cancel()
        # The client's last words are still on their way to the node.
        self._finish(self._stream)


def sentence(error: TinyportError) -> str:
    """A refusal as one printable line, with its hint and candidates."""
    text = error.message
    candidates = error.extra.get("candidates")
    if isinstance(candidates, list):
        text += ": " + ", ".join(str(item.get("name")) for item in candidates if isinstance(item, dict))
    if error.hint:
        text += f" ({error.hint})"
    return printable(text, REASON_LIMIT)
