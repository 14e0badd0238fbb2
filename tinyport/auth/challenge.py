"""Challenges: what a device signs to show that it has its key, now. Nothing is kept for those that never come back."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct

from tinyport.core.errors import PeerError

GOOD_FOR = 120
_RANDOM = 16
_MAC = 16


class Challenges:
    """``secret``: 32 random bytes, new at each start. Times are Unix seconds."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, now: float, random: bytes) -> str:
        """An opaque text, good for ``GOOD_FOR`` seconds. ``random``: 16 bytes."""
        body = struct.pack(">Q", int(now)) + random
        return base64.urlsafe_b64encode(body + self._mac(body)).decode("ascii")

    def check(self, text: str, now: float) -> None:
        """PeerError unless we made it, and lately."""
        stale = PeerError("the challenge is not good (any more)", hint="ask for a new one", code="stale_challenge")
        try:
            data = base64.urlsafe_b64decode(text.encode("ascii"))
        except (binascii.Error, ValueError):
            raise stale from None
        body, mac = data[:-_MAC], data[-_MAC:]
        if len(data) != 8 + _RANDOM + _MAC or not hmac.compare_digest(mac, self._mac(body)):
            raise stale
        (made,) = struct.unpack(">Q", body[:8])
        if not made <= now + 1 <= made + 1 + GOOD_FOR:
            raise stale

    def _mac(self, body: bytes) -> bytes:
        return hmac.new(self._secret, body, hashlib.sha256).digest()[:_MAC]


class Moments:
    """Auth's word on when it answered whom. Who repeats it lived at that moment; nobody can make one up.

    ``secret``: 32 random bytes, new at each start: a word from before is none.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, now: float, who: str) -> str:
        stated = f"{now:.3f}"
        return f"{stated}-{self._mac(stated, who)}"

    def read(self, text: str, who: str) -> float:
        """The moment (Unix seconds) of a word that ``who`` was given; 0 for what is none."""
        stated, _, mac = text.partition("-")
        right = hmac.compare_digest(mac.encode(), self._mac(stated, who).encode())
        return float(stated) if right else 0.0

    def _mac(self, stated: str, who: str) -> str:
        return hmac.new(self._secret, f"{stated} {who}".encode(), hashlib.sha256).hexdigest()[: 2 * _MAC]
