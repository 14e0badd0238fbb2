"""Forwardings in the worker: channels and global requests of RFC 4254 section 7 and OpenSSH's PROTOCOL, section 2.4.

The worker neither connects nor listens: it asks the keeper, and is handed connected sockets to pump. asyncssh's own
code for this would do it itself, as the worker's user, and ends the whole connection where a request is merely odd.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncssh
from asyncssh.packet import SSHPacket, UInt32

from tinyport.core.errors import AccessDenied, TinyportError
from tinyport.node.worker.keeper import Answer, KeeperLine, close_all
from tinyport.node.worker.socket_pump import SocketPump

# Of one connection. OpenSSH has no limit but memory; each channel here may hold its window.
MAX_CHANNELS = 256
# The first ones get OpenSSH's pace over long lines, a crowd shares.
WIDE_CHANNELS, WIDE_WINDOW, NARROW_WINDOW = 32, 1024 * 1024, 128 * 1024
# What the keeper takes: it ends a worker that asks for more, so a stranger's nonsense stops here.
MAX_HOST = 255
MAX_PATH = 107
_PROTOCOL = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_COOKIE = re.compile(rb"(?:[0-9a-fA-F]{2}){1,256}")

T = TypeVar("T")
_CODES = {
    "denied": asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED,
    "account": asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED,
    "limit": asyncssh.OPEN_RESOURCE_SHORTAGE,
}


class ForwardedSession(asyncssh.SSHTCPSession[bytes]):
    """asyncssh's callbacks of one forwarded channel, on to its pump."""

    def __init__(self, pump: SocketPump) -> None:
        self._pump = pump

    def connection_made(self, chan: Any) -> None:
        self._pump.start(chan)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._pump.close()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        del datatype
        self._pump.feed(data)

    def eof_received(self) -> bool:
        self._pump.feed_eof()
        return True

    def pause_writing(self) -> None:
        self._pump.pause_writing()

    def resume_writing(self) -> None:
        self._pump.resume_writing()


@dataclass(frozen=True)
class Listening:
    """A listener of the keeper's. ``kind``: port, path, agent, x11; ``host`` and ``path`` as the client wrote them."""

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""


class ForwardingConnection(asyncssh.SSHServerConnection):
    """The part of a node's connection that forwards. ``number`` and ``_keeper`` are set by ``NodeConnection``."""

    number: int
    _keeper: KeeperLine

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        #: by the keeper's number
        self._listening: dict[int, Listening] = {}
        self._channels_open = 0
        #: what each open one leads to, or the listener that it came through
        self._led: dict[SocketPump, dict[str, object] | int] = {}
        #: tasks that wait for an answer; asyncssh leaves its tasks alone when a connection ends
        self._asking: set[asyncio.Task[Any]] = set()
        #: global requests that have their answer; and who waits until it is so many
        self._answered = 0
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []

    async def _ask(self, op: str, asked: dict[str, object]) -> Answer:
        return await self._while_it_lives(self._keeper.ask(op, conn=self.number, **asked))

    async def _while_it_lives(self, waiting: Awaitable[T]) -> T:
        """Cancelled when the connection ends."""
        task = asyncio.current_task()
        assert task is not None
        self._asking.add(task)
        try:
            return await waiting
        finally:
            self._asking.discard(task)

    def stop_asking(self) -> None:
        """The connection is over: the keeper will not answer."""
        for task in list(self._asking):
            task.cancel()

    # ------------------------------------------------------------------ the client connects

    def _process_direct_tcpip_open(self, packet: SSHPacket) -> Any:
        """RFC 4254 section 7.2."""
        host, port = packet.get_string(), packet.get_uint32()
        packet.get_string(), packet.get_uint32()
        packet.check_end()
        name = _host(host)
        if not name or not 1 <= port <= 65535:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "not a host and port")
        channel = self.create_tcp_channel(window=self._next_window())
        return channel, self._connected(channel, {"host": name, "port": port})

    def _process_direct_streamlocal_at_openssh_dot_com_open(self, packet: SSHPacket) -> Any:
        """PROTOCOL section 2.4: a path, and two fields that are reserved."""
        path = _path(packet.get_string())
        packet.get_string(), packet.get_uint32()
        packet.check_end()
        if path is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "not an absolute path of a socket")
        channel = self.create_unix_channel(window=self._next_window())
        return channel, self._connected(channel, {"path": path})

    def _process_tun_at_openssh_dot_com_open(self, packet: SSHPacket) -> Any:
        del packet
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "there are no tunnel devices here")

    def _next_window(self) -> int:
        if self._channels_open >= MAX_CHANNELS:
            text = f"too many forwarded connections, {MAX_CHANNELS} are allowed"
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, text)
        return WIDE_WINDOW if self._channels_open < WIDE_CHANNELS else NARROW_WINDOW

    def _connected(self, channel: Any, asked: dict[str, object]) -> Coroutine[Any, Any, ForwardedSession]:
        self._channels_open += 1
        return self._connect(channel, asked)

    async def _connect(self, channel: Any, asked: dict[str, object]) -> ForwardedSession:
        try:
            _, descriptors = await self._ask("connect", asked)
        except TinyportError as error:
            self._channel_over()
            raise asyncssh.ChannelOpenError(
                _CODES.get(error.code, asyncssh.OPEN_CONNECT_FAILED), error.message
            ) from None
        except BaseException:
            self._channel_over()
            raise
        (descriptor,) = descriptors
        pump = self._pump(descriptor, asked)
        if channel._conn is None:
            # The client left while the keeper connected; asyncssh would drop what we return.
            pump.close()
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the connection is over")
        return ForwardedSession(pump)

    def _pump(self, descriptor: int, led: dict[str, object] | int) -> SocketPump:
        def over() -> None:
            del self._led[pump]
            self._channel_over()

        pump = SocketPump(self._loop, socket.socket(fileno=descriptor), over)
        self._led[pump] = led
        return pump

    def _channel_over(self) -> None:
        self._channels_open -= 1

    # ------------------------------------------------------------------ the client has us listen

    async def requests_answered(self) -> None:
        """Until all that the client asked of the connection before now has its answer. ``ssh -R`` does not wait for it,
        and its command counts on the port: sshd takes one after the other.
        """
        if self._global_request_queue:
            answered: asyncio.Future[None] = self._loop.create_future()
            self._awaited.append((self._answered + len(self._global_request_queue), answered))
            await self._while_it_lives(answered)

    def _report_global_response(self, result: bool | bytes) -> None:
        self._answered += 1
        # It may go on with the next one, and so come here again.
        super()._report_global_response(result)
        while self._awaited and self._awaited[0][0] <= self._answered:
            _, answered = self._awaited.pop(0)
            if not answered.done():
                answered.set_result(None)

    def _process_tcpip_forward_global_request(self, packet: SSHPacket) -> None:
        """RFC 4254 section 7.1. Of port 0 the answer tells the port."""
        host, port = _host(packet.get_string()), packet.get_uint32()
        packet.check_end()
        if host is None or port > 65535:
            self._report_global_response(False)
            return
        self.create_task(self._listen(Listening("port", host, port), {"host": host, "port": port}))

    def _process_streamlocal_forward_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        path = _path(packet.get_string())
        packet.check_end()
        if path is None:
            self._report_global_response(False)
            return
        self.create_task(self._listen(Listening("path", path=path), {"path": path}))

    async def _listen(self, listening: Listening, asked: dict[str, object]) -> None:
        try:
            answer, _ = await self._ask("listen", asked)
        except TinyportError as error:
            # RFC 4254 has no place for a reason here; "ssh -v" shows this.
            self.send_debug(f"tinyport: {error.message}")
            self._report_global_response(False)
            return
        port = _number(answer, "port")
        self._listening[_number(answer, "listener")] = Listening(
            listening.kind, listening.host, listening.port or port, listening.path
        )
        self._report_global_response(UInt32(port) if listening.kind == "port" and not listening.port else True)

    def _process_cancel_tcpip_forward_global_request(self, packet: SSHPacket) -> None:
        host, port = _host(packet.get_string()), packet.get_uint32()
        packet.check_end()
        self.create_task(self._unlisten(Listening("port", host or "", port)))

    def _process_cancel_streamlocal_forward_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        path = _path(packet.get_string())
        packet.check_end()
        self.create_task(self._unlisten(Listening("path", path=path or "")))

    async def _unlisten(self, wanted: Listening) -> None:
        """The answer comes when nobody listens any more, so that the port can be had again at once."""
        number = next((number for number, listening in self._listening.items() if listening == wanted), None)
        if number is None:
            self._report_global_response(False)
            return
        del self._listening[number]
        try:
            await self._ask("unlisten", {"listener": number})
        except TinyportError as error:
            self.send_debug(f"tinyport: {error.message}")
        self._report_global_response(True)

    def stop_listening(self, number: int) -> None:
        """No more connections of this listener; those that are open stay."""
        if self._listening.pop(number, None) is not None and not self.is_closed():
            self._keeper.tell("unlisten", conn=self.number, listener=number)

    # ------------------------------------------------------------------ agent and X11

    async def forward_agent(self) -> int | None:
        """The listener of the agent's socket, one for the connection; None when it is refused."""
        return await self._forward("agent", {})

    async def forward_x11(self, protocol: bytes, cookie: bytes, screen: int, once: bool) -> int | None:
        """A listener for one session's display; None when it is refused."""
        if not _PROTOCOL.fullmatch(protocol) or not _COOKIE.fullmatch(cookie) or screen > 255:
            return None
        asked = {"protocol": protocol.decode("ascii"), "cookie": cookie.decode("ascii"), "screen": screen, "once": once}
        return await self._forward("x11", asked)

    async def _forward(self, kind: str, asked: dict[str, object]) -> int | None:
        try:
            answer, _ = await self._ask(kind, asked)
        except AccessDenied as error:
            self.send_debug(f"tinyport: {error.message}")
            return None
        number = _number(answer, "listener")
        self._listening[number] = Listening(kind)
        return number

    # ------------------------------------------------------------------ what the keeper says

    def unlistened(self, message: dict[str, object]) -> None:
        """The keeper has closed a listener: the policy changed (``forbidden``), or the helper has ended."""
        number = _number(message, "listener")
        self._listening.pop(number, None)
        if message.get("forbidden"):
            self._cut([pump for pump, led in self._led.items() if led == number])

    def judged(self) -> None:
        """What may be forwarded has changed: what of the open connections may stay?"""
        open_now = [(pump, led) for pump, led in self._led.items() if isinstance(led, dict)]
        if open_now:
            self.create_task(self._ask_what_may_stay(open_now))

    async def _ask_what_may_stay(self, open_now: Sequence[tuple[SocketPump, dict[str, object]]]) -> None:
        try:
            answer, _ = await self._ask("still", {"targets": [led for _, led in open_now]})
        except TinyportError:
            # The connection is at its end.
            return
        closed = answer["closed"]
        assert isinstance(closed, list)
        self._cut([open_now[place][0] for place in closed])

    def _cut(self, pumps: Sequence[SocketPump]) -> None:
        for pump in pumps:
            if pump in self._led:
                pump.cut()
        if pumps and not self.is_closed():
            self.send_debug(f"tinyport: your roles do not permit {len(pumps)} of your forwarded connections any more")

    def accepted(self, message: dict[str, object], descriptors: Sequence[int]) -> None:
        """Somebody has connected to a listener; takes the descriptors over."""
        listening = self._listening.get(_number(message, "listener"))
        if listening is None or self._channels_open >= MAX_CHANNELS or self._transport is None:
            close_all(descriptors)
            self._keeper.tell("taken", conn=self.number)
            return
        (descriptor,) = descriptors
        peer = message["peer"]
        assert isinstance(peer, list)
        window = self._next_window()
        self._channels_open += 1
        pump = self._pump(descriptor, _number(message, "listener"))
        self.create_task(self._offer(listening, str(peer[0]), int(peer[1]), pump, window))

    async def _offer(self, listening: Listening, host: str, port: int, pump: SocketPump, window: int) -> None:
        """Open a channel to the client for an accepted connection."""

        def session() -> Any:
            return ForwardedSession(pump)

        try:
            if listening.kind == "port":
                tcp = self.create_tcp_channel(window=window)
                await tcp.accept(session, listening.host, listening.port, host, port)
            elif listening.kind == "path":
                unix = self.create_unix_channel(window=window)
                await unix.accept(session, listening.path)
            elif listening.kind == "agent":
                await self.create_agent_channel(window=window).open(session)
            else:
                await self.create_x11_channel(window=window).open(session, host, port)
        except asyncssh.ChannelOpenError:
            # The client's end could not connect, or it will not: whoever connected here sees that it is closed.
            pump.close()
        except BaseException:
            pump.close()
            raise
        finally:
            if not self.is_closed():
                self._keeper.tell("taken", conn=self.number)


def _number(message: dict[str, object], name: str) -> int:
    value = message.get(name, 0)
    assert isinstance(value, int)
    return value


def _host(data: bytes) -> str | None:
    """A host as the keeper takes it, maybe empty; None when it cannot be one."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if len(data) > MAX_HOST or any(char <= " " or char == "\x7f" for char in text):
        return None
    return text


def _path(data: bytes) -> str | None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.startswith("/") and "\0" not in text and len(data) <= MAX_PATH else None
