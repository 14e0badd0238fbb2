"""The nodes' tunnels: one quiet connection each, kept in one registry (docs/protocol/tunnel.md)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from math import inf as INF

from tinyport.core.errors import AccessDenied, PeerError, Unavailable
from tinyport.core.instances import check_instance
from tinyport.core.names import check_label, format_address, printable
from tinyport.core.policy import Policy
from tinyport.host.logging_line import Log
from tinyport.link import websocket as ws
from tinyport.proxy.dial import Dials
from tinyport.proxy.knowledge import Knowledge, Signed
from tinyport.proxy.line import Line, first_message, frame, upgrade
from tinyport.proxy.pacing import Slots
from tinyport.proxy.stalled import Stalled
from tinyport.proxy.stream import Stream
from tinyport.proxy.traffic import Meter, beat_within
from tinyport.proxy.tunnels_aside import Aside

# docs/protocol/tunnel.md
BEAT = 50.0
GREETING_LIMIT = 20.0
# A node that has just joined comes here before its document does, now and then.
DOCUMENT_TRIES, DOCUMENT_PAUSE = 20, 0.1
# A notice that the node's kernel does not confirm for so long reaches nobody: its connection is one only here.
UNCONFIRMED_LIMIT = 20.0
# How often auth is told what a node's traffic comes to, and of how many nodes at a time.
TELL_TRAFFIC_EVERY = 300.0
TELL_TRAFFIC_OF = 1000

# What a node says: its addresses and labels. Documents of a megabyte only go the other way.
MAX_FROM_NODE = 64 * 1024
MAX_ADDRESSES = 16
MAX_LABELS = 64
# Policies go to so many tunnels before others get a turn.
_SENDS_PER_TURN = 50

Version = tuple[int, int]


class Hello:
    """What a node says of itself. Shown and searchable; nothing of it decides anything."""

    __slots__ = ("addresses", "instance", "labels", "node", "policy", "skew", "version")

    def __init__(self, message: Mapping[str, object], uuid: str) -> None:
        """PeerError when it is malformed, or speaks for another node than ``uuid``."""
        if message.get("op") != "hello" or message.get("uuid") != uuid:
            raise PeerError("the tunnel's first message is not this node's hello")
        version = message.get("version")
        if not isinstance(version, str) or len(version) > 64:
            raise PeerError("malformed hello: version")
        self.version = printable(version, 64)
        #: its process; "" from a node that does not say
        self.instance = check_instance(message["instance"]) if "instance" in message else ""
        self.policy = _version(message.get("policy"))
        self.node = _version(message.get("node"))
        self.addresses: list[str] = []
        self.labels: dict[str, str] = {}
        #: seconds by which its system's clock is ahead
        self.skew = 0.0
        self.update(message)

    def update(self, message: Mapping[str, object]) -> None:
        """Take the addresses and labels of a hello or status message."""
        addresses, labels = message.get("addresses", []), message.get("labels", {})
        if not isinstance(addresses, list) or len(addresses) > MAX_ADDRESSES:
            raise PeerError("malformed message: addresses")
        if not all(isinstance(address, str) and len(address) <= 128 for address in addresses):
            raise PeerError("malformed message: addresses")
        if not isinstance(labels, dict) or len(labels) > MAX_LABELS:
            raise PeerError("malformed message: labels")
        self.labels = dict(check_label(key, value) for key, value in labels.items())
        self.addresses = [printable(address, 128) for address in addresses]
        skew = message.get("skew", 0)
        if not isinstance(skew, (int, float)) or isinstance(skew, bool) or not abs(skew) < 2**40:
            raise PeerError("malformed message: skew")
        self.skew = float(skew)


def _version(value: object) -> Version:
    if isinstance(value, list) and len(value) == 2 and all(type(n) is int and 0 <= n < 2**63 for n in value):
        return value[0], value[1]
    raise PeerError("malformed hello: a document's version is [epoch, serial]")


class Tunnel(Line):
    """One node's tunnel. Made by ``Tunnels.serve``, which owns its stream and ends with it."""

    __slots__ = ("began", "connected", "hello", "meter", "told", "uuid")

    def __init__(self, stream: Stream, hello: Hello, uuid: str, beat: float, meter: Meter) -> None:
        super().__init__(stream, beat)
        self.hello = hello
        self.uuid = uuid
        self.meter = meter
        #: when its certificate began
        self.began = INF
        #: when its traffic was last told
        self.told = asyncio.get_running_loop().time()
        self.connected = time.time()

    def set_beat(self, beat: float) -> None:
        """Have it beat at another rate from now on."""
        if beat != self.beat:
            self.expect(beat)
            self.offer(frame({"op": "beat", "beat": beat}))

    def presence(self) -> dict[str, object]:
        """The entry of this node in a presence report (docs/protocol/api.md)."""
        return {
            "uuid": self.uuid,
            "online": True,
            "addresses": self.hello.addresses,
            "labels": self.hello.labels,
            "peer": format_address(*self.stream.peer),
            "version": self.hello.version,
            "skew": self.hello.skew,
            "bytes": self.meter.total(self.stream.on_the_wire),
            "bytes_since": self.meter.since,
        }


class Tunnels:
    """UUID → the tunnel of that node. Those of copies of it (other devices with its identity) stand aside: ``get`` and
    ``dial`` know nothing of them.

    ``on_change(uuid)`` is called when a node came, went, or said something new.
    """

    def __init__(self, knowledge: Knowledge, dials: Dials, proxy_uuid: str, log: Log, *, beat: float = BEAT) -> None:
        self._knowledge = knowledge
        self._dials = dials
        self._proxy_uuid = proxy_uuid
        self._log = log
        self._beat = beat
        self._tunnels: dict[str, Tunnel] = {}
        self._aside = Aside()
        #: Unix time at which a node's tunnel ended here
        self.last_seen: dict[str, float] = {}
        self._meters: dict[str, Meter] = {}
        self._stalled = Stalled(
            lambda stream, why: log.info("a session is lost", peer=format_address(*stream.peer), reason=why),
            self._heard,
            self._ask,
        )
        self._slots = Slots()
        self.on_change: Callable[[str], None] = lambda uuid: None
        #: are the documents of all nodes here, and those of new ones on their way?
        self.complete: Callable[[], bool] = lambda: False
        self._spreading: asyncio.Task[None] | None = None
        knowledge.on_change.append(self._document_changed)
        knowledge.on_removed.append(self._removed)
        knowledge.on_doubted.append(self._doubted)

    def get(self, uuid: str) -> Tunnel | None:
        return self._tunnels.get(uuid)

    def __len__(self) -> int:
        return len(self._tunnels)

    def presence(self) -> Iterable[dict[str, object]]:
        return [self.presence_of(uuid) for uuid in {**self._tunnels, **dict.fromkeys(self._aside.nodes())}]

    def presence_of(self, uuid: str) -> dict[str, object]:
        """The entry of a node in a presence report."""
        tunnel = self._tunnels.get(uuid)
        said = {"uuid": uuid, "online": False} if tunnel is None else tunnel.presence()
        return {**said, **self._aside.presence(uuid)}

    def untold(self) -> list[str]:
        """Nodes of whose traffic auth has not heard for a while: some of them, the others next time."""
        now = asyncio.get_running_loop().time()
        due = [tunnel for tunnel in self._tunnels.values() if now - tunnel.told >= TELL_TRAFFIC_EVERY]
        for tunnel in due[:TELL_TRAFFIC_OF]:
            tunnel.told = now
        return [tunnel.uuid for tunnel in due[:TELL_TRAFFIC_OF]]

    def _meter(self, uuid: str) -> Meter:
        return self._meters.setdefault(uuid, Meter(time.time()))

    def _beat_now(self, uuid: str) -> float:
        """How often a node is to beat, by the policy of now."""
        if not self._knowledge.has_policy:
            return self._beat
        policy = self._knowledge.policy
        known = self._knowledge.node(uuid)
        labels = {} if known is None else known.document.labels
        return beat_within(policy.config, len(set(policy.proxy_uuids.values())), self._beat, labels)

    # ------------------------------------------------------------------ a tunnel's life

    async def serve(self, stream: Stream, uuid: str, began: float = INF) -> None:
        """Greet a node whose TLS certificate named ``uuid`` and began at ``began`` (Unix seconds), and serve its tunnel
        until it ends.
        """
        try:
            hello, decoder = await asyncio.wait_for(self._greet(stream, uuid), GREETING_LIMIT)
            await self._belongs(uuid)
            self._refuse_replaced(uuid, began)
            refuse_locked(self._knowledge, uuid)
        except asyncio.TimeoutError:
            self._log.info("a tunnel said no hello in time", node=uuid, peer=format_address(*stream.peer))
            return
        except AccessDenied as error:
            self._log.info("tunnel refused", node=uuid, reason=error)
            stream.offer(ws.encode_close(ws.CLOSE_POLICY, error.message))
            await stream.close()
            return
        stream.end_when_unconfirmed(UNCONFIRMED_LIMIT)
        tunnel = Tunnel(stream, hello, uuid, self._beat_now(uuid), self._meter(uuid))
        tunnel.began = began
        stream.on_close = tunnel.meter.ended
        self._enter(tunnel)
        try:
            await tunnel.listen(decoder, lambda message: self._said(tunnel, message))
        except PeerError as error:
            self._log.warning("tunnel closed", node=uuid, reason=error)
        finally:
            tunnel.stop_watching()
            self._leave(tunnel)

    def _refuse_replaced(self, uuid: str, began: float) -> None:
        known = self._knowledge.node(uuid)
        if known is not None and began < known.document.since:
            raise AccessDenied("another device has taken the place of this one", code="replaced")

    async def _belongs(self, uuid: str) -> None:
        """AccessDenied for a node that is none of the cluster's (any more): its certificate outlives its removal."""
        for _ in range(DOCUMENT_TRIES):
            if self._knowledge.node(uuid) is not None or not self.complete():
                return
            # It may have joined a moment ago.
            await asyncio.sleep(DOCUMENT_PAUSE)
        raise AccessDenied("this node was removed from the cluster", code="removed")

    async def _greet(self, stream: Stream, uuid: str) -> tuple[Hello, ws.Decoder]:
        await upgrade(stream)
        decoder = ws.Decoder("server", MAX_FROM_NODE)
        try:
            # A node waits for its welcome before it says more.
            return Hello(await first_message(stream, decoder), uuid), decoder
        except PeerError as error:
            stream.offer(ws.encode_close(ws.CLOSE_PROTOCOL_ERROR, error.message))
            raise

    def _is_copy(self, tunnel: Tunnel) -> bool:
        known = self._knowledge.node(tunnel.uuid)
        return known is not None and tunnel.hello.instance in known.document.copies

    def _enter(self, tunnel: Tunnel) -> None:
        old, copy = None, self._is_copy(tunnel)
        if copy:
            self._aside.put(tunnel)
        else:
            old = self._tunnels.get(tunnel.uuid)
            self._tunnels[tunnel.uuid] = tunnel
        if old is not None:
            old.end(ws.CLOSE_GOING_AWAY, "replaced by a newer tunnel of this node")
        self._log.info(
            "tunnel up",
            node=tunnel.uuid,
            peer=format_address(*tunnel.stream.peer),
            replaced=old is not None,
            copy=copy or None,
        )
        knowledge = self._knowledge
        slot = self._slots.give(max(knowledge.node_count, len(self._tunnels)))
        tunnel.offer(frame({"op": "welcome", "beat": tunnel.beat, "proxy": self._proxy_uuid, "return": slot}))
        if knowledge.signed_policy is not None and knowledge.policy_version > tunnel.hello.policy:
            tunnel.offer(_document(knowledge.signed_policy))
        self._bring_node_document(tunnel)
        self.on_change(tunnel.uuid)

    def _leave(self, tunnel: Tunnel) -> None:
        tunnel.stream.abort()
        if self._aside.take(tunnel):
            self.on_change(tunnel.uuid)
            return
        self.last_seen[tunnel.uuid] = time.time()
        if self._tunnels.get(tunnel.uuid) is not tunnel:
            # A newer one took its place: the node did not go away.
            return
        del self._tunnels[tunnel.uuid]
        self._dials.fail_node(tunnel.uuid, "the node's connection broke")
        self._log.info("tunnel down", node=tunnel.uuid, seconds=round(time.time() - tunnel.connected))
        self.on_change(tunnel.uuid)

    def _said(self, tunnel: Tunnel, message: Mapping[str, object]) -> None:
        op = message.get("op")
        if op == "status":
            tunnel.hello.update(message)
            self.on_change(tunnel.uuid)
        elif op == "dialed" and self._tunnels.get(tunnel.uuid) is tunnel:
            error = message.get("error")
            if error:
                text = f"the node could not dial back: {printable(str(error), 120)}"
                self._dials.failed(tunnel.uuid, str(message.get("ticket_id")), text)
        elif op == "hello":
            raise PeerError("hello is said once")
        # RFC 6455 leaves meaning to us, and we to the next minor version: an op that is not known is not an
        # error.

    def _heard(self, uuid: str) -> float:
        """When a node last said anything here; long ago when it is not."""
        tunnel = self._tunnels.get(uuid)
        return -INF if tunnel is None else tunnel.last_heard

    def _ask(self, uuid: str) -> None:
        """Have a node say something, if it is there."""
        tunnel = self._tunnels.get(uuid)
        if tunnel is not None:
            tunnel.offer(ws.encode(ws.OP_PING, b""))

    # ------------------------------------------------------------------ what the proxy says

    async def dial(self, uuid: str, client: tuple[str, int], login: str) -> Stream:
        """Have the node dial back for a session. ``client`` is whom its log and source-address check see.

        ``login``: who the client wants to be, "" when not known. Unavailable (``offline``) when it is not
        here or does not come.
        """

        def notify(ticket: str) -> None:
            tunnel = self._tunnels.get(uuid)
            if tunnel is None:
                raise Unavailable("the node is not connected to this proxy", code="offline")
            address = format_address(*client)
            tunnel.offer(frame({"op": "dial", "ticket": ticket, "client": address, "target_user": login}))

        stream = await self._dials.dial(uuid, notify)
        self._stalled.watch(stream, uuid, self._meter(uuid).ended)
        return stream

    def _document_changed(self, uuid: str | None) -> None:
        if uuid is not None:
            self._sort_copies(uuid)
            for tunnel in self._all_of(uuid):
                self._bring_node_document(tunnel)
                # Its labels may mean another budget.
                tunnel.set_beat(self._beat_now(uuid))
                try:
                    self._refuse_replaced(uuid, tunnel.began)
                except AccessDenied as error:
                    self._log.info("tunnel ended", node=uuid, reason=error)
                    tunnel.end(ws.CLOSE_POLICY, error.message)
            return
        if self._spreading is not None:
            self._spreading.cancel()
            self._spreading = None
        if self._tunnels or self._aside.nodes():
            self._spreading = asyncio.ensure_future(self._spread_policy())

    def _all_of(self, uuid: str) -> list[Tunnel]:
        tunnel = self._tunnels.get(uuid)
        return [*([] if tunnel is None else [tunnel]), *self._aside.of(uuid)]

    def _sort_copies(self, uuid: str) -> None:
        """Auth has told two devices with this identity from each other, or says now that there is one."""
        tunnel = self._tunnels.get(uuid)
        if tunnel is not None and self._is_copy(tunnel):
            self._log.warning("a copy of a node gets no sessions", node=uuid, peer=format_address(*tunnel.stream.peer))
            del self._tunnels[uuid]
            self._dials.fail_node(uuid, "another device has the identity of this node")
            self._aside.put(tunnel)
            self.on_change(uuid)
        for other in self._aside.of(uuid):
            if not self._is_copy(other):
                # It comes back as what it is now.
                other.end(ws.CLOSE_GOING_AWAY, "not taken for a copy any more")

    async def _spread_policy(self) -> None:
        """Bring a new policy to every tunnel, and end those of nodes that it locks."""
        signed = self._knowledge.signed_policy
        if signed is None:
            return
        # One frame, encoded once: what a thousand slow nodes have not taken yet is one object in memory.
        frame = _document(signed)
        for count, tunnel in enumerate([*self._tunnels.values(), *self._aside.all()]):
            tunnel.offer(frame)
            tunnel.set_beat(self._beat_now(tunnel.uuid))
            try:
                refuse_locked(self._knowledge, tunnel.uuid)
            except AccessDenied as error:
                self._log.info("tunnel ended", node=tunnel.uuid, reason=error)
                tunnel.end(ws.CLOSE_POLICY, error.message)
            if count % _SENDS_PER_TURN == _SENDS_PER_TURN - 1:
                await asyncio.sleep(0)

    def _bring_node_document(self, tunnel: Tunnel) -> None:
        known = self._knowledge.node(tunnel.uuid)
        if known is None:
            return
        held = (known.document.epoch, known.document.serial)
        if held > tunnel.hello.node:
            tunnel.hello.node = held
            tunnel.offer(_document(known.signed))

    def _doubted(self, uuid: str) -> None:
        """Is its device there? What nobody confirms ends the tunnel (UNCONFIRMED_LIMIT), and a kernel that has booted
        since refuses it."""
        tunnel = self._tunnels.get(uuid)
        if tunnel is not None:
            tunnel.offer(ws.encode(ws.OP_PING))

    def _removed(self, uuid: str) -> None:
        self._meters.pop(uuid, None)
        for tunnel in self._all_of(uuid):
            tunnel.end(ws.CLOSE_POLICY, "this node was removed from the cluster")

    def close(self) -> None:
        """The proxy stops: nodes look for their way back."""
        self._stalled.close()
        if self._spreading is not None:
            self._spreading.cancel()
        for tunnel in [*self._tunnels.values(), *self._aside.all()]:
            tunnel.end(ws.CLOSE_RESTART, "the proxy is going down")


def refuse_locked(knowledge: Knowledge, uuid: str) -> None:
    """AccessDenied (``locked``) when the policy locks this node, by UUID or by the name that auth gave it."""
    if not knowledge.has_policy:
        return
    known = knowledge.node(uuid)
    names = {uuid} if known is None else {uuid, known.document.name}
    policy: Policy = knowledge.policy
    now = time.time()
    for lock in policy.locks:
        if lock.active(now) and lock.target.get("node") in names:
            name = uuid if known is None else known.document.name
            why = f": {printable(lock.message)}" if lock.message else ""
            raise AccessDenied(f"node {name} is locked{why}", detail=f"lock {lock.id}", code="locked")


def _document(signed: Signed) -> bytes:
    return frame({"op": "document", "signed": signed})
