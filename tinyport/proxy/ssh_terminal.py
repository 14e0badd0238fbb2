"""A shell on a node for a terminal in a browser: SSH from here to the node, with the user's own certificate.

The one kind of session that ends in the proxy. It has the certificate of minutes that auth issued for the web session,
so the node judges the user, and records and audits them, as it does with every other client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import asyncssh

from tinyport.core.names import printable
from tinyport.proxy.ssh_client import CONNECT_LIMIT, SshLink, as_ours

TERM = "xterm-256color"
# With what the browser has not drawn yet, all that one terminal can hold of a node's flood.
WINDOW = 256 * 1024
HIGH, LOW = 64 * 1024, 16 * 1024


class Listener(Protocol):
    """Who is told what the shell says."""

    def output(self, data: bytes) -> None: ...

    def ended(self, reason: dict[str, object]) -> None: ...


class Shell(asyncssh.SSHClientSession[bytes]):
    """One shell. Made by ``open_shell``; ends by itself or with ``close``; tells ``Listener.ended`` exactly once."""

    def __init__(self, listener: Listener, link: SshLink) -> None:
        self._listener = listener
        self._link = link
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._over: dict[str, object] = {}
        self._told = False
        self._writable = asyncio.Event()
        self._writable.set()

    # ------------------------------------------------------------------ asyncssh's side

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan
        chan.set_write_buffer_limits(high=HIGH, low=LOW)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._listener.output(data)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def exit_status_received(self, status: int) -> None:
        self._over = {"status": status}

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._over = {"signal": printable(signal.partition("@")[0], 40)}

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, asyncssh.DisconnectError) and exc.code == asyncssh.DISC_BY_APPLICATION:
            # The node's own words: that access was taken back, or who ended it.
            self._over = self._over or {"message": printable(exc.reason, 300)}
        self._end()

    def _end(self) -> None:
        self._writable.set()
        if self._told:
            return
        self._told = True
        self._listener.ended(self._over or {"message": "the connection to the node was lost"})
        self._link.leave()

    # ------------------------------------------------------------------ our side

    async def write(self, data: bytes) -> None:
        """What was typed. Waits while the node takes no more."""
        await self._writable.wait()
        if self._channel is not None and not self._told:
            self._channel.write(data)

    def resize(self, columns: int, rows: int) -> None:
        if self._channel is not None and not self._told:
            self._channel.change_terminal_size(columns, rows)

    def pause(self) -> None:
        if self._channel is not None:
            self._channel.pause_reading()

    def resume(self) -> None:
        if self._channel is not None:
            self._channel.resume_reading()

    def close(self, message: str = "") -> None:
        """Hang up, at once. The shell gets SIGHUP as from any client that leaves."""
        if message:
            self._over = {"message": message}
        self._link.close()
        self._end()

    def abandon(self) -> None:
        """It never came to be: nobody is told."""
        self._told = True
        self._link.close()


async def open_shell(
    listener: Listener, link: SshLink, *, size: tuple[int, int], subsystem: str | None = None
) -> Shell:
    """A login shell with a terminal of ``size`` (columns, rows), or a subsystem with one, at the other end of ``link``,
    which is owned from here.

    AccessDenied with the node's words when it refuses; else Unavailable.
    """
    shell = Shell(listener, link)
    try:
        if link.words:
            listener.output(_shown(link.words))
        await asyncio.wait_for(
            link.connection.create_session(
                lambda: shell,
                None,
                subsystem=subsystem,
                term_type=TERM,
                term_size=size,
                env={"COLORTERM": "truecolor"},
                encoding=None,
                window=WINDOW,
            ),
            CONNECT_LIMIT,
        )
    except (asyncssh.Error, OSError, asyncio.TimeoutError) as error:
        shell.abandon()
        raise as_ours(error, link.words) from None
    except BaseException:
        shell.abandon()
        raise
    return shell


def _shown(words: Sequence[str]) -> bytes:
    """A banner for the screen: hostile text, so line by line and escaped."""
    lines = [printable(line.expandtabs(), 500) for text in words for line in text.rstrip().splitlines()]
    return "".join(f"{line}\r\n" for line in lines).encode()
