"""The exchange hash (RFC 4253 section 8, RFC 5656 section 4): what its preimage says, and the hash itself.

The keeper computes H from the transcript that a worker hands over, so that a worker cannot invent session identifiers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tinyport.core.errors import PeerError
from tinyport.core.sshwire import Reader

HASHES = frozenset(("sha256", "sha384", "sha512"))
# Two KEXINITs of at most a packet each (RFC 4253 section 6.1: 35,000 bytes), a certificate, the key exchange values.
MAX_TRANSCRIPT = 128 * 1024


@dataclass(frozen=True)
class Transcript:
    """The fields every key exchange method has in its preimage: V_C, V_S, I_C, I_S, K_S."""

    client_version: bytes
    server_version: bytes
    client_kexinit: bytes
    server_kexinit: bytes
    host_key: bytes


def parse_transcript(data: bytes) -> Transcript:
    """The preimage of H → its common fields. What follows them (the method's values and K) stays opaque."""
    if len(data) > MAX_TRANSCRIPT:
        raise PeerError(f"a key exchange transcript of {len(data)} bytes, at most {MAX_TRANSCRIPT} are allowed")
    reader = Reader(data, "key exchange transcript")
    parsed = Transcript(
        client_version=reader.string(255),
        server_version=reader.string(255),
        client_kexinit=reader.string(MAX_TRANSCRIPT),
        server_kexinit=reader.string(MAX_TRANSCRIPT),
        host_key=reader.string(MAX_TRANSCRIPT),
    )
    # SSH_MSG_KEXINIT is message 20; anything else at this place is not a transcript of ours.
    if parsed.client_kexinit[:1] != b"\x14" or parsed.server_kexinit[:1] != b"\x14" or reader.at_end():
        raise PeerError("malformed key exchange transcript")
    return parsed


def exchange_hash(hash_name: str, transcript: bytes) -> bytes:
    """H. PeerError for a hash function that none of our key exchange methods uses."""
    if hash_name not in HASHES:
        raise PeerError("malformed key exchange transcript", detail=f"hash {hash_name!r:.40}")
    return hashlib.new(hash_name, transcript).digest()
