"""A shell on a node for a terminal in a browser: SSH from here to the node, with the user's own certificate.

The one kind of session that ends in the proxy. It has the certificate of minutes that auth issued for the web session,
so the node judges the user, and records and audits them, as it does with every other client.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import asyncssh

from tinyport.core.certificate import public_line
from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.core.host_judgement import judge_host
from tinyport.core.names import printable
from tinyport.core.ssh_algorithms import CIPHERS, KEX, on_offer
from tinyport.proxy.splice import Splice
from tinyport.proxy.stream import Stream

CONNECT_LIMIT = 30.0
KEEPALIVE = (30, 4)
TERM = "xterm-256color"
# With what the browser has not drawn yet, all that one terminal can hold of a node's flood.
WINDOW = 256 * 1024
HIGH, LOW = 64 * 1024, 16 * 1024


class Listener(Protocol):
    """Who is told what the shell says."""

    def output(self, data: bytes) -> None: ...

    def ended(self, reason: dict[str, object]) -> None: ...


class _Way:
    """What asyncssh calls a tunnel: gives it our end of a socket pair, whose other end is joined with the node."""

    def __init__(self, sock: socket.socket, judge: Callable[[bytes], asyncssh.SSHKey]) -> None:
        self._sock = sock
        self._judge = judge

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> tuple[Any, Any]:
        connection = factory()
        # asyncssh's own judgement would look at names and time.time() only.
        connection.validate_server_host_key = self._judge
        return await asyncio.get_running_loop().create_connection(lambda: connection, sock=self._sock)


class Shell(asyncssh.SSHClientSession[bytes]):
    """One shell. Made by ``open_shell``; ends by itself or with ``close``; tells ``Listener.ended`` exactly once."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._connection: asyncssh.SSHClientConnection | None = None
        self._joined: asyncio.Task[None] | None = None
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
        self._over = {"signal": printable(signal, 40)}

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        self._writable.set()
        if self._told:
            return
        self._told = True
        self._listener.ended(self._over or {"message": "the connection to the node was lost"})
        if self._connection is not None:
            self._connection.close()

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
        if self._connection is not None:
            self._connection.abort()
        self._end()
        if self._joined is not None:
            self._joined.cancel()


async def open_shell(
    listener: Listener,
    stream: Stream,
    *,
    uuid: str,
    login: str,
    cluster: str,
    host_cas: Sequence[bytes],
    ssh_key: str,
    ssh_certificate: str,
    size: tuple[int, int],
) -> Shell:
    """A login shell with a terminal of ``size`` (columns, rows) on the node that dialled back with ``stream``, which is
    owned from here.

    PeerError when it is not the node ``uuid``; AccessDenied with the node's words when it refuses; else Unavailable.
    """
    refused: list[TinyportError] = []
    words: list[str] = []

    def judge(key_data: bytes) -> asyncssh.SSHKey:
        try:
            found = judge_host(key_data, host_cas=host_cas, cluster=cluster, principals=[uuid], now=time.time())
        except PeerError as error:
            refused.append(error)
            raise asyncssh.HostKeyNotVerifiable(error.message) from None
        return asyncssh.import_public_key(public_line(found.public_key))

    class Client(asyncssh.SSHClient):
        def auth_banner_received(self, msg: str, lang: str) -> None:
            words.append(msg[:4096])

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    splice = Splice(Stream(asyncio.get_running_loop(), theirs, stream.peer), stream)
    shell = Shell(listener)
    shell._joined = asyncio.ensure_future(splice.run())
    try:
        shell._connection = await asyncio.wait_for(
            _connect(_Way(ours, judge), Client, login, ssh_key, ssh_certificate), CONNECT_LIMIT
        )
        if words:
            listener.output(_shown(words))
        await asyncio.wait_for(
            shell._connection.create_session(
                lambda: shell,
                None,
                term_type=TERM,
                term_size=size,
                env={"COLORTERM": "truecolor"},
                encoding=None,
                window=WINDOW,
            ),
            CONNECT_LIMIT,
        )
    except (asyncssh.Error, OSError, asyncio.TimeoutError) as error:
        shell._told = True
        shell.close()
        splice.cut()
        raise refused[0] if refused else _as_ours(error, words) from None
    except BaseException:
        shell._told = True
        shell.close()
        splice.cut()
        raise
    return shell


async def _connect(
    way: _Way, client: type[asyncssh.SSHClient], login: str, ssh_key: str, ssh_certificate: str
) -> asyncssh.SSHClientConnection:
    from asyncssh.encryption import get_encryption_algs
    from asyncssh.kex import get_kex_algs

    key = asyncssh.import_private_key(ssh_key)
    certificate = asyncssh.import_certificate(ssh_certificate)
    return await asyncssh.connect(
        "node",
        22,
        tunnel=way,
        config=None,
        known_hosts=None,
        x509_trusted_certs=None,
        server_host_key_algs=["ssh-ed25519-cert-v01@openssh.com"],
        kex_algs=on_offer(KEX, get_kex_algs()),
        encryption_algs=on_offer(
            [name for name in CIPHERS if "gcm" in name or "poly1305" in name], get_encryption_algs()
        ),
        compression_algs=None,
        client_factory=client,
        username=login,
        client_keys=[(key, certificate)],
        preferred_auth=["publickey"],
        agent_path=None,
        gss_host=None,
        keepalive_interval=KEEPALIVE[0],
        keepalive_count_max=KEEPALIVE[1],
    )


def _shown(words: Sequence[str]) -> bytes:
    """A banner for the screen: hostile text, so line by line and escaped."""
    lines = [printable(line.expandtabs(), 500) for text in words for line in text.rstrip().splitlines()]
    return "".join(f"{line}\r\n" for line in lines).encode()


def _as_ours(error: BaseException, words: Sequence[str]) -> TinyportError:
    said = printable(" ".join(" ".join(words).split()), 300)
    if isinstance(error, asyncssh.PermissionDenied):
        return AccessDenied(said or "the node refused you")
    if isinstance(error, asyncio.TimeoutError):
        return Unavailable("the node does not answer", hint="try again in a moment")
    if isinstance(error, asyncssh.ChannelOpenError):
        return AccessDenied(printable(error.reason, 300) or "the node opens no terminal")
    return Unavailable("the connection to the node broke", detail=str(error), hint="try again in a moment")
