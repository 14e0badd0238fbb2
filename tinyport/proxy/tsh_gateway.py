"""``tsh``'s way through the proxy.

One JSON line each way, then SSH from client to node (docs/protocol/tunnel.md, "tsh").
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json

from tinyport.core.certificate import EXT_USER, MAX_BLOB, Certificate
from tinyport.core.errors import AccessDenied, PeerError, TinyportError
from tinyport.core.identity import Identity
from tinyport.core.names import check_login, format_address
from tinyport.host.logging_line import Log
from tinyport.proxy.access import Gatekeeper
from tinyport.proxy.splice import Splice
from tinyport.proxy.ssh_gateway import Dial
from tinyport.proxy.stream import Stream

MAX_REQUEST = 64 * 1024
REQUEST_LIMIT = 10.0
VERSION = 1
MAX_TARGET = 300


class Request:
    """What a client asks for."""

    __slots__ = ("certificate", "login", "target")

    def __init__(self, line: bytes) -> None:
        """PeerError when the line is not a request of this version."""
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise PeerError("the request is not JSON") from None
        if not isinstance(found, dict) or found.get("version") != VERSION:
            raise PeerError("the request is of another version", hint="update tsh or the proxy")
        certificate, target, login = (found.get(name) for name in ("certificate", "target", "login"))
        if not isinstance(certificate, str) or len(certificate) > 2 * MAX_BLOB:
            raise PeerError("malformed request: certificate")
        if not isinstance(target, str) or not 0 < len(target) <= MAX_TARGET:
            raise PeerError("malformed request: target")
        try:
            self.certificate = Certificate.decode(base64.b64decode(certificate, validate=True))
        except (binascii.Error, ValueError):
            raise PeerError("malformed request: certificate") from None
        self.target = target
        self.login = check_login(login)


class TshGateway:
    """Serves connections whose TLS client certificate named a user of the cluster."""

    def __init__(self, gatekeeper: Gatekeeper, dial: Dial, log: Log) -> None:
        self._gatekeeper = gatekeeper
        self._dial = dial
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
            admitted = await self._gatekeeper.admit(request.certificate, request.target, request.login, stream.peer[0])
            node = await self._dial(admitted.uuid, stream.peer, request.login)
        except TinyportError as error:
            self._log.debug("tsh refused", user=identity.id, peer=format_address(*stream.peer), reason=error)
            stream.offer(_line({"ok": False, "error": _error(error)}))
            await stream.close()
            return
        splice = Splice(stream, node)
        try:
            await stream.send(_line({"ok": True, "node": {"uuid": admitted.uuid, "name": admitted.name}}))
            self._log.info("session", user=identity.id, node=admitted.name, peer=format_address(*stream.peer))
            with self._gatekeeper.watched(
                admitted.subject,
                node=admitted.uuid,
                login=request.login,
                source=stream.peer[0],
                cut=lambda reason: splice.cut(),
            ):
                await splice.run()
        finally:
            splice.cut()


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _error(error: TinyportError) -> dict[str, object]:
    """The error object of docs/protocol/api.md. ``detail`` is ours and stays here."""
    found: dict[str, object] = {"code": error.code, "message": error.message}
    if error.hint:
        found["hint"] = error.hint
    found.update(error.extra)
    return found
