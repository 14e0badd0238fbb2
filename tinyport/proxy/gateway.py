"""The public port.

Who is it, by the first bytes, and to whom does the connection go (docs/protocol/tunnel.md).

Nothing is read from a socket before its owner is chosen: the first bytes are peeked at, and stay for whoever
speaks TLS or SSH with the client. Strangers are counted, in all and by source; whoever has proved who they
are is not one any more.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tinyport.core.errors import PeerError, TinyportError, Unavailable
from tinyport.core.identity import Identity, from_peer_certificate
from tinyport.core.names import format_address
from tinyport.host.logging_line import Log
from tinyport.link import websocket as ws
from tinyport.link.clienthello import ClientHello
from tinyport.link.httphead import MAX_HEAD, Head
from tinyport.link.inside_http import PATH
from tinyport.proxy import front
from tinyport.proxy.balancers import SAY_AGAIN, Balancers
from tinyport.proxy.credentials import ALPN_AUTH, ALPN_CLUSTER, ALPN_DIAL, ALPN_TUNNEL, Credentials
from tinyport.proxy.dial import TICKET_LINE, Dials
from tinyport.proxy.pacing import Gate
from tinyport.proxy.peek import PEEK_LIMIT, first_words
from tinyport.proxy.settings import ProxySettings
from tinyport.proxy.sockets import connect, has_left, tune
from tinyport.proxy.splice import Splice
from tinyport.proxy.strangers import Stranger, Strangers
from tinyport.proxy.stream import Stream

# docs/protocol/tunnel.md. Links with round trips of five seconds and more are in use, and such that lose every third
# packet; the room that strangers have is what bounds those who say nothing.
HANDSHAKE_LIMIT = 20.0
TICKET_LIMIT = 15.0
AUTH_CONNECT_LIMIT = 2.0
# auth closes idle connections itself, much earlier, but for a follower of a quiet audit log.
AUTH_IDLE = 2 * 3600.0

# Accepted in one turn of the event loop, so that a storm does not stop everybody else.
_ACCEPTS_PER_TURN = 64
_NO_FILES_PAUSE = 0.5

# RFC 8446 section 6: a fatal internal_error alert, in the clear as before any handshake. The client at least
# learns that it was understood and that the fault is on this side.
_TLS_ALERT_INTERNAL = b"\x15\x03\x03\x00\x02\x02\x50"

Peer = tuple[str, int]
Route = Callable[[socket.socket, Peer, Stranger], Awaitable[None]]
#: serves a connection whose HTTP head asks for one to us in it, until it ends
Inside = Callable[[Stream, Head], Awaitable[None]]


def peer_identity(tls: ssl.SSLSocket, kind: str, cluster: str, now: float) -> Identity:
    """Who a TLS client is.

    By its verified certificate. PeerError unless it is a ``kind`` of ``cluster``, now.

    The cluster's contexts judge no time (host.tls); this does.
    """
    peercert = tls.getpeercert()
    identity = from_peer_certificate(peercert)
    if identity.kind != kind or identity.cluster != cluster:
        raise PeerError(f"the certificate is not a {kind}'s of {cluster}", detail=identity.uri)
    if not isinstance(peercert, dict) or not _in_life(peercert, now):
        raise PeerError("the certificate has expired", detail=identity.uri, code="expired")
    return identity


async def _no_deeper(stream: Stream, head: Head) -> None:
    raise PeerError("inside of one connection there is one, and no other in that")


def _began(tls: ssl.SSLSocket) -> float:
    """When the client's certificate began, Unix seconds."""
    peercert = tls.getpeercert()
    return ssl.cert_time_to_seconds(str(peercert["notBefore"])) if peercert else 0.0


def _in_life(peercert: object, now: float) -> bool:
    if not isinstance(peercert, dict):
        return False
    after, before = str(peercert["notBefore"]), str(peercert["notAfter"])
    return ssl.cert_time_to_seconds(after) <= now < ssl.cert_time_to_seconds(before)


#: protocol of ours → what its connections are called
_KINDS = {ALPN_AUTH: "auth", ALPN_DIAL: "dial", ALPN_TUNNEL: "tunnel", ALPN_CLUSTER: "cluster"}


class Gateway:
    """Accepts, classifies, hands over. ``run`` lasts until cancelled and ends every connection with it."""

    def __init__(
        self,
        settings: ProxySettings,
        balancers: Balancers,
        credentials: Credentials,
        dials: Dials,
        log: Log,
        *,
        introduce: Callable[[Peer], bytes],
        tunnel: Callable[[Stream, str, float], Awaitable[None]],
        cluster: Callable[[Stream, bytes, Callable[[], None]], Awaitable[None]],
        tsh: Callable[[Stream, Identity], Awaitable[None]],
        ssh: Callable[[socket.socket, Peer, Stranger], Awaitable[None]],
        web: Callable[[socket.socket, Peer, Inside], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._balancers = balancers
        self._credentials = credentials
        self._dials = dials
        self._log = log
        self._introduce = introduce
        self._tunnel = tunnel
        self._cluster = cluster
        self._tsh = tsh
        self._ssh = ssh
        self._web = web
        self.gate = Gate()
        self.strangers = Strangers(settings.max_strangers, settings.max_strangers_per_source)
        #: what connections turned out to be → how many so far
        self.met: Counter[str] = Counter()
        self._connections: set[asyncio.Task[None]] = set()
        self._said_full = 0.0

    @property
    def open_count(self) -> int:
        return len(self._connections)

    # ------------------------------------------------------------------ accepting

    async def run(self, listeners: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for listener in listeners:
            loop.add_reader(listener, self._accept, listener)
        try:
            await loop.create_future()
        finally:
            for listener in listeners:
                loop.remove_reader(listener)
                listener.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                self._log.error("no more connections can be accepted", reason=error)
                loop.remove_reader(listener)
                loop.call_later(_NO_FILES_PAUSE, self._accept_again, listener)
                return
            peer = (str(address[0]), int(address[1]))
            if self._balancers.announce(peer[0]):
                if not self._is_full(sock, peer):
                    self._begin(sock, self._announced(sock, peer))
            else:
                self._admit(sock, peer, peer[0], self._route)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def adopt(self, sock: ssl.SSLSocket, peer: Peer, source: str) -> None:
        """Serve an SSH client that comes through a tunnel of ours to another cluster. ``peer``: where that cluster's
        proxy says that it comes from; ``source``: with whom it is counted until it has said who it is."""
        self.met["ssh"] += 1
        self._admit(sock, peer, source, self._route_ssh)

    def _admit(self, sock: socket.socket, peer: Peer, source: str, route: Route) -> None:
        if self._is_full(sock, peer):
            return
        turned_away = self.strangers.turned_away
        task: asyncio.Task[None]
        stranger = self.strangers.enter(source, lambda: task.cancel())
        task = self._begin(sock, self._connection(sock, peer, stranger, route))
        if self.strangers.turned_away != turned_away:
            self._say_full(peer)

    def _is_full(self, sock: socket.socket, peer: Peer) -> bool:
        """Are there too many connections for one more? It is closed then."""
        full = len(self._connections) >= self._settings.max_connections
        if full:
            sock.close()
            self._say_full(peer)
        return full

    def _begin(self, sock: socket.socket, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # One that is cancelled before it began does not do it itself.
        task.add_done_callback(lambda _: sock.close())
        return task

    def _say_full(self, peer: Peer) -> None:
        now = time.monotonic()
        if now - self._said_full > SAY_AGAIN:
            # Once in a while, not once for each: a flood must not fill the log.
            self._said_full = now
            self._log.warning(
                "too many connections: some are turned away", latest=peer[0], strangers=len(self.strangers)
            )

    # ------------------------------------------------------------------ behind a balancer

    async def _announced(self, sock: socket.socket, peer: Peer) -> None:
        """Serve a connection that a balancer passes on and says whose it is: as that client's, in everything.

        It counts with the strangers from here on, by its own source: before, it waits for the balancer alone.
        """
        client = await self._balancers.client(sock, peer)
        if client is not None:
            self._admit(socket.socket(fileno=sock.detach()), client, client[0], self._route)

    # ------------------------------------------------------------------ one connection

    async def _connection(self, sock: socket.socket, peer: Peer, stranger: Stranger, route: Route) -> None:
        try:
            sock.setblocking(False)
            tune(sock)
            await route(sock, peer, stranger)
        except (PeerError, asyncio.TimeoutError) as error:
            self._log.debug("connection refused", peer=format_address(*peer), reason=error or "time is up")
        except OSError as error:
            self._log.debug("connection broke", peer=format_address(*peer), reason=error)
        except TinyportError as error:
            self._log.warning("connection failed", peer=format_address(*peer), reason=error)
        except Exception as error:
            # A fault of ours in one connection is not the others' fault.
            self._log.error("connection failed", peer=format_address(*peer), error=repr(error))
        finally:
            stranger.settle()
            sock.close()

    async def _route(self, sock: socket.socket, peer: Peer, stranger: Stranger) -> None:
        try:
            hello = await first_words(sock, self._dials.settled)
        except PeerError as error:
            if error.code == "proxy_header":
                self._balancers.say(peer, error)
            raise
        if hello is None:
            self.met["ssh"] += 1
            await self._route_ssh(sock, peer, stranger)
        elif isinstance(hello, bytes):
            await self._route_http(Stream(asyncio.get_running_loop(), sock, peer), stranger, hello)
        else:
            await self._route_tls(sock, peer, stranger, hello, self._inside)

    async def _route_http(self, stream: Stream, stranger: Stranger, answer: bytes) -> None:
        """HTTP in clear: a load balancer's, with a connection of somebody's in it, or somebody who is wrong here."""
        try:
            data = await asyncio.wait_for(stream.receive_until(b"\r\n\r\n", MAX_HEAD), PEEK_LIMIT)
            head = None if data is None else front.wanted(data)
        except PeerError:
            head = None
        if head is None:
            self.met["other"] += 1
            stream.offer(answer)
            await stream.close()
            return
        # What comes inside is a stranger of its own.
        stranger.settle()
        await self._inside(stream, head)

    async def _inside(self, stream: Stream, head: Head) -> None:
        """A connection to us inside of one whose HTTP head asks for that. It counts as the client's who sent it, where
        a balancer of ours says who that is."""
        self.met["front"] += 1
        stream.offer(ws.server_handshake(ws.check_request(head, PATH)))
        client = self._balancers.forwarded(stream.peer, head.fields.get)
        ours, theirs = socket.socketpair()
        self._admit(theirs, client, client[0], self._route_inside)
        await front.Front(stream, ours).run()

    async def _route_inside(self, sock: socket.socket, peer: Peer, stranger: Stranger) -> None:
        """TLS alone: one inside another would be a way to have any number of connections for the price of one."""
        hello = await first_words(sock, self._dials.settled)
        if not isinstance(hello, ClientHello):
            raise PeerError("not TLS, inside HTTP")
        await self._route_tls(sock, peer, stranger, hello, _no_deeper)

    async def _route_ssh(self, sock: socket.socket, peer: Peer, stranger: Stranger) -> None:
        await stranger.place()
        if has_left(sock):
            raise PeerError("left before its turn came")
        await self._ssh(sock, peer, stranger)

    async def _route_tls(
        self, sock: socket.socket, peer: Peer, stranger: Stranger, hello: ClientHello, inside: Inside
    ) -> None:
        contexts = self._credentials.contexts
        # The client's order decides when it offers several of ours; the context negotiates exactly this one
        # again.
        alpn = next((name for name in hello.alpn if name == ALPN_AUTH or name in contexts), None)
        self.met["web" if alpn is None else _KINDS.get(alpn, "tsh")] += 1
        if alpn is None:
            stranger.settle()
            await self._web(sock, peer, inside)
            return
        stream = Stream(asyncio.get_running_loop(), sock, peer)
        given = False
        try:
            if alpn == ALPN_AUTH:
                await self._join_auth(stream)
                return
            if alpn == ALPN_TUNNEL:
                await self._route_tunnel(stream, sock, stranger)
                return
            digest = self._credentials.tls_digest
            tls = await self._secure(stream, alpn)
            if alpn == ALPN_DIAL:
                given = await self._dialled(stream)
                return
            if alpn == ALPN_CLUSTER:
                await self._cluster(stream, digest, stranger.settle)
                return
            identity = peer_identity(tls, "user", self._credentials.cluster, time.time())
            stranger.settle()
            await self._tsh(stream, identity)
        finally:
            if not given:
                stream.abort()

    async def _secure(self, stream: Stream, alpn: str) -> ssl.SSLSocket:
        tls = await asyncio.wait_for(stream.secure(self._credentials.contexts[alpn]), HANDSHAKE_LIMIT)
        if tls.selected_alpn_protocol() != alpn:
            raise PeerError("TLS settled on another protocol than was asked for")
        return tls

    async def _route_tunnel(self, stream: Stream, sock: socket.socket, stranger: Stranger) -> None:
        """Nodes come one after the other, at a rate that leaves time for people; those who would wait for long are told
        so by an alert, before any handshake, and come back in a slot of their own.

        Who has a turn is not known to be a node before the handshake. It counts by where it comes from, and one that
        showed nothing counts more: so nobody else's turns are theirs to have.
        """
        address = stream.peer[0]
        try:
            await self.gate.turn(address, lambda: has_left(sock))
        except Unavailable:
            stream.offer(_TLS_ALERT_INTERNAL)
            await stream.close()
            return
        proved = False
        try:
            tls = await self._secure(stream, ALPN_TUNNEL)
            identity = peer_identity(tls, "node", self._credentials.cluster, time.time())
            proved = True
        finally:
            (self.gate.proved if proved else self.gate.failed)(address)
        stranger.settle()
        await self._tunnel(stream, identity.id, _began(tls))

    async def _join_auth(self, stream: Stream) -> None:
        """Join bytes with auth. The TLS inside ends there, and is none of our business."""
        loop = asyncio.get_running_loop()
        host, port = self._settings.auth_address
        try:
            sock = await asyncio.wait_for(connect(host, port), AUTH_CONNECT_LIMIT)
        except (OSError, asyncio.TimeoutError) as error:
            self._log.warning("auth does not answer", peer=format_address(*stream.peer), reason=error or "time is up")
            stream.offer(_TLS_ALERT_INTERNAL)
            await stream.close()
            return
        auth = Stream(loop, sock, (host, port))
        auth.offer(self._introduce(stream.peer))
        await Splice(stream, auth, idle=AUTH_IDLE).run()

    async def _dialled(self, stream: Stream) -> bool:
        """A node dialled back: give the stream to the session that waits for it. Says whether there was one.

        The ticket is all that the node says to us; what follows belongs to the session.
        """
        line = await asyncio.wait_for(stream.receive_exactly(TICKET_LINE), TICKET_LIMIT)
        try:
            node = self._dials.claim(line, stream)
        except PeerError as error:
            self._log.info("dial-back refused", peer=format_address(*stream.peer), reason=error)
            return False
        self._log.debug("node dialled back", node=node)
        return True
