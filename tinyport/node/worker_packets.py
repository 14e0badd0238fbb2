"""What each packet costs: asyncssh's path for them, without what our ciphers and a production log do not need.

Found with a profiler; the packets on the wire are the same but for the IGNORE before each of them. ``make bench bulk``
and ``handshake`` show what it brings.
"""

from __future__ import annotations

from typing import Any

import asyncssh
from asyncssh.constants import MSG_IGNORE
from asyncssh.encryption import Encryption, register_encryption_alg
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305

# asyncssh keeps what it has not parsed in one bytes object and copies the rest of it for each packet. Some two
# packets of the usual 32 KiB at a time make that copy small.
PIECE = 64 * 1024
_TAG = 16


class Unlogged:
    """For handlers of packets: none of them is logged, so none of them is described."""

    def log_sent_packet(self, *about: object, **more: object) -> None:
        return

    def log_received_packet(self, *about: object, **more: object) -> None:
        return


class LeanPackets(Unlogged, asyncssh.SSHServerConnection):
    """A server connection that sends what was asked for."""

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        del handler  # it would log
        # asyncssh sends an empty IGNORE before every packet, RFC 4251 section 9.3.1's measure against chosen plaintext
        # in CBC modes. We offer none of those, and it doubles packets, system calls and wake-ups at both ends.
        if pkttype != MSG_IGNORE:
            super().send_packet(pkttype, *args, handler=self)

    def data_received(self, data: bytes, datatype: Any = None) -> None:
        if len(data) <= PIECE:
            super().data_received(data, datatype)
            return
        for at in range(0, len(data), PIECE):
            super().data_received(data[at : at + PIECE], datatype)


class Gcm(Encryption):
    """RFC 5647 with OpenSSH's framing, AES-GCM keys expanded once and not for each packet."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aead = AESGCM(key)
        # RFC 5647 section 7.1: a fixed field and an invocation counter, which starts at a value that the key exchange
        # gave and is never repeated as keys are exchanged long before it wraps.
        self._fixed, self._counter = iv[:4], int.from_bytes(iv[4:], "big")

    @classmethod
    def new(
        cls, cipher_name: str, key: bytes, iv: bytes, mac_alg: bytes = b"", mac_key: bytes = b"", etm: bool = False
    ) -> Gcm:
        del cipher_name, mac_alg, mac_key, etm
        return cls(key, iv)

    @classmethod
    def needs_mac(cls) -> bool:
        return False

    @classmethod
    def get_mac_params(cls, mac_alg: bytes) -> tuple[int, int, bool]:
        del mac_alg
        return 0, _TAG, True

    def _nonce(self) -> bytes:
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        self._counter = (self._counter + 1) & 0xFFFFFFFFFFFFFFFF
        return nonce

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        del seq
        return header + self._aead.encrypt(self._nonce(), packet, header), b""

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        del seq
        return first_block, first_block[:header_len]

    def decrypt_packet(self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes | None:
        del seq
        sealed = b"".join((first[header_len:], rest, mac))
        try:
            return self._aead.decrypt(self._nonce(), sealed, first[:header_len])
        except InvalidTag:
            return None


class ChaCha(Encryption):
    """PROTOCOL.chacha20poly1305 with two cipher contexts that live as long as the keys, not four for each packet."""

    def __init__(self, key: bytes) -> None:
        # The first half is for payloads and tags, the second for lengths.
        self._payload, self._length = (
            Cipher(ChaCha20(half, bytes(16)), mode=None).encryptor() for half in (key[:32], key[32:])
        )

    @classmethod
    def new(
        cls, cipher_name: str, key: bytes, iv: bytes, mac_alg: bytes = b"", mac_key: bytes = b"", etm: bool = False
    ) -> ChaCha:
        del cipher_name, iv, mac_alg, mac_key, etm
        return cls(key)

    @classmethod
    def needs_mac(cls) -> bool:
        return False

    @classmethod
    def get_mac_params(cls, mac_alg: bytes) -> tuple[int, int, bool]:
        del mac_alg
        return 0, _TAG, True

    def _begin(self, nonce: bytes) -> Poly1305:
        """Block 0 of the key stream is the packet's Poly1305 key (half of it); the payload continues with block 1."""
        self._payload.reset_nonce(nonce)
        return Poly1305(self._payload.update(bytes(64))[:32])

    def _code_header(self, nonce: bytes, header: bytes) -> bytes:
        self._length.reset_nonce(nonce)
        return self._length.update(header)

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        nonce = seq.to_bytes(16, "big")
        tag = self._begin(nonce)
        sealed = self._code_header(nonce, header) + self._payload.update(packet)
        tag.update(sealed)
        return sealed, tag.finalize()

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        return first_block, self._code_header(seq.to_bytes(16, "big"), first_block[:header_len])

    def decrypt_packet(self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes | None:
        tag = self._begin(seq.to_bytes(16, "big"))
        sealed = first + rest
        tag.update(sealed)
        try:
            tag.verify(mac)
        except InvalidSignature:
            return None
        return self._payload.update(memoryview(sealed)[header_len:])


def use_kept_ciphers() -> None:
    """Have asyncssh make these for the ciphers they implement, in this process."""
    for name in ("aes128-gcm", "aes256-gcm"):
        register_encryption_alg(f"{name}@openssh.com".encode(), Gcm, name, True)
    # cryptography has it since 43; with an older one (OpenWrt 24.10) asyncssh's own is used.
    if hasattr(Cipher(ChaCha20(bytes(32), bytes(16)), mode=None).encryptor(), "reset_nonce"):
        register_encryption_alg(b"chacha20-poly1305@openssh.com", ChaCha, "chacha20-poly1305", True)
