"""A node's tunnel to a proxy: one quiet connection, made again whenever it breaks (docs/protocol/tunnel.md).

Light: link loads it.
"""

from __future__ import annotations

import json
import os
import socket
import time

from tinyport.core.errors import PeerError, TinyportError, Unavailable
from tinyport.core.names import format_address, is_uuid, printable
from tinyport.link import websocket
from tinyport.link.http_proxy import proxy_for
from tinyport.link.httphead import parse_head
from tinyport.link.tlsstream import BUSY, TlsStream
from tinyport.node.link.connect import Connect
from tinyport.node.link.probation import PATIENCE
from tinyport.node.loop import Loop, spread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from tinyport.host.logging_line import Log
    from tinyport.node.link.probation import Probation
    from tinyport.node.loop import Timer

    Address = tuple[str, int]

    class TunnelOwner(Protocol):
        """What a tunnel asks of whoever has several (link_tunnels)."""

        def where(self, tunnel: Tunnel) -> Address | None:
            """The address to try now; None when there is none left for it."""

        def met(self, tunnel: Tunnel, proxy: str) -> bool:
            """This proxy (UUID) has answered: is a tunnel to it wanted?"""

        def inside(self, place: Address) -> bool:
            """Does TLS end before the proxy there?"""

        def is_no_proxy(self, place: Address) -> bool:
            """Somebody else answers there: is there another way to be tried?"""

        def alone(self, tunnel: Tunnel) -> bool:
            """Does no other tunnel stand?"""

        def useless(self, tunnel: Tunnel) -> None: ...

        def hello(self, tunnel: Tunnel) -> dict[str, object]:
            """The fields of the hello; ``addresses`` and ``labels`` are also those of status messages."""

        def changed(self, tunnel: Tunnel, reason: TinyportError | None) -> None: ...

        def said(self, tunnel: Tunnel, message: dict[str, object]) -> None: ...

        def longest_wait(self, tunnel: Tunnel) -> float | None: ...

        def until_beat(self, beat: float) -> float: ...


ALPN = "tinyport-tunnel"
PATH = "/v1/tunnel"
# docs/protocol/tunnel.md: a document of 1 MiB, escaped, and its frame.
MAX_MESSAGE = 1024 * 1024 + 64 * 1024
# From the open connection to the welcome.
GREETING_LIMIT = 45.0
BEAT_BOUNDS = (5.0, 3600.0)
# A proxy that has hung, or an other end that is only somebody's on the way: asked when nothing was heard for so many
# beats, and given up when no answer comes within this.
SILENT_BEATS = 2.5
PONG_LIMIT = 15.0
# Bytes that the other end's kernel has not confirmed for so long are lost, and the connection with them: a NAT forgot
# it, or the way out is another one now.
UNCONFIRMED_LIMIT = 30.0
FIRST_WAIT = (0.2, 1.0)
LONGEST_WAIT = 30.0
# A server's word about when to come back is not for ever.
LONGEST_SLOT = 600.0
# A tunnel that stood for so long was a good one: the next attempt starts from the beginning.
GOOD_AFTER = 60.0
# Codes of errors that only this file knows.
_DOUBLE, _RESTART = "double", "restart"
#: the code of the error when the proxy took another tunnel of this node for ours
REPLACED = "replaced"

WAITING, CONNECTING, GREETING, UP, STOPPED = "waiting", "connecting", "greeting", "up", "stopped"

#: (state, event) → state
TRANSITIONS = {
    (WAITING, "due"): CONNECTING,
    (CONNECTING, "connected"): GREETING,
    (GREETING, "welcome"): UP,
    (CONNECTING, "broken"): WAITING,
    (GREETING, "broken"): WAITING,
    (UP, "broken"): WAITING,
    (WAITING, "stop"): STOPPED,
    (CONNECTING, "stop"): STOPPED,
    (GREETING, "stop"): STOPPED,
    (UP, "stop"): STOPPED,
}


class Tunnel:
    """Order: ``start``; then it connects, greets, stands, breaks, waits and connects again until ``stop``.

    ``trust``: what it shows, and whom it believes. ``cluster``: whose proxies are believed.
    """

    def __init__(
        self,
        loop: Loop,
        owner: TunnelOwner,
        trust: Probation,
        cluster: str,
        log: Log,
    ) -> None:
        self._loop = loop
        self._owner = owner
        self._trust = trust
        self._cluster = cluster
        self._log = log
        self._state = WAITING
        #: which of its addresses it tries next, and how often it failed since it last stood well
        self.attempt = 0
        self.failures = 0
        #: how often in a row something was wrong with certificates; and whether it shows the one before today's
        self._refused = 0
        self.before = False
        #: when to come back after an outage, as the proxy said: [from, to] in seconds; and whether that was done
        self._slot: tuple[float, float] | None = None
        self._paced = False
        self._connect: Connect | None = None
        self._stream: TlsStream | None = None
        self._decoder: websocket.Decoder | None = None
        self._key = ""
        self._head = bytearray()
        self._beat = 50.0
        self._last_heard = 0.0
        self._asking = False
        self._timer: Timer | None = None
        self._said: dict[str, object] = {}
        #: UUID of the proxy that it leads or led to; the address that its connection goes to, and the one asked for
        self.proxy = ""
        self.peer: Address = ("", 0)
        self.server: Address = ("", 0)
        self.since = 0.0
        #: does TLS end before the proxy there?
        self.front = False

    @property
    def state(self) -> str:
        return self._state

    @property
    def up(self) -> bool:
        return self._state == UP

    @property
    def local(self) -> str:
        """The address of ours that the connection goes out from; "" without one."""
        return self._stream.local_address()[0] if self._stream is not None and not self.front else ""

    def _to(self, event: str) -> None:
        self._state = TRANSITIONS[self._state, event]

    def start(self, wait: float = 0.0) -> None:
        self._again(wait)

    def stop(self) -> None:
        """Say goodbye and end for good."""
        if self._state == STOPPED:
            return
        if self._stream is not None and self._decoder is not None:
            try:
                self._stream.send(websocket.encode_close(websocket.CLOSE_GOING_AWAY, "", os.urandom(4)))
            except TinyportError:
                pass
        self._clear()
        self._to("stop")

    def retry(self) -> None:
        """Connect now instead of waiting, and anew when it is up."""
        if self._state in (CONNECTING, GREETING, UP):
            self._broken(Unavailable("told to connect again"))
        if self._state == WAITING:
            self.failures = 0
            self._again(0.0)

    def send(self, message: dict[str, object]) -> None:
        """Send a message if the tunnel is up; nothing otherwise."""
        if self._state == UP:
            try:
                self._write(websocket.OP_TEXT, json.dumps(message).encode())
            except TinyportError as error:
                self._broken(error)

    def status(self) -> None:
        """Tell the proxy what changed since the last hello or status."""
        if self._state == UP:
            said = self._owner.hello(self)
            changed = _changing(said)
            if changed != self._said:
                self._said = changed
                self.send({"op": "status", **changed})

    # ------------------------------------------------------------------ connecting

    def _begin(self) -> None:
        where = self._owner.where(self)
        if where is None:
            self._owner.useless(self)
            return
        self._to("due")
        self.server = where
        self.front = self._owner.inside(where)
        self._connect = Connect(self._loop, where, self._opened, via=proxy_for(where[0]), inside=self.front)

    def _opened(self, stream: socket.socket | None, error: TinyportError | None) -> None:
        self._connect = None
        if stream is None:
            self._broken(error or Unavailable("cannot connect"))
            return
        self._to("connected")
        try:
            if stream.family == socket.AF_UNIX:
                # Inside HTTP: the connection itself is somebody else's to mind.
                self.peer = self.server
            else:
                self.peer = stream.getpeername()[:2]
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNCONFIRMED_LIMIT * 1000))
            contexts, self.before = self._trust.choose(self._refused if self._owner.alone(self) else 0)
            self._stream = TlsStream(stream, contexts(ALPN), send_limit=MAX_MESSAGE)
        except OSError as problem:
            stream.close()
            self._broken(Unavailable("the connection broke", detail=str(problem)))
            return
        self._set_timer(GREETING_LIMIT, self._too_slow)
        self._turn()

    def _too_slow(self) -> None:
        self._broken(
            Unavailable(f"the proxy at {format_address(*self.server)} accepts connections but does not answer")
        )

    def _turn(self, events: int = 0) -> None:
        stream = self._stream
        assert stream is not None
        was = stream.established
        try:
            data = stream.turn()
            if stream.established and not was:
                self._ask()
            if data:
                self._received(data)
            if self._stream is stream and stream.ended:
                raise Unavailable("the proxy closed the tunnel")
        except TinyportError as error:
            self._broken(error)
        if self._stream is stream:
            self._loop.add(stream.fileno(), stream.wants(), self._turn)

    def _ask(self) -> None:
        """The server has shown its certificate: is it a proxy of ours?"""
        assert self._stream is not None
        found = self._stream.identity()
        if found.kind != "proxy" or found.cluster != self._cluster or self._stream.alpn != ALPN:
            raise PeerError(
                f"{format_address(*self.server)} is not a proxy of cluster {self._cluster}",
                detail=f"it is {found.uri}, protocol {self._stream.alpn}",
            )
        if not self._owner.met(self, found.id):
            raise Unavailable("another tunnel leads to this proxy", code=_DOUBLE)
        self.proxy = found.id
        self._key = websocket.make_key(os.urandom(16))
        self._head = bytearray()
        self._stream.send(websocket.client_handshake(PATH, format_address(*self.server), self._key))

    def _received(self, data: bytes) -> None:
        self._last_heard = time.monotonic()
        if self._asking:
            self._asking = False
            self._rest()
        if self._decoder is None:
            self._head += data
            head = parse_head(self._head)
            if head is None:
                return
            websocket.check_response(head, self._key)
            self._decoder = websocket.Decoder("client", MAX_MESSAGE)
            self._head = bytearray()
            said = self._owner.hello(self)
            self._said = _changing(said)
            self._write(websocket.OP_TEXT, json.dumps({"op": "hello", **said}).encode())
            data = head.rest
        stream = self._stream
        for opcode, payload in self._decoder.feed(data):
            self._message(opcode, payload)
            if self._stream is not stream:
                # What the message brought about ended this tunnel.
                return

    # ------------------------------------------------------------------ standing

    def _write(self, opcode: int, payload: bytes = b"") -> None:
        stream = self._stream
        assert stream is not None
        stream.send(websocket.encode(opcode, payload, os.urandom(4)))
        self._loop.add(stream.fileno(), stream.wants(), self._turn)

    def _message(self, opcode: int, payload: bytes) -> None:
        if opcode == websocket.OP_PING:
            self._write(websocket.OP_PONG, payload)
        elif opcode == websocket.OP_CLOSE:
            code, reason = websocket.close_reason(payload)
            raise Unavailable(
                "the proxy closed the tunnel",
                detail=f"{code} {printable(reason, 120)}".strip(),
                code={websocket.CLOSE_RESTART: _RESTART, websocket.CLOSE_GOING_AWAY: REPLACED}.get(code, ""),
            )
        elif opcode == websocket.OP_TEXT:
            self._text(payload)
        elif opcode != websocket.OP_PONG:
            raise PeerError("the proxy sent a binary message")

    def _text(self, payload: bytes) -> None:
        try:
            message = json.loads(payload)
        except (ValueError, RecursionError):
            raise PeerError("the proxy sent something that is not JSON") from None
        if not isinstance(message, dict):
            raise PeerError("the proxy sent something that is not an object")
        if self._state == GREETING:
            self._welcome(message)
        elif message.get("op") == "beat":
            self._take_beat(message.get("beat"))
            # At once, so that the proxy need not wait for one of the old ones.
            self._write(websocket.OP_PONG)
            self._rest()
        else:
            self._owner.said(self, message)

    def _welcome(self, message: dict[str, object]) -> None:
        if message.get("op") != "welcome":
            raise PeerError("the proxy did not say welcome")
        self._take_beat(message.get("beat"))
        proxy = message.get("proxy")
        if not isinstance(proxy, str) or not is_uuid(proxy) or proxy != self.proxy:
            raise PeerError("the proxy's welcome names another proxy than its certificate")
        self._slot = _slot(message.get("return"))
        self._paced = False
        self._to("welcome")
        self.since = time.time()
        self._asking = False
        self._rest()
        if self.before:
            self._log.warning(
                "the tunnel stands with certificate and CAs of before the last renewal: the proxy has not followed",
                server=format_address(*self.server),
            )
        else:
            self._refused = 0
            self._trust.passed()
        self._log.info("tunnel up", server=format_address(*self.server), proxy=self.proxy)
        self._owner.changed(self, None)

    def _take_beat(self, beat: object) -> None:
        if not isinstance(beat, (int, float)) or isinstance(beat, bool):
            raise PeerError("the proxy did not say how often to beat")
        self._beat = min(max(float(beat), BEAT_BOUNDS[0]), BEAT_BOUNDS[1])

    def _rest(self) -> None:
        self._set_timer(self._owner.until_beat(self._beat), self._pulse)

    def _pulse(self) -> None:
        """Once a beat: an unsolicited Pong (RFC 6455 section 5.5.3), or a Ping when the other end has been silent."""
        silent = time.monotonic() - self._last_heard
        try:
            if silent < SILENT_BEATS * self._beat:
                self._write(websocket.OP_PONG)
                self._rest()
            else:
                self._write(websocket.OP_PING)
                # Its answer puts the next beat in the place of this timer.
                self._asking = True
                self._set_timer(min(PONG_LIMIT, self._beat), self._unanswered)
        except TinyportError as error:
            self._broken(error)

    def _unanswered(self) -> None:
        self._broken(Unavailable("the proxy does not answer any more"))

    # ------------------------------------------------------------------ ends

    def _broken(self, error: TinyportError) -> None:
        was_up = self._state == UP
        unknown = self._decoder is None
        stood = time.time() - self.since if was_up else 0.0
        if was_up and self.before:
            # Today's first, and at its first refusal back.
            self._refused = PATIENCE - 1
        elif isinstance(error, PeerError) and unknown:
            self._refused += 1
        self._clear()
        self._to("broken")
        if error.code == _DOUBLE:
            # Nothing is wrong; perhaps there is another address for it.
            self._again(spread(*FIRST_WAIT))
            return
        if (
            isinstance(error, PeerError)
            and error.code != "expired"
            and unknown
            and self._owner.is_no_proxy(self.server)
        ):
            # Only once it is no proxy in the other way either, something may be wrong with certificates.
            error = PeerError(error.message, detail=error.detail)
            self.attempt -= 1
        if stood >= GOOD_AFTER:
            self.failures = 0
        elif not was_up:
            self.attempt += 1
        wait = self._next_wait(was_up, error.code)
        # The first failure and every change of state are worth a line; a night without network is not.
        say = self._log.warning if was_up or self.failures <= 3 else self._log.debug
        say("tunnel down", server=format_address(*self.server), reason=error, next_try=f"{wait:.1f}s")
        self._again(wait)
        self._owner.changed(self, error)

    def _next_wait(self, was_up: bool, code: str) -> float:
        """docs/protocol/tunnel.md, "Coming back": soon after a loss, once more in the slot that the proxy has given,
        then with full jitter up to twice as long each time.
        """
        least, most = FIRST_WAIT
        self.failures = min(self.failures + 1, 64)
        if self._slot is not None and not self._paced and (not was_up or code == _RESTART):
            self._paced = True
            return spread(*self._slot)
        if code == BUSY and self._slot is None:
            # The proxy has no time even for our first words, and has not said when it will.
            return spread(least, LONGEST_WAIT)
        longest = self._owner.longest_wait(self)
        if longest is None:
            longest = LONGEST_WAIT if self._slot is None else max(LONGEST_WAIT, self._slot[1])
        return spread(least, min(most * 2.0 ** min(self.failures - 1, 16), longest))

    def _again(self, wait: float) -> None:
        self._set_timer(wait, self._begin)

    def _set_timer(self, seconds: float, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.after(seconds, call)

    def _clear(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connect is not None:
            self._connect.cancel()
            self._connect = None
        if self._stream is not None:
            self._loop.remove(self._stream.fileno())
            self._stream.close()
            self._stream = None
        self._decoder = None
        self._head = bytearray()
        self._asking = False


def _changing(said: dict[str, object]) -> dict[str, object]:
    """What of a hello is said again when it changes."""
    return {name: said[name] for name in ("addresses", "labels", "skew") if name in said}


def _slot(value: object) -> tuple[float, float] | None:
    """``return`` of a welcome: [from, to]."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    if not all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in value):
        return None
    start, end = (min(max(float(number), 0.0), LONGEST_SLOT) for number in value)
    return (start, end) if start <= end else None
