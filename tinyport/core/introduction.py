"""How auth knows that an address which stands before a connection was put there by a proxy of the cluster.

The proxy joins its clients' bytes with auth's, so auth would see the proxy's address for all of them. It says whose
connection it is in a PROXY header (``core.proxy_protocol``), with a TLV in which it proves to be one of the cluster's:
an HMAC under a key that auth gave it inside mutual TLS. Keys last for some minutes, and each introduction counts once.
docs/protocol/api.md, "Introductions". Pure.
"""

from __future__ import annotations

import hashlib
import hmac

from tinyport.core.errors import PeerError
from tinyport.core.proxy_protocol import Address, Announced, find_tlv, make_header, make_tlv

# Section 2.2.7 of the PROXY protocol: 0xE0 to 0xEF are for applications.
TLV = 0xE7
#: seconds for which one key is given out; it counts as long again
PERIOD = 60
NONCE_BYTES = 16
# In one period, of all proxies: far more than auth can make handshakes. Each is remembered in some 100 bytes.
MOST = 100_000
_MAC_BYTES = 32
_WHAT = b"tinyport-introduction-v1\0"
_LENGTH = 16 + 8 + NONCE_BYTES + _MAC_BYTES


def _raw(uuid: str) -> bytes:
    return bytes.fromhex(uuid.replace("-", ""))


def introduction_key(secret: bytes, uuid: str, period: int) -> bytes:
    """The key of the proxy ``uuid`` for a period."""
    return hmac.digest(secret, _raw(uuid) + period.to_bytes(8, "big"), hashlib.sha256)


def introduce(key: bytes, uuid: str, period: int, nonce: bytes, client: Address) -> bytes:
    """The header with which the proxy ``uuid`` introduces a connection of ``client``."""
    head = _raw(uuid) + period.to_bytes(8, "big") + nonce
    return make_header(client, make_tlv(TLV, head + _mac(key, head, make_header(client))))


def _mac(key: bytes, head: bytes, header: bytes) -> bytes:
    return hmac.digest(key, _WHAT + head + header, hashlib.sha256)


class Introductions:
    """Judges them at auth. ``secret``: random, of this run of auth."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        #: period → the nonces that were shown in it
        self._seen: dict[int, set[bytes]] = {}

    def key(self, uuid: str, now: float) -> tuple[int, bytes]:
        """The period of ``now`` (seconds that never jump) and the key of a proxy for it."""
        period = int(now // PERIOD)
        return period, introduction_key(self._secret, uuid, period)

    def judge(self, said: Announced, now: float) -> Address:
        """The client's address. PeerError when no proxy of ours says so, or said so before."""
        value = find_tlv(said.rest, TLV)
        if said.source is None or value is None or len(value) != _LENGTH:
            raise PeerError("an introduction by nobody")
        head, mac = value[:-_MAC_BYTES], value[-_MAC_BYTES:]
        uuid, period, nonce = head[:16].hex(), int.from_bytes(head[16:24], "big"), head[24:]
        current = int(now // PERIOD)
        if period not in (current, current - 1):
            raise PeerError("an introduction by an old key", detail=f"of proxy {uuid}")
        key = introduction_key(self._secret, uuid, period)
        if not hmac.compare_digest(mac, _mac(key, head, make_header(said.source))):
            raise PeerError("an introduction by nobody", detail=f"who says to be proxy {uuid}")
        for old in [other for other in self._seen if other < current - 1]:
            del self._seen[old]
        seen = self._seen.setdefault(period, set())
        if nonce in seen:
            raise PeerError("an introduction that was used before", detail=f"of proxy {uuid}")
        if len(seen) >= MOST:
            raise PeerError("too many introductions in a minute", detail=f"of proxy {uuid}")
        seen.add(nonce)
        return said.source
