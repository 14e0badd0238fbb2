"""A client that says what it likes: asyncssh's up to the end of signing in, bare messages from then on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncssh
from asyncssh.packet import Boolean, String, UInt32

from tests.node.session_harness import LIMIT, LOGIN, Rig

# RFC 4250 section 4.1.2
DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, KEXINIT = 1, 2, 3, 4, 20
GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE = 80, 81, 82
OPEN, CONFIRMATION, OPEN_FAILURE, WINDOW_ADJUST, DATA, EXTENDED_DATA = 90, 91, 92, 93, 94, 95
EOF, CLOSE, REQUEST, SUCCESS, FAILURE = 96, 97, 98, 99, 100

Message = tuple[int, bytes]


class _Everything(dict[int, Any]):
    """asyncssh's channels by number: all of them are the same one."""

    def __init__(self, taker: Any) -> None:
        super().__init__()
        self._taker = taker

    def __getitem__(self, number: int) -> Any:
        del number
        return self._taker

    def values(self) -> Any:
        return ()


class RawClient:
    """``send`` a message; ``wait`` for one. Channel messages that come have their channel number still before them."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self.connection = connection
        self.transport: Any = connection._transport
        self.got: list[Message] = []
        #: the server's reason, when it gave one
        self.disconnected = b""
        #: what the socket said: whoever writes to one that is closed reads nothing more from it, the reason neither
        self.broken: OSError | None = None
        self._changed = asyncio.Event()
        self._closing = asyncio.ensure_future(connection.wait_closed())
        self._closing.add_done_callback(lambda done: self._changed.set())
        # asyncssh takes the number off a channel's message before it hands it on; the rest is ours.
        connection._channels = _Everything(self)
        self._process = connection.process_packet
        vars(connection)["process_packet"] = self.process_packet
        self._lost = connection.connection_lost
        vars(connection)["connection_lost"] = self.connection_lost

    def log_received_packet(self, *about: object) -> None:
        return

    def log_sent_packet(self, *about: object) -> None:
        return

    def connection_lost(self, error: Exception | None) -> None:
        self.broken = error if isinstance(error, OSError) else None
        self._lost(error)

    def process_packet(self, kind: int, number: int, packet: Any) -> Any:
        if kind == DISCONNECT:
            self.disconnected = packet.get_full_payload()[9:]
        if kind <= 49:
            return self._process(kind, number, packet)
        self.got.append((kind, packet.get_full_payload()[1:]))
        self._changed.set()
        return True

    async def closed(self) -> bytes:
        """Wait until the server has ended it; its reason."""
        await asyncio.wait_for(asyncio.shield(self._closing), LIMIT)
        return self.disconnected

    def send(self, kind: int, *parts: bytes) -> None:
        self.connection.send_packet(kind, *parts)

    async def wait(self, kind: int, check: Callable[[bytes], bool] = lambda payload: True, times: int = 1) -> bytes:
        """The last of so many messages of that kind."""
        while True:
            found = [payload for got, payload in self.got if got == kind and check(payload)]
            if len(found) >= times:
                return found[times - 1]
            if self.connection.is_closed():
                raise ConnectionError(f"the server has ended it: {self.disconnected!r}")
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), LIMIT)

    async def open_session(self, number: int = 0, window: int = 2**21) -> int:
        """Our channel's number → the server's."""
        self.send(OPEN, String(b"session"), UInt32(number), UInt32(window), UInt32(32768))
        found = await self.wait(CONFIRMATION, lambda payload: payload[:4] == UInt32(number))
        return int.from_bytes(found[4:8], "big")

    def request(self, channel: int, name: bytes, *parts: bytes, reply: bool = False) -> None:
        self.send(REQUEST, UInt32(channel), String(name), Boolean(reply), *parts)

    async def data(self, size: int) -> bytes:
        """Wait until so many bytes of standard output came on any channel."""
        while True:
            found = b"".join(payload[8:] for kind, payload in self.got if kind == DATA)
            if len(found) >= size:
                return found
            if self.connection.is_closed():
                raise ConnectionError(f"the server has ended it: {self.disconnected!r}")
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), LIMIT)


@asynccontextmanager
async def raw_client(rig: Rig, **more: Any) -> AsyncIterator[RawClient]:
    """Signed in with the rig's usual certificate; whatever is left is cut at the end."""
    key = asyncssh.read_private_key(rig.folder / "id")
    certificate = asyncssh.read_certificate(rig.folder / "id-cert.pub")
    options: dict[str, Any] = {"known_hosts": None, "config": None, "agent_path": None, **more}
    connection = await asyncssh.connect(
        "127.0.0.1", rig.port, username=LOGIN, client_keys=[(key, certificate)], **options
    )
    try:
        yield RawClient(connection)
    finally:
        connection.abort()
        await connection.wait_closed()
