"""``tsh``'s way through the proxy.

One JSON line each way, then SSH from client to node (docs/protocol/tunnel.md, "tsh").
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping

from tinyport.core.access import Subject
from tinyport.core.certificate import EXT_USER, MAX_BLOB, Certificate
from tinyport.core.errors import AccessDenied, PeerError, TinyportError
from tinyport.core.identity import Identity
from tinyport.core.names import check_cluster, check_login, format_address
from tinyport.host.logging_line import Log
from tinyport.proxy.access import Gatekeeper
from tinyport.proxy.cluster_tunnels import ClusterTunnels
from tinyport.proxy.splice import Splice
from tinyport.proxy.ssh_gateway import Dial
from tinyport.proxy.stream import Stream

MAX_REQUEST = 64 * 1024
REQUEST_LIMIT = 10.0
VERSION = 1
MAX_TARGET = 300


class Request:
    """What a client asks for."""

    __slots__ = ("certificate", "cluster", "login", "target")

    def __init__(self, line: bytes) -> None:
        """PeerError when the line is not a request of this version."""
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise PeerError("the request is not JSON") from None
        if not isinstance(found, dict) or found.get("version") != VERSION:
            raise PeerError("the request is of another version", hint="update tsh or the proxy")
        certificate = found.get("certificate")
        if not isinstance(certificate, str) or len(certificate) > 2 * MAX_BLOB:
            raise PeerError("malformed request: certificate")
        try:
            self.certificate = Certificate.decode(base64.b64decode(certificate, validate=True))
        except (binascii.Error, ValueError):
            raise PeerError("malformed request: certificate") from None
        #: another cluster, to whose proxy the client wants; which node there, and as whom, is said to that proxy
        self.cluster = check_cluster(found["cluster"]) if "cluster" in found else None
        self.target, self.login = "", ""
        if self.cluster is None:
            target = found.get("target")
            if not isinstance(target, str) or not 0 < len(target) <= MAX_TARGET:
                raise PeerError("malformed request: target")
            self.target, self.login = target, check_login(found.get("login"))


class TshGateway:
    """Serves connections whose TLS client certificate named a user of the cluster."""

    def __init__(self, gatekeeper: Gatekeeper, dial: Dial, clusters: ClusterTunnels, log: Log) -> None:
        self._gatekeeper = gatekeeper
        self._dial = dial
        self._clusters = clusters
        self._log = log

    async def serve(self, stream: Stream, identity: Identity) -> None:
        """One request, and the session it opens, until it ends. Owns the stream."""
        try:
            line = await asyncio.wait_for(stream.receive_until(b"\n", MAX_REQUEST), REQUEST_LIMIT)
            if line is None:
                raise PeerError(f"a request of more than {MAX_REQUEST} bytes", code="too_large")
            request = Request(line)
            if request.certificate.text_extension(EXT_USER) != identity.id:
                raise AccessDenied(
                    "access denied", detail=f"the TLS certificate is {identity.id}'s, the SSH certificate another's"
                )
            way = await self._way(request, stream.peer)
        except TinyportError as error:
            self._log.debug("tsh refused", user=identity.id, peer=format_address(*stream.peer), reason=error)
            stream.offer(_line({"ok": False, "error": _error(error)}))
            await stream.close()
            return
        splice = Splice(stream, way.stream)
        try:
            await stream.send(_line({"ok": True, **way.answer}))
            self._log.info("session", user=identity.id, to=way.name, peer=format_address(*stream.peer))
            with self._gatekeeper.watched(
                way.subject,
                node=way.node,
                login=None if request.cluster else request.login,
                source=stream.peer[0],
                cut=lambda reason: splice.cut(),
                cluster=request.cluster,
            ):
                await splice.run()
        finally:
            splice.cut()

    async def _way(self, request: Request, peer: tuple[str, int]) -> _Way:
        certificate = request.certificate
        if request.cluster is not None:
            subject = self._gatekeeper.subject(certificate, peer[0])
            stream = await self._clusters.dial(subject, request.cluster, peer)
            return _Way(subject, stream, None, request.cluster, {"cluster": request.cluster})
        admitted = await self._gatekeeper.admit(certificate, request.target, request.login, peer[0])
        stream = await self._dial(admitted.uuid, peer, request.login)
        answer = {"node": {"uuid": admitted.uuid, "name": admitted.name}}
        return _Way(admitted.subject, stream, admitted.uuid, admitted.name, answer)


class _Way:
    """Where a client goes on to: a node, or the proxy of another cluster."""

    __slots__ = ("answer", "name", "node", "stream", "subject")

    def __init__(
        self, subject: Subject, stream: Stream, node: str | None, name: str, answer: Mapping[str, object]
    ) -> None:
        self.subject = subject
        self.stream = stream
        #: the node's UUID
        self.node = node
        self.name = name
        self.answer = answer


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _error(error: TinyportError) -> dict[str, object]:
    """The error object of docs/protocol/api.md. ``detail`` is ours and stays here."""
    found: dict[str, object] = {"code": error.code, "message": error.message}
    if error.hint:
        found["hint"] = error.hint
    found.update(error.extra)
    return found
