"""The signed publickey request (RFC 4252 section 7)."""

from __future__ import annotations

from dataclasses import dataclass

from tinyport.core.errors import PeerError
from tinyport.core.sshwire import Reader, string

_MSG_USERAUTH_REQUEST = 50


@dataclass(frozen=True)
class Request:
    """Who asks to be whom with which key. ``key_blob`` may be a certificate."""

    user: str
    service: str
    algorithm: str
    key_blob: bytes


def parse_publickey_request(message: bytes) -> Request:
    """A publickey request up to its signature, without the session identifier before it.

    PeerError when it is not exactly such a request: the bytes that were signed must have this meaning and no other.
    """
    reader = Reader(message, "authentication request")
    if reader.byte() != _MSG_USERAUTH_REQUEST:
        raise PeerError("malformed authentication request")
    user, service, method = reader.text(256), reader.text(64), reader.text(64)
    signed = reader.boolean()
    if method != "publickey" or not signed:
        raise PeerError("malformed authentication request: not a signed publickey request")
    request = Request(user=user, service=service, algorithm=reader.text(64), key_blob=reader.string())
    reader.end()
    return request


def signed_data(session_id: bytes, message: bytes) -> bytes:
    """What the signature covers: string session identifier, then the request."""
    return string(session_id) + message
