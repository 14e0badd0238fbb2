"""The way to a node: TLS to the proxy, one line of question, one line of answer, then SSH (docs/protocol/tunnel.md).

Blocking and light, so that ``tsh proxy ssh`` needs nothing else and ``tsh ssh`` can do it while its SSH engine loads.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tinyport.core.certificate import parse_public_line
from tinyport.core.errors import AccessDenied, OperatorError, PeerError, TinyportError, Unavailable
from tinyport.core.identity import from_peer_certificate
from tinyport.core.names import is_uuid, parse_address, printable
from tinyport.host.tls import client_context
from tinyport.host.user_identity import UserIdentity
from tinyport.link.front import open_inside
from tinyport.link.http_proxy import open_connection
from tinyport.link.refusal import cannot_reach, error_of

ALPN = "tinyport-ssh"
MAX_LINE = 64 * 1024
CONNECT_TIMEOUT = 20.0
# The proxy asks auth (5 s at most), and a ticket of a dial-back is good for 30 s; the rest is the way there and back.
ANSWER_TIMEOUT = 60.0
MOST_PROXIES = 4

#: the API's statuses for codes of a refusal; all others are "proven and refused"
_STATUSES = {
    "no_such_node": 404,
    "not_found": 404,
    "ambiguous": 409,
    "offline": 409,
    "bad_request": 400,
    "login_required": 401,
    "expired": 401,
    "slow_down": 429,
    "unavailable": 503,
}


@dataclass(frozen=True)
class Dialled:
    """An open way to a node. ``early`` is what the node has already said."""

    socket: ssl.SSLSocket
    uuid: str
    name: str
    early: bytes


def dial(identity: UserIdentity, target: str, login: str) -> Dialled:
    """Reach ``target`` (name, name.cluster, UUID, or k=v) for ``login``, through the identity's proxy; when that is
    away, or the node is not connected to it, through the others that were known at login.

    What the proxy refuses is raised as it says it (AccessDenied, Unavailable, OperatorError with the API's codes);
    Unavailable when it cannot be reached, PeerError when it is not a proxy of the identity's cluster.
    """
    secure, answer, early = _ask(identity, {"target": target, "login": login})
    node = answer.get("node")
    uuid = node.get("uuid") if isinstance(node, dict) else None
    name = node.get("name") if isinstance(node, dict) else None
    if not isinstance(uuid, str) or not is_uuid(uuid) or not isinstance(name, str):
        secure.close()
        raise PeerError("the proxy's answer names no node")
    return Dialled(secure, uuid, name, early)


def dial_cluster(identity: UserIdentity, cluster: str) -> Dialled:
    """Reach the proxy of another cluster through the tunnel that it holds to ours. Raises as ``dial``."""
    # Which node, and as whom, is nothing that our own proxy hears.
    secure, _, early = _ask(identity, {"cluster": cluster})
    return Dialled(secure, "", f"the proxy of {cluster}", early)


def _ask(identity: UserIdentity, wish: Mapping[str, str]) -> tuple[ssl.SSLSocket, Mapping[str, object], bytes]:
    """The open way, the proxy's answer, and what came after it."""
    first: TinyportError | None = None
    for proxy in list(dict.fromkeys((identity.proxy, *identity.proxies)))[:MOST_PROXIES]:
        try:
            return _ask_one(replace(identity, proxy=proxy), wish)
        except TinyportError as error:
            if first is None:
                first = error
            # Others would say the same of everything else.
            if not isinstance(error, Unavailable) and error.code != "offline":
                break
    assert first is not None
    raise first


def _ask_one(identity: UserIdentity, wish: Mapping[str, str]) -> tuple[ssl.SSLSocket, Mapping[str, object], bytes]:
    secure = connect(identity)
    try:
        question = {
            "version": 1,
            "certificate": base64.b64encode(parse_public_line(identity.ssh_certificate)).decode("ascii"),
            **wish,
        }
        secure.settimeout(ANSWER_TIMEOUT)
        secure.sendall(json.dumps(question).encode() + b"\n")
        line, early = _read_line(secure)
        return secure, _answer(line), early
    except TinyportError:
        secure.close()
        raise
    except TimeoutError:
        secure.close()
        raise Unavailable(f"the proxy at {identity.proxy} does not answer", hint="try again in a moment") from None
    except ssl.SSLError as error:
        secure.close()
        # In TLS 1.3 a client hears that its certificate was refused with its first read.
        raise AccessDenied(
            f"the proxy at {identity.proxy} refused this login's certificate",
            detail=str(error),
            code="login_required",
            hint='run "tsh login"',
        ) from None
    except OSError as error:
        secure.close()
        raise Unavailable(f"the proxy at {identity.proxy} closed the connection", detail=str(error)) from None


def connect(identity: UserIdentity) -> ssl.SSLSocket:
    """TLS to the identity's proxy, which is checked to be one of its cluster."""
    where = f"the proxy at {identity.proxy}"
    try:
        context = client_context(
            list(identity.tls_cas), alpn=[ALPN], cert_pem=identity.tls_certificate, key_pem=identity.tls_key
        )
    except (ssl.SSLError, ValueError) as error:
        raise OperatorError("the login's TLS files are damaged", detail=str(error), hint='run "tsh login"') from None
    try:
        plain = open_connection(parse_address(identity.proxy), CONNECT_TIMEOUT)
    except OSError as error:
        raise cannot_reach(where, error) from None
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return _secure(identity, context, plain)
    except PeerError as error:
        # TLS may end before the proxy; what it is to carry goes inside then.
        try:
            inside = open_inside(parse_address(identity.proxy), CONNECT_TIMEOUT)
        except (OSError, TinyportError):
            raise error from None
    return _secure(identity, context, inside)


def _secure(identity: UserIdentity, context: ssl.SSLContext, plain: socket.socket) -> ssl.SSLSocket:
    where = f"the proxy at {identity.proxy}"
    try:
        secure = context.wrap_socket(plain)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise PeerError(
            f"{where} is not the one that this cluster's CA vouches for",
            detail=error.verify_message,
            hint='run "tsh login"; if the cluster was made anew, with its "--ca-pin"',
        ) from None
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        plain.close()
        raise Unavailable(f"{where} does not complete TLS", detail=str(error)) from None
    except ssl.SSLError as error:
        plain.close()
        raise PeerError(f"{where} does not speak our TLS", detail=str(error)) from None
    except OSError as error:
        plain.close()
        raise Unavailable(f"{where} does not complete TLS", detail=str(error)) from None
    found = from_peer_certificate(secure.getpeercert())
    if found.kind != "proxy" or found.cluster != identity.cluster:
        secure.close()
        raise PeerError(f"{where} is not a proxy of {identity.cluster}", detail=f"it is {found.uri}")
    return secure


def _read_line(secure: ssl.SSLSocket) -> tuple[bytes, bytes]:
    held = b""
    while b"\n" not in held:
        if len(held) > MAX_LINE:
            raise PeerError("the proxy's answer is too long")
        piece = secure.recv(16384)
        if not piece:
            raise Unavailable("the proxy closed the connection without an answer", hint="try again in a moment")
        held += piece
    line, _, early = held.partition(b"\n")
    return line, early


def _answer(line: bytes) -> Mapping[str, object]:
    """The proxy's line, or the refusal as an error."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise PeerError("the proxy's answer is not one", detail=printable(line[:200].decode("utf-8", "replace")))
    if found.get("ok") is not True:
        error = found.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        raise error_of(_STATUSES.get(code, 403) if isinstance(code, str) else 403, found)
    return found
