"""A quiet line: one WebSocket that says little and beats, as tunnels of nodes and of other clusters are.

docs/protocol/tunnel.md, "Tunnel".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping

from tinyport.core.errors import PeerError
from tinyport.link import websocket as ws
from tinyport.link.httphead import MAX_HEAD, parse_head
from tinyport.proxy.stream import Stream

PATH = "/v1/tunnel"
BEATS_TO_DEATH = 2.5
# Two of the largest documents. Who takes less for that long has no use for more.
MAX_QUEUED = 3 * 1024 * 1024

Said = Callable[[dict[str, object]], None]


class Line:
    """Our end of one that was dialled to us. Its maker owns the stream, and calls ``stop_watching`` in the end."""

    __slots__ = ("_beat", "_loop", "_timer", "last_heard", "stream")

    def __init__(self, stream: Stream, beat: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._beat = beat
        self.stream = stream
        self.last_heard = self._loop.time()
        self._timer = self._loop.call_later(beat * BEATS_TO_DEATH, self._watch)

    @property
    def beat(self) -> float:
        return self._beat

    def expect(self, beat: float) -> None:
        """The other end beats at another rate from now on. It answers at once; until then the silence of the old rate
        is not held against it.
        """
        self._beat = beat
        self.last_heard = self._loop.time()
        self._timer.cancel()
        self._watch()

    def _watch(self) -> None:
        left = self.last_heard + self._beat * BEATS_TO_DEATH - self._loop.time()
        if left <= 0:
            self.stream.abort()
        else:
            self._timer = self._loop.call_later(left, self._watch)

    def offer(self, data: bytes) -> None:
        """Queue one frame; who lets them pile up loses the line."""
        if self.stream.queued + len(data) > MAX_QUEUED:
            self.stream.abort()
        elif not self.stream.closed:
            self.stream.offer(data)

    def end(self, code: int, reason: str) -> None:
        """Tell the other end why, if it takes that at once, and close."""
        self.offer(ws.encode_close(code, reason))
        self.stream.abort()

    def stop_watching(self) -> None:
        self._timer.cancel()

    async def listen(self, decoder: ws.Decoder, said: Said) -> None:
        """Until the other end leaves: ``said`` gets each message. PeerError for what may not be said; the other end was
        told so."""
        try:
            while data := await self.stream.receive():
                self.last_heard = self._loop.time()
                for opcode, payload in decoder.feed(data):
                    self._message(opcode, payload, said)
        except PeerError as error:
            code = ws.CLOSE_TOO_BIG if error.code == "too_large" else ws.CLOSE_PROTOCOL_ERROR
            self.end(code, error.message)
            raise

    def _message(self, opcode: int, payload: bytes, said: Said) -> None:
        if opcode == ws.OP_PING:
            self.offer(ws.encode(ws.OP_PONG, payload))
        elif opcode == ws.OP_CLOSE:
            # RFC 6455 section 5.5.1: a close is answered with one, then the server closes the connection
            # first.
            self.end(ws.CLOSE_NORMAL, "")
        elif opcode == ws.OP_TEXT:
            said(json_object(payload))
        elif opcode != ws.OP_PONG:
            raise PeerError("binary messages have no meaning here")


async def upgrade(stream: Stream) -> None:
    """Answer the request that a line begins with. PeerError when it is another one."""
    data = await stream.receive_until(b"\r\n\r\n", MAX_HEAD)
    head = parse_head(data) if data is not None else None
    if head is None:
        raise PeerError("not the request of a tunnel")
    stream.offer(ws.server_handshake(ws.check_request(head, PATH)))


async def first_message(stream: Stream, decoder: ws.Decoder) -> dict[str, object]:
    """What the other end says first, and nothing after it. PeerError when it is anything else."""
    while True:
        data = await stream.receive()
        if not data:
            raise ConnectionAbortedError("the tunnel ended before its first message")
        messages = decoder.feed(data)
        if messages:
            break
    opcode, payload = messages[0]
    if opcode != ws.OP_TEXT or len(messages) > 1:
        raise PeerError("the tunnel's first message is not a hello")
    return json_object(payload)


def frame(message: Mapping[str, object], mask: bytes | None = None) -> bytes:
    """A message as a frame; ``mask``: four random bytes, from the end that dialled."""
    return ws.encode(ws.OP_TEXT, json.dumps(message, separators=(",", ":")).encode(), mask)


def json_object(payload: bytes) -> dict[str, object]:
    """PeerError when it is none."""
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        raise PeerError("a message that is not JSON") from None
    if not isinstance(message, dict):
        raise PeerError("a message that is not a JSON object")
    return message
