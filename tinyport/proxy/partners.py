"""Tunnels that we dial to proxies of clusters whose people we let in (docs/protocol/tunnel.md).

One for each enabled trusted cluster with a ``server``. Whom we dial is known by the pin of its TLS CA; who we are we
prove with our host key. All that it may ask of us is to dial back, and what comes then is an SSH client like any other:
our gateway judges it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import random
import ssl
import time
from collections.abc import Callable, Mapping

from tinyport.core.certificate import parse_public_line
from tinyport.core.cluster_proof import signed_words
from tinyport.core.errors import PeerError, TinyportError, Unavailable
from tinyport.core.identity import Identity, from_peer_certificate
from tinyport.core.names import is_uuid, parse_address, printable
from tinyport.core.signatures import Ed25519Key
from tinyport.host.logging_line import Log
from tinyport.link import websocket as ws
from tinyport.link.dial_notice import TICKET_LIFE, Bucket, Notice
from tinyport.link.httphead import MAX_HEAD, parse_head
from tinyport.proxy.credentials import ALPN_CLUSTER, ALPN_DIAL, Credentials
from tinyport.proxy.knowledge import Knowledge
from tinyport.proxy.line import PATH, first_message, frame, json_object
from tinyport.proxy.partner_way import Way
from tinyport.proxy.stream import Stream

Address = tuple[str, int]
#: a cluster's name, where a proxy of it is ("host:port"), and the pins of its TLS CA
Entry = tuple[str, str, tuple[str, ...]]
#: a TLS socket with an SSH client at its other end, where that client is said to come from, and where it really does
Arrived = Callable[[ssl.SSLSocket, Address, str], None]

GREETING_LIMIT = 15.0
# What the other proxy says are notices; documents never.
MAX_MESSAGE = 64 * 1024
# Of our answers. Whoever asks and takes none loses the tunnel.
MAX_QUEUED = 256 * 1024
BEAT_BOUNDS = (5.0, 3600.0)
PONG_LIMIT = 15.0
FIRST_WAIT = (0.2, 1.0)
LONGEST_WAIT = 30.0
#: a tunnel that stood for so long was a good one: the next attempt starts from the beginning
GOOD_AFTER = 60.0
# A taken-over partner must not exhaust us; ``tsh run`` over all nodes is one connection to our gateway.
MAX_IN_FLIGHT = 64
BURST, PER_SECOND = 200.0, 20.0


class Partners:
    """All of them. ``run`` follows the policy until it is cancelled: who is not trusted any more is left at once."""

    def __init__(self, knowledge: Knowledge, credentials: Credentials, arrived: Arrived, log: Log) -> None:
        self._knowledge = knowledge
        self._credentials = credentials
        self._arrived = arrived
        self._log = log
        self._wake = asyncio.Event()
        #: called when a tunnel of ours came to stand, or stands no more
        self.on_change: Callable[[], None] = lambda: None
        #: (cluster, the address where a proxy of it is, the pins) → the tunnel there
        self._running: dict[Entry, tuple[Partner, asyncio.Task[None]]] = {}
        knowledge.on_change.append(self._changed)

    @property
    def up(self) -> list[str]:
        """Clusters to which a tunnel of ours stands."""
        return sorted({partner.cluster for partner, _ in self._running.values() if partner.up})

    @property
    def tunnels(self) -> int:
        return sum(partner.up for partner, _ in self._running.values())

    def holds(self, partner: Partner, proxy: str) -> bool:
        """Does another tunnel than this one lead to the cluster's proxy of that UUID?"""
        return any(
            other is not partner and other.up and (other.cluster, other.proxy) == (partner.cluster, proxy)
            for other, _ in self._running.values()
        )

    def _changed(self, uuid: str | None) -> None:
        if uuid is None:
            self._wake.set()

    async def run(self) -> None:
        try:
            while True:
                self._wake.clear()
                await self._follow()
                await self._wake.wait()
        finally:
            await self._stop(list(self._running))

    async def _follow(self) -> None:
        trusted = self._knowledge.policy.trusted_clusters if self._knowledge.has_policy else ()
        # A changed map or user CA is the gateway's business; the tunnel only needs to know where to go, and whom.
        wanted: set[Entry] = {
            (cluster.name, server, cluster.ca_pins)
            for cluster in trusted
            if cluster.enabled
            for server in cluster.servers
        }
        await self._stop([way for way in self._running if way not in wanted])
        for way in wanted - self._running.keys():
            partner = Partner(self, way, self._credentials, self._arrived, self._log)
            self._running[way] = partner, asyncio.ensure_future(partner.run())

    async def _stop(self, ways: list[Entry]) -> None:
        tasks = [self._running.pop(way)[1] for way in ways]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Partner:
    """The tunnel to one proxy of a cluster: connects, proves who we are, stands, breaks, waits and connects again,
    until cancelled."""

    def __init__(self, owner: Partners, way: Entry, credentials: Credentials, arrived: Arrived, log: Log) -> None:
        self._owner = owner
        self.cluster, self._address, pins = way
        self._way = Way(parse_address(self._address), pins)
        self._credentials = credentials
        self._arrived = arrived
        self._log = log
        self._failures = 0
        self._bucket = Bucket(BURST, PER_SECOND, time.monotonic())
        self._dials: set[asyncio.Task[None]] = set()
        self.up = False
        #: UUID of the proxy that it leads to, while it is up
        self.proxy = ""

    async def run(self) -> None:
        while True:
            began = time.monotonic()
            was_up = False
            try:
                await self._once()
                reason: Exception = Unavailable("the other proxy closed the tunnel")
            except (TinyportError, OSError, asyncio.TimeoutError) as error:
                reason = error
            finally:
                was_up, self.up = self.up, False
                if was_up:
                    self._owner.on_change()
                await self._end_dials()
            if was_up and time.monotonic() - began >= GOOD_AFTER:
                self._failures = 0
            wait = self._next_wait()
            say = self._log.warning if was_up or self._failures <= 3 else self._log.debug
            say(
                "the tunnel to a cluster is down",
                cluster=self.cluster,
                server=self._address,
                reason=reason or "time is up",
                next_try=f"{wait:.1f}s",
            )
            await asyncio.sleep(wait)

    def _next_wait(self) -> float:
        """As nodes: 0.2 to 1 s at first, doubling to 30 s, full jitter."""
        least, most = FIRST_WAIT
        longest = min(most * 2**self._failures, LONGEST_WAIT)
        self._failures = min(self._failures + 1, 16)
        return random.uniform(least, longest)  # noqa: S311 - spreads proxies, guards nothing

    # ------------------------------------------------------------------ one tunnel

    async def _once(self) -> None:
        stream = await self._way.connect(ALPN_CLUSTER)
        try:
            server, digest = _server(stream)
            self._check(server)
            if self._owner.holds(self, server.id):
                # One tunnel to each proxy is enough; there may be another behind this address next time.
                self._failures = 16
                raise Unavailable("another tunnel of ours leads to the same proxy")
            decoder = ws.Decoder("client", MAX_MESSAGE)
            beat = await asyncio.wait_for(self._greet(stream, decoder, server, digest), GREETING_LIMIT)
            self._log.info("the tunnel to a cluster is up", cluster=self.cluster, server=self._address)
            self.up, self.proxy = True, server.id
            self._owner.on_change()
            await self._stand(stream, decoder, beat, server)
        finally:
            stream.abort()

    def _check(self, server: Identity) -> None:
        if server.kind != "proxy" or server.cluster != self.cluster:
            raise PeerError(f"{self._address} is not a proxy of {self.cluster}", detail=server.uri)

    async def _greet(self, stream: Stream, decoder: ws.Decoder, server: Identity, digest: bytes) -> float:
        """Prove who we are; how often to beat, in seconds."""
        key = ws.make_key(os.urandom(16))
        await stream.send(ws.client_handshake(PATH, self._address, key))
        data = await stream.receive_until(b"\r\n\r\n", MAX_HEAD)
        head = parse_head(data) if data is not None else None
        if head is None:
            raise PeerError("the other proxy did not answer as one")
        ws.check_response(head, key)
        challenge = await self._first(stream, decoder, "challenge")
        try:
            nonce = bytes.fromhex(str(challenge.get("nonce")))
        except ValueError:
            raise PeerError("malformed challenge") from None
        ours = self._credentials
        words = signed_words(ours.cluster, server.cluster, nonce, digest)
        hello = {
            "op": "hello",
            "cluster": ours.cluster,
            "certificate": _base64(parse_public_line(ours.ssh_certificate)),
            "signature": _base64(Ed25519Key.from_openssh(ours.ssh_key.encode()).sign_raw(words)),
        }
        await stream.send(frame(hello, os.urandom(4)))
        welcome = await self._first(stream, decoder, "welcome")
        beat, proxy = welcome.get("beat"), welcome.get("proxy")
        if not isinstance(beat, (int, float)) or isinstance(beat, bool) or proxy != server.id:
            raise PeerError("malformed welcome")
        return min(max(float(beat), BEAT_BOUNDS[0]), BEAT_BOUNDS[1])

    async def _first(self, stream: Stream, decoder: ws.Decoder, op: str) -> dict[str, object]:
        message = await first_message(stream, decoder)
        if message.get("op") != op:
            raise PeerError(f"the other proxy did not say {op}")
        return message

    async def _stand(self, stream: Stream, decoder: ws.Decoder, beat: float, server: Identity) -> None:
        heard = [time.monotonic()]
        beating = asyncio.ensure_future(_beat(stream, beat, heard))
        try:
            while data := await stream.receive():
                heard[0] = time.monotonic()
                for opcode, payload in decoder.feed(data):
                    if opcode == ws.OP_PING:
                        _answer(stream, ws.encode(ws.OP_PONG, payload, os.urandom(4)))
                    elif opcode == ws.OP_CLOSE:
                        code, reason = ws.close_reason(payload)
                        raise Unavailable(
                            "the other proxy closed the tunnel", detail=f"{code} {printable(reason, 120)}".strip()
                        )
                    elif opcode == ws.OP_TEXT:
                        self._said(stream, json_object(payload), server)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    # ------------------------------------------------------------------ dialling back

    def _said(self, stream: Stream, message: Mapping[str, object], server: Identity) -> None:
        if message.get("op") != "dial":
            # A word of a later version.
            return
        notice = Notice(dict(message))
        if len(self._dials) >= MAX_IN_FLIGHT or not self._bucket.take(time.monotonic()):
            self._log.warning("too many dial notices; one is refused", cluster=self.cluster)
            _answer(stream, _failed(notice, "the proxy is busy"))
            return
        task = asyncio.ensure_future(self._dial_back(stream, notice, server))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial_back(self, tunnel: Stream, notice: Notice, server: Identity) -> None:
        try:
            tls = await asyncio.wait_for(self._bring(tunnel.peer, notice, server), TICKET_LIFE)
        except (TinyportError, OSError, asyncio.TimeoutError) as error:
            self._log.warning("dial-back failed", cluster=self.cluster, reason=error or "time is up")
            if not tunnel.closed:
                tunnel.offer(_failed(notice, error.message if isinstance(error, TinyportError) else "cannot connect"))
            return
        self._arrived(tls, notice.client, f"cluster {self.cluster}")

    async def _bring(self, address: Address, notice: Notice, server: Identity) -> ssl.SSLSocket:
        stream = await self._way.connect(ALPN_DIAL, address)
        try:
            found, _ = _server(stream)
            if found != server:
                raise PeerError("another proxy answers than the one that the tunnel goes to", detail=found.uri)
            await stream.send(notice.ticket.encode("ascii") + b"\n")
            await stream.drained()
            sock = stream.release()
        except BaseException:
            stream.abort()
            raise
        assert isinstance(sock, ssl.SSLSocket)
        return sock

    async def _end_dials(self) -> None:
        """The tunnel is gone, and its tickets with it."""
        tasks = list(self._dials)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _beat(stream: Stream, beat: float, heard: list[float]) -> None:
    """Once a beat an unsolicited Pong; a Ping when the other end was silent for two, and the end when it stays so."""
    while not stream.closed:
        await asyncio.sleep(beat)
        if time.monotonic() - heard[0] < 2 * beat:
            stream.offer(ws.encode(ws.OP_PONG, b"", os.urandom(4)))
            continue
        asked = time.monotonic()
        stream.offer(ws.encode(ws.OP_PING, b"", os.urandom(4)))
        await asyncio.sleep(min(PONG_LIMIT, beat))
        if heard[0] < asked:
            stream.abort()


def _server(stream: Stream) -> tuple[Identity, bytes]:
    """Who the server is, by its verified certificate, and that certificate's SHA-256."""
    tls = stream.tls
    identity = from_peer_certificate(tls.getpeercert())
    if not is_uuid(identity.id):
        raise PeerError("the server's certificate has no UUID", detail=identity.uri)
    return identity, hashlib.sha256(tls.getpeercert(binary_form=True) or b"").digest()


def _answer(stream: Stream, data: bytes) -> None:
    if stream.queued + len(data) > MAX_QUEUED:
        raise Unavailable("the other proxy asks and does not listen")
    stream.offer(data)


def _failed(notice: Notice, error: str) -> bytes:
    return frame({"op": "dialed", "ticket_id": notice.id, "error": error}, os.urandom(4))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
