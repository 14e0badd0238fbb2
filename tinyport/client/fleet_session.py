"""One command on one node, without input: reaching the node, running it, and ending it when it takes too long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tinyport.client.dial import Dialled, dial
from tinyport.client.engine import Wish
from tinyport.core.names import printable
from tinyport.host.user_identity import UserIdentity

if TYPE_CHECKING:
    import asyncssh

_STDERR = 1
# Between SIGTERM and SIGKILL, for what a command puts in order before it ends.
GRACE = 5.0


async def dialled_aside(identity: UserIdentity, wish: Wish) -> Dialled:
    """``dial``, in a thread of its own: one slow node holds up no other, and nobody who leaves waits for it."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Dialled] = loop.create_future()

    def tell(dialled: Dialled | None, error: Exception | None) -> None:
        if answer.done():
            # Nobody waits any more.
            if dialled is not None:
                dialled.socket.close()
        elif dialled is not None:
            answer.set_result(dialled)
        else:
            assert error is not None
            answer.set_exception(error)

    def work() -> None:
        dialled, error = None, None
        try:
            dialled = dial(identity, wish.target, wish.login)
        except Exception as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(tell, dialled, error)
        except RuntimeError:
            # The loop is closed: the program ends.
            if dialled is not None:
                dialled.socket.close()

    threading.Thread(target=work, daemon=True).start()
    return await answer


class Ran:
    """The callbacks of one session without input. ``write`` gets its output, and a slow one holds the node back; what
    it raises ends the session, and is ``trouble`` then."""

    def __init__(self, write: Callable[[bytes, bool], None]) -> None:
        self._write = write
        self._channel: Any = None
        self.status: int | None = None
        self.signal: str | None = None
        self.trouble: OSError | None = None
        self.closed = asyncio.Event()

    async def start(self, connection: asyncssh.SSHClientConnection, command: str) -> None:
        """Raises asyncssh's errors when the node starts none."""
        channel, _ = await connection.create_session(
            lambda: self,  # type: ignore[arg-type, return-value]
            command,
            encoding=None,
            request_pty=False,
        )
        channel.write_eof()

    async def stop(self, grace: float = GRACE) -> None:
        """End it as timeout(1) does: SIGTERM, and what does not heed that SIGKILL."""
        for name in ("TERM", "KILL"):
            if self._channel is None or self.closed.is_set():
                return
            with suppress(OSError):
                self._channel.send_signal(name)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.closed.wait(), grace)

    # ------------------------------------------------------------------ from the node

    def connection_made(self, chan: Any) -> None:
        self._channel = chan

    def session_started(self) -> None:
        return

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self.trouble is not None:
            return
        try:
            self._write(data, datatype == _STDERR)
        except OSError as error:
            self.trouble = error
            self._channel.close()
            self.closed.set()

    def eof_received(self) -> bool:
        return True

    def exit_status_received(self, status: int) -> None:
        self.status = status

    def exit_signal_received(self, name: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.signal = printable(name.partition("@")[0], 20)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()

    def xon_xoff_requested(self, client_can_do: bool) -> None:
        return

    def pause_writing(self) -> None:
        return

    def resume_writing(self) -> None:
        return
