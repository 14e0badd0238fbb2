"""Tunnels that proxies of other clusters dial to us: the way of our people to nodes there (docs/protocol/tunnel.md).

What comes through one is an SSH connection to the other cluster's proxy, dialled back by ticket as nodes dial back.
That proxy judges who comes, by its own policy; we vouch for nobody and read nothing. A tunnel brings our people there
and nobody here: there is no word by which it could ask anything of us.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
import time
from collections.abc import Callable, Mapping

from tinyport.core.access import Subject
from tinyport.core.cluster_proof import CHALLENGE_BYTES, Proven, judge_proof
from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.core.names import format_address, printable
from tinyport.host.logging_line import Log
from tinyport.link import websocket as ws
from tinyport.proxy.dial import Dials
from tinyport.proxy.knowledge import Knowledge
from tinyport.proxy.line import Line, first_message, frame, upgrade
from tinyport.proxy.stream import Stream
from tinyport.proxy.tunnels import BEAT, GREETING_LIMIT

# A hello with a host certificate; nothing later is longer.
MAX_MESSAGE = 64 * 1024
MAX_CERTIFICATE = 16 * 1024
#: proxies of one cluster; each has one tunnel
MOST_PROXIES = 8


class ClusterTunnel(Line):
    """The tunnel of one proxy, ``uuid``, of another cluster, for as long as its certificate is good. ``key``: what its
    tickets are bound to."""

    __slots__ = ("_expiry", "cluster", "uuid")

    def __init__(self, stream: Stream, proven: Proven, beat: float) -> None:
        super().__init__(stream, beat)
        self.cluster = proven.cluster
        self.uuid = proven.uuid
        self._expiry = self._loop.call_later(
            max(0.0, proven.until - time.time()), self.end, ws.CLOSE_GOING_AWAY, "the proxy's certificate has ended"
        )

    def stop_watching(self) -> None:
        super().stop_watching()
        self._expiry.cancel()

    @property
    def key(self) -> str:
        return f"{self.cluster.name}/{self.uuid}"


class ClusterTunnels:
    """The tunnels of other clusters' proxies. ``on_change`` is called when a cluster came or went."""

    def __init__(self, knowledge: Knowledge, dials: Dials, proxy_uuid: str, log: Log, *, beat: float = BEAT) -> None:
        self._knowledge = knowledge
        self._dials = dials
        self._proxy_uuid = proxy_uuid
        self._log = log
        self._beat = beat
        #: cluster → UUID of its proxy → its tunnel, the newest last
        self._tunnels: dict[str, dict[str, ClusterTunnel]] = {}
        self.on_change: Callable[[str, bool], None] = lambda cluster, online: None
        #: called with user, cluster and source when somebody has gone through one
        self.on_use: Callable[[str, str, str], None] = lambda user, cluster, source: None
        knowledge.on_change.append(self._policy_changed)

    def __len__(self) -> int:
        return sum(len(there) for there in self._tunnels.values())

    def online(self) -> list[str]:
        """The clusters that can be reached now."""
        return sorted(self._tunnels)

    # ------------------------------------------------------------------ a tunnel's life

    async def serve(self, stream: Stream, digest: bytes, settled: Callable[[], None]) -> None:
        """A connection that says to be another cluster's proxy, until it ends. ``digest``: of the TLS certificate that
        it saw of us; ``settled`` is called once it has proved to be one."""
        peer = format_address(*stream.peer)
        try:
            tunnel, decoder = await asyncio.wait_for(self._greet(stream, digest), GREETING_LIMIT)
        except asyncio.TimeoutError:
            self._log.info("a cluster's tunnel said no hello in time", peer=peer)
            return
        except TinyportError as error:
            self._log.warning("a cluster's tunnel was refused", peer=peer, reason=error)
            # Who has proved nothing reads nothing but that.
            stream.offer(ws.encode_close(ws.CLOSE_POLICY, "not expected here"))
            await stream.close()
            return
        settled()
        self._enter(tunnel)
        try:
            await tunnel.listen(decoder, lambda message: self._said(tunnel, message))
        except PeerError as error:
            self._log.warning("a cluster's tunnel was closed", cluster=tunnel.cluster.name, reason=error)
        finally:
            tunnel.stop_watching()
            self._leave(tunnel)

    async def _greet(self, stream: Stream, digest: bytes) -> tuple[ClusterTunnel, ws.Decoder]:
        await upgrade(stream)
        challenge = secrets.token_bytes(CHALLENGE_BYTES)
        stream.offer(frame({"op": "challenge", "nonce": challenge.hex()}))
        decoder = ws.Decoder("server", MAX_MESSAGE)
        hello = await first_message(stream, decoder)
        if hello.get("op") != "hello":
            raise PeerError("the tunnel's first message is not a hello")
        proven = judge_proof(
            _bytes(hello, "certificate", MAX_CERTIFICATE),
            _bytes(hello, "signature", 64),
            cluster=hello.get("cluster"),
            server=self._knowledge.cluster,
            challenge=challenge,
            digest=digest,
            trusted=self._knowledge.policy.trusted_clusters,
            now=time.time(),
        )
        others = self._tunnels.get(proven.cluster.name, {})
        if len(others) >= MOST_PROXIES and proven.uuid not in others:
            raise PeerError(f"{proven.cluster.name} has {MOST_PROXIES} tunnels here already")
        return ClusterTunnel(stream, proven, self._beat), decoder

    def _enter(self, tunnel: ClusterTunnel) -> None:
        name = tunnel.cluster.name
        there = self._tunnels.setdefault(name, {})
        first, old = not there, there.pop(tunnel.uuid, None)
        there[tunnel.uuid] = tunnel
        if old is not None:
            old.end(ws.CLOSE_GOING_AWAY, "replaced by a newer tunnel of this proxy")
        self._log.info("cluster's tunnel up", cluster=name, proxy=tunnel.uuid, peer=format_address(*tunnel.stream.peer))
        tunnel.offer(frame({"op": "welcome", "beat": self._beat, "proxy": self._proxy_uuid}))
        if first:
            self.on_change(name, True)

    def _leave(self, tunnel: ClusterTunnel) -> None:
        tunnel.stream.abort()
        name = tunnel.cluster.name
        there = self._tunnels.get(name, {})
        if there.get(tunnel.uuid) is not tunnel:
            return
        del there[tunnel.uuid]
        self._dials.fail_node(tunnel.key, f"the tunnel of {name} broke")
        self._log.info("cluster's tunnel down", cluster=name, proxy=tunnel.uuid)
        if not there:
            del self._tunnels[name]
            self.on_change(name, False)

    def _said(self, tunnel: ClusterTunnel, message: Mapping[str, object]) -> None:
        op = message.get("op")
        if op == "dialed" and message.get("error"):
            text = f"{tunnel.cluster.name} could not dial back: {printable(str(message['error']), 120)}"
            self._dials.failed(tunnel.key, str(message.get("ticket_id")), text)
        elif op == "hello":
            raise PeerError("hello is said once")
        # As with nodes: an op that is not known is none of ours, and not an error.

    def _policy_changed(self, uuid: str | None) -> None:
        if uuid is not None:
            return
        expected = {cluster.name: cluster for cluster in self._knowledge.policy.trusted_clusters if cluster.by_tunnel}
        for tunnel in [tunnel for there in self._tunnels.values() for tunnel in there.values()]:
            now = expected.get(tunnel.cluster.name)
            # With other keys it has to prove itself anew, and does so within a second.
            if now is None or now.host_cas != tunnel.cluster.host_cas:
                self._log.info("cluster's tunnel ended", cluster=tunnel.cluster.name, reason="the policy changed")
                tunnel.end(ws.CLOSE_POLICY, "not expected here any more")

    def close(self) -> None:
        """The proxy stops: the other ends look for their way back."""
        for there in list(self._tunnels.values()):
            for tunnel in list(there.values()):
                tunnel.end(ws.CLOSE_RESTART, "the proxy is going down")

    # ------------------------------------------------------------------ going there

    def known(self, name: str) -> bool:
        """Is a tunnel of a cluster of this name expected?"""
        return self._knowledge.has_policy and any(
            cluster.name == name and cluster.by_tunnel for cluster in self._knowledge.policy.trusted_clusters
        )

    async def dial(self, subject: Subject, name: str, client: tuple[str, int]) -> Stream:
        """Have that cluster's proxy dial back: a stream with its SSH server at the other end. ``client``: where the
        user comes from, which is told there.

        AccessDenied for people who are not ours and for clusters that are not known; Unavailable (``offline``).
        """
        if subject.home is not None:
            # They have come this far by a map of ours, which says nothing of others.
            raise AccessDenied("access denied", detail=f"{subject.user} of {subject.home} wants to go on to {name}")
        if not self.known(name):
            raise AccessDenied(
                f"no tunnel of a cluster {printable(name, 100)} is expected here",
                hint='"tsh clusters" lists them',
                code="not_found",
            )
        there = self._tunnels.get(name)
        if not there:
            raise Unavailable(f"cluster {name} is offline: its proxy holds no tunnel to this one", code="offline")
        tunnel = next(reversed(there.values()))

        def notify(ticket: str) -> None:
            tunnel.offer(frame({"op": "dial", "ticket": ticket, "client": format_address(*client)}))

        stream = await self._dials.dial(tunnel.key, notify, who=f"cluster {name}")
        self.on_use(subject.user, name, client[0])
        return stream


def _bytes(message: Mapping[str, object], name: str, limit: int) -> bytes:
    value = message.get(name)
    if not isinstance(value, str) or len(value) > limit * 2:
        raise PeerError(f"malformed hello: {name}")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise PeerError(f"malformed hello: {name}") from None
