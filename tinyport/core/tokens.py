"""Secrets that are handed out once (join tokens, invitations): ``id.secret``, kept as a hash.

The secret has 128 random bits, so a plain SHA-256 is enough: there is nothing to guess that a slow hash would protect.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from tinyport.core.errors import PeerError

ID_BYTES = 6
SECRET_BYTES = 16


def _text(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def new(id_bytes: bytes, secret_bytes: bytes) -> str:
    """Random bytes (ID_BYTES and SECRET_BYTES of them) → the token's text. Letters that survive being read aloud."""
    if len(id_bytes) != ID_BYTES or len(secret_bytes) != SECRET_BYTES:
        raise ValueError("a token is made of 6 and 16 random bytes")
    return f"{_text(id_bytes)}.{_text(secret_bytes)}"


def split(token: str) -> tuple[str, str]:
    """``id.secret`` → both. PeerError (which never repeats the secret) when it is not of that form.

    Tokens from configuration files are longer words of the operator's choice; both parts may be up to 128 characters.
    """
    text = token.strip() if isinstance(token, str) else ""
    id, dot, secret = text.partition(".")
    word = text.isascii() and text.isprintable() and " " not in text
    if not word or not dot or not 1 <= len(id) <= 128 or not 16 <= len(secret) <= 128:
        raise PeerError("this is not a token", hint="a token looks like abcdefghij.klmnop...; copy it whole")
    return id, secret


def digest(secret: str) -> str:
    """What is stored: hex SHA-256 of the secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(secret: str, stored: str) -> bool:
    """Is this the secret whose digest is stored? In constant time."""
    return hmac.compare_digest(digest(secret), stored)
