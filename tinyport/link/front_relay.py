"""The way to a proxy behind a load balancer that ends TLS: a relay of callbacks (tunnel.md, "Inside HTTP").

The outer TLS is believed to be anybody's: it gets us past the balancer and protects nothing. What counts is the TLS
that is spoken inside, through the socket that ``done`` is given. Light: link loads it.
"""

from __future__ import annotations

import os
import socket

from tinyport.core.errors import PeerError, TinyportError, Unavailable
from tinyport.core.names import format_address
from tinyport.host.tls import unverified_context
from tinyport.link import websocket
from tinyport.link.httphead import parse_head
from tinyport.link.inside_http import MAX_FRAME, PATH, PIECE, server_name
from tinyport.link.tlsstream import READ, WRITE, TlsStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Waiting(Protocol):
        """A loop, as far as a relay needs one."""

        def add(self, source: int, events: int, call: Callable[[int], None]) -> None: ...

        def remove(self, source: int) -> None: ...

    Address = tuple[str, int]
    Done = Callable[[socket.socket | None, TinyportError | None], None]

# What may wait in either direction before the other one is not read any more.
HIGH = 128 * 1024


class Front:
    """Takes over a connected socket. ``done(socket, None)`` or ``done(None, error)`` is called once, unless cancelled;
    from then on it relays until either end is gone.
    """

    def __init__(self, loop: Waiting, plain: socket.socket, address: Address, done: Done) -> None:
        self._loop = loop
        self._address = address
        self._done: Done | None = done
        self._key = websocket.make_key(os.urandom(16))
        self._decoder: websocket.Decoder | None = None
        self._held = bytearray()
        self._near: socket.socket | None = None
        #: bytes for the near end that it has not taken yet
        self._inward = bytearray()
        context = unverified_context(alpn=["http/1.1"])
        self._outer: TlsStream | None = TlsStream(
            plain, context, send_limit=4 * HIGH, server_hostname=server_name(address[0])
        )
        self._turn()

    def cancel(self) -> None:
        """Stop; ``done`` is not called any more."""
        self._done = None
        self._close()

    # ------------------------------------------------------------------ outer

    def _turn(self, events: int = 0) -> None:
        outer = self._outer
        assert outer is not None
        was = outer.established
        try:
            # What comes in waits while the near end takes nothing; what goes out does not wait for that.
            data = outer.turn() if len(self._inward) < HIGH else outer.flush()
            if outer.established and not was:
                outer.send(websocket.client_handshake(PATH, format_address(*self._address), self._key))
            if data:
                self._received(data)
            if outer.ended:
                raise Unavailable(f"{format_address(*self._address)} closed the connection")
        except TinyportError as error:
            self._fail(error)
            return
        self._watch()

    def _received(self, data: bytes) -> None:
        if self._decoder is None:
            self._held += data
            head = parse_head(self._held)
            if head is None:
                return
            websocket.check_response(head, self._key)
            self._decoder = websocket.Decoder("client", MAX_FRAME)
            self._held = bytearray()
            data = head.rest
            self._open()
        for opcode, payload in self._decoder.feed(data):
            if opcode == websocket.OP_BINARY:
                self._inward += payload
            elif opcode == websocket.OP_PING:
                self._say(websocket.OP_PONG, payload)
            elif opcode == websocket.OP_CLOSE:
                raise Unavailable("the proxy closed the connection")
            elif opcode != websocket.OP_PONG:
                raise PeerError("only binary messages have a meaning here")
        self._flush()

    def _open(self) -> None:
        self._near, far = socket.socketpair()
        self._near.setblocking(False)
        far.setblocking(False)
        done, self._done = self._done, None
        if done is None:
            far.close()
        else:
            done(far, None)

    def _say(self, opcode: int, payload: bytes = b"") -> None:
        assert self._outer is not None
        self._outer.send(websocket.encode(opcode, payload, os.urandom(4)))

    # ------------------------------------------------------------------ near

    def _ready(self, events: int) -> None:
        near, outer = self._near, self._outer
        assert near is not None
        assert outer is not None
        try:
            if events & WRITE:
                self._flush()
                # TLS may hold what was not asked for while this end was full; no selector tells.
                self._turn()
            if events & READ and self._near is not None and outer.waiting < HIGH:
                data = near.recv(PIECE)
                if not data:
                    self._say(websocket.OP_CLOSE)
                    self._close()
                    return
                self._say(websocket.OP_BINARY, data)
        except BlockingIOError:
            pass
        except (TinyportError, OSError):
            self._close()
            return
        self._watch()

    def _flush(self) -> None:
        near = self._near
        if near is None:
            return
        try:
            while self._inward:
                del self._inward[: near.send(self._inward[:PIECE])]
        except BlockingIOError:
            return
        except OSError as error:
            raise Unavailable("nobody reads any more", detail=str(error)) from None

    # ------------------------------------------------------------------ both

    def _watch(self) -> None:
        outer, near = self._outer, self._near
        if outer is None:
            return
        wants = outer.wants()
        if len(self._inward) >= HIGH:
            wants &= ~READ
        if wants:
            self._loop.add(outer.fileno(), wants, self._turn)
        else:
            self._loop.remove(outer.fileno())
        if near is not None:
            events = (WRITE if self._inward else 0) | (READ if outer.waiting < HIGH else 0)
            if events:
                self._loop.add(near.fileno(), events, self._ready)
            else:
                self._loop.remove(near.fileno())

    def _fail(self, error: TinyportError) -> None:
        done, self._done = self._done, None
        self._close()
        if done is not None:
            done(None, error)

    def _close(self) -> None:
        outer, self._outer = self._outer, None
        near, self._near = self._near, None
        if outer is not None:
            self._loop.remove(outer.fileno())
            outer.close()
        if near is not None:
            self._loop.remove(near.fileno())
            near.close()
