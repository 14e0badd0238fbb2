"""Link's requests to auth: audit events, the time, the policy when the tunnel cannot bring it. Light: link loads it.

HTTP/1.1 over TLS that ends at auth (ALPN ``tinyport-auth``, which a proxy joins to auth), one request at a time, on a
connection that is opened when there is something to say and closed after a minute's rest.
"""

from __future__ import annotations

import json

from tinyport.core.errors import PeerError, TinyportError, Unavailable
from tinyport.core.names import format_address, printable
from tinyport.link.http_proxy import proxy_for
from tinyport.link.httphead import Head, parse_head
from tinyport.link.tlsstream import TlsStream
from tinyport.node.generations import MAX_KEPT
from tinyport.node.link.connect import Connect
from tinyport.node.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from tinyport.host.logging_line import Log
    from tinyport.node.link.spool import Spool
    from tinyport.node.loop import Timer

    Address = tuple[str, int]
    Answer = Callable[["dict[str, object] | None", "TinyportError | None"], None]

ALPN = "tinyport-auth"
# A policy of 1 MiB, escaped once more.
MAX_ANSWER = 2 * 1024 * 1024
MAX_REQUEST = 512 * 1024
MAX_QUEUED = 8
ANSWER_LIMIT = 20.0
KEEP_ALIVE = 60.0
# What happens together travels together; and an administrator who looks on sees it at once.
SOON = 0.2
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 300.0


_JSON = "Content-Type: application/json\r\n"
_BYTES = "Content-Type: application/octet-stream\r\n"
_PACKED = f"{_BYTES}Content-Encoding: deflate\r\n"


class _Request:
    __slots__ = ("answer", "body", "content", "method", "path")

    def __init__(self, method: str, path: str, body: bytes | None, answer: Answer, content: str = _JSON) -> None:
        self.method = method
        self.path = path
        self.body = body
        self.answer = answer
        #: the header lines about the body
        self.content = content

    def wire(self) -> bytes:
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: auth\r\nAccept: application/json\r\n"
        if self.body is not None:
            head += f"{self.content}Content-Length: {len(self.body)}\r\n"
        return f"{head}\r\n".encode("ascii") + (self.body or b"")


class AuthLine:
    """Requests to auth, answered in order. ``where`` gives the address to connect to, ``contexts`` an SSL context set
    to a protocol, ``cluster`` whose auth is believed, ``inside`` whether TLS ends before the proxy at an address.
    """

    def __init__(
        self,
        loop: Loop,
        where: Callable[[], Address],
        contexts: Callable[[str], ssl.SSLContext],
        cluster: str,
        log: Log,
        inside: Callable[[Address], bool] = lambda address: False,
    ) -> None:
        self._loop = loop
        self._where = where
        self._inside = inside
        self._contexts = contexts
        self._cluster = cluster
        self._log = log
        self._queue: list[_Request] = []
        self._current: _Request | None = None
        self._connect: Connect | None = None
        self._stream: TlsStream | None = None
        self._checked = False
        self._fresh = True
        self._body = _Body()
        self._timer: Timer | None = None

    def request(self, method: str, path: str, body: dict[str, object] | None, answer: Answer) -> None:
        """Ask; ``answer(object, None)`` or ``answer(None, error)`` is called later, once. The error's ``code`` is the
        API's.
        """
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        self._add(_Request(method, path, data, answer))

    def upload(self, path: str, data: bytes, packed: bool, answer: Answer) -> None:
        """The same with bytes, which may be ``packed`` (deflate)."""
        self._add(_Request("POST", path, data, answer, _PACKED if packed else _BYTES))

    def _add(self, request: _Request) -> None:
        if len(self._queue) >= MAX_QUEUED or len(request.body or b"") > MAX_REQUEST:
            error = Unavailable("too much waits for auth already")
            self._loop.after(0, lambda: request.answer(None, error))
            return
        self._queue.append(request)
        self._next()

    def close(self) -> None:
        self._queue = []
        self._current = None
        self._drop()

    def _next(self) -> None:
        if self._current is not None or not self._queue:
            return
        self._current = self._queue.pop(0)
        self._body = _Body()
        self._set_timer(ANSWER_LIMIT, lambda: self._failed(Unavailable("auth does not answer")))
        if self._stream is not None:
            self._fresh = False
            self._say()
        else:
            self._dial()

    def _dial(self) -> None:
        self._fresh = True
        self._checked = False
        address = self._where()
        inside = self._inside(address)
        self._connect = Connect(self._loop, address, self._opened, via=proxy_for(address[0]), inside=inside)

    def _opened(self, stream: socket.socket | None, error: TinyportError | None) -> None:
        self._connect = None
        if stream is None:
            self._failed(error or Unavailable("cannot connect"))
            return
        try:
            self._stream = TlsStream(stream, self._contexts(ALPN), send_limit=2 * MAX_REQUEST)
        except OSError as problem:
            stream.close()
            self._failed(Unavailable("the connection broke", detail=str(problem)))
            return
        self._turn()

    def _say(self) -> None:
        assert self._stream is not None
        assert self._current is not None
        try:
            self._stream.send(self._current.wire())
        except TinyportError as error:
            self._lost(error)
            return
        self._loop.add(self._stream.fileno(), self._stream.wants(), self._turn)

    def _turn(self, events: int = 0) -> None:
        stream = self._stream
        assert stream is not None
        try:
            data = stream.turn()
            if stream.established and not self._checked:
                self._check(stream)
                self._say()
            if data:
                self._received(data)
            if self._stream is stream and stream.ended:
                raise Unavailable("auth closed the connection")
        except TinyportError as error:
            if self._stream is stream:
                self._lost(error)
        if self._stream is stream:
            self._loop.add(stream.fileno(), stream.wants(), self._turn)

    def _check(self, stream: TlsStream) -> None:
        found = stream.identity()
        if found.kind != "auth" or found.cluster != self._cluster:
            raise PeerError(
                f"{format_address(*stream.peer_address())} is not auth of cluster {self._cluster}",
                detail=f"it is {found.uri}",
            )
        self._checked = True

    def _received(self, data: bytes) -> None:
        if self._current is None:
            raise PeerError("auth answered what was not asked")
        if self._body.feed(data):
            request, self._current = self._current, None
            body = self._body
            if body.last:
                self._drop()
            else:
                self._set_timer(KEEP_ALIVE, self._drop)
            self._deliver(request, body)
            self._next()

    def _deliver(self, request: _Request, body: _Body) -> None:
        try:
            found = json.loads(body.data) if body.data else {}
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            request.answer(None, PeerError("auth answered something that is not JSON"))
        elif body.status >= 300:
            request.answer(None, _refusal(body.status, found))
        else:
            request.answer(found, None)

    def _lost(self, error: TinyportError) -> None:
        """The connection ended. A request on one that had rested is asked again on a fresh one."""
        self._drop()
        if self._current is None:
            return
        if not self._fresh and not self._body.started:
            self._set_timer(ANSWER_LIMIT, lambda: self._failed(Unavailable("auth does not answer")))
            self._dial()
        else:
            self._failed(error)

    def _failed(self, error: TinyportError) -> None:
        self._drop()
        request, self._current = self._current, None
        if request is not None:
            request.answer(None, error)
        self._next()

    def _set_timer(self, seconds: float, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.after(seconds, call)

    def _drop(self) -> None:
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


def _object(line: bytes) -> dict[str, object] | None:
    """A line of JSON as an object; None when it is none: a crash in the middle of a write."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class _Body:
    """An answer being read: head, then as many bytes as it says (RFC 9112 section 6). Chunked answers are for what has
    no length; auth knows the length of all that we ask for.
    """

    __slots__ = ("_head", "_held", "_length")

    def __init__(self) -> None:
        self._held = bytearray()
        self._head: Head | None = None
        self._length = 0

    def feed(self, data: bytes) -> bool:
        """True when the answer is complete. PeerError when it is malformed or too large."""
        self._held += data
        while self._head is None:
            head = parse_head(self._held)
            if head is None:
                return False
            self._held = bytearray(head.rest)
            # RFC 9110 section 15.2: any number of 1xx answers come before the real one.
            if not 100 <= head.status() < 200:
                self._head = head
                self._length = self._expected(head)
        if len(self._held) > self._length:
            raise PeerError("auth answered more than it announced")
        return len(self._held) == self._length

    @staticmethod
    def _expected(head: Head) -> int:
        length = head.length()
        if "transfer-encoding" in head.fields or (length is None and head.status() != 204):
            raise PeerError("auth's answer has no length")
        if (length or 0) > MAX_ANSWER:
            raise PeerError(f"auth answered more than {MAX_ANSWER} bytes")
        return length or 0

    @property
    def started(self) -> bool:
        return self._head is not None or bool(self._held)

    @property
    def status(self) -> int:
        assert self._head is not None
        return self._head.status()

    @property
    def last(self) -> bool:
        """The server will close the connection."""
        return self._head is None or "close" in self._head.words("connection")

    @property
    def data(self) -> bytes:
        return bytes(self._held)


def _refusal(status: int, found: dict[str, object]) -> TinyportError:
    fields = found.get("error")
    fields = fields if isinstance(fields, dict) else {}
    message = printable(str(fields.get("message") or f"auth answered with status {status}"), 300)
    kind = Unavailable if status >= 500 or status == 429 else PeerError
    error = kind(message, code=printable(str(fields.get("code") or ""), 60))
    error.extra["offset"] = fields.get("offset")
    return error


class EventSender:
    """Sends the spool's batches, one at a time, with growing pauses while auth is away."""

    def __init__(self, loop: Loop, line: AuthLine, spool: Spool, log: Log) -> None:
        self._loop = loop
        self._line = line
        self._spool = spool
        self._log = log
        self._timer: Timer | None = None
        self._busy = False
        self._pause = SOON

    def add(self, event: dict[str, object]) -> None:
        self._spool.add(event)
        self.soon()

    def take(self, descriptor: int) -> None:
        """Keep the events of a file that a keeper has left, a line for each. The descriptor is taken over."""
        with open(descriptor, "rb") as file:
            for line in file.read(MAX_KEPT).split(b"\n"):
                event = _object(line)
                if event is not None:
                    self.add(event)

    def soon(self) -> None:
        """Send in a moment, so that what happens together travels together."""
        if not self._busy and self._timer is None and self._spool:
            self._timer = self._loop.after(self._pause, self._send)

    def hurry(self) -> None:
        """Auth can be reached again: do not wait for the end of a long pause."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pause = SOON
        self.soon()

    def _send(self) -> None:
        self._timer = None
        found = self._spool.next_batch()
        if found is None:
            return
        batch, events = found
        self._busy = True
        body: dict[str, object] = {"batch": batch, "events": events}
        self._line.request("POST", "/v1/events", body, lambda answer, error: self._answered(batch, error))

    def _answered(self, batch: str, error: TinyportError | None) -> None:
        self._busy = False
        if error is None:
            self._spool.forget(batch)
            self._pause = SOON
        elif isinstance(error, PeerError) and error.code in ("bad_request", "too_large"):
            # It would be refused for ever, and hold up all that follows.
            self._log.error("auth refused audit events; they are dropped", batch=batch, reason=error)
            self._spool.forget(batch)
        else:
            self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
            self._log.debug("audit events wait", reason=error, next_try=f"{self._pause:.0f}s")
        self.soon()
