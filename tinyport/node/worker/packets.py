"""What each packet costs: asyncssh's path for them, without what our ciphers and a production log do not need.

Found with a profiler; the packets on the wire are the same but for the IGNORE before each of them. ``make bench bulk``
and ``handshake`` show what it brings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import asyncssh
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_IGNORE
from asyncssh.encryption import Encryption, register_encryption_alg
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305

# asyncssh keeps what it has not parsed in one bytes object and copies the rest of it for each packet. Some two
# packets of the usual 32 KiB at a time make that copy small.
PIECE = 64 * 1024
# asyncio makes room for 256 KiB before each read. What is larger than 128 KiB glibc takes from the kernel and gives
# back (mallopt(3), M_MMAP_THRESHOLD), page by page: a seventh of what input costs.
READ = 120 * 1024
# Reads from the first size on are looked through for channel data, and packets from the second on: keys that somebody
# types take asyncssh's way, which costs nothing there.
BULK, SMALL = 4096, 1024
# RFC 4253 section 6.1 wants 35,000; OpenSSH takes this much.
LARGEST = 256 * 1024
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

    def send_data(self, heads: Sequence[bytes], pieces: Sequence[bytes | memoryview]) -> bool:
        """Channel data, a packet for each piece: its head is all of the payload before it. False when this is not the
        moment (before sign-in, while keys are exchanged or when they are due): nothing was sent then.

        asyncssh copies such a packet nine times on its way, and makes a system call for each.
        """
        seal = getattr(self._send_encryption, "seal", None)
        if (
            seal is None
            or self._transport is None
            or self._compressor
            or not (self._auth_complete and self._kex_complete)
            or self._rekey_bytes_sent >= self._rekey_bytes
            or (self._rekey_seconds and time.monotonic() >= self._rekey_time)
        ):
            return False
        sealed = []
        for head, piece in zip(heads, pieces, strict=True):
            # RFC 4253 section 6, with the length outside of what is encrypted (or on its own).
            padding = -(self._send_enchdrlen + len(head) + len(piece)) % self._send_blocksize
            if padding < 4:
                padding += self._send_blocksize
            packet = b"".join((padding.to_bytes(1, "big"), head, piece, os.urandom(padding)))
            sealed.append(seal(self._send_seq, len(packet).to_bytes(4, "big"), packet))
            self._send_seq = (self._send_seq + 1) & 0xFFFFFFFF
            self._rekey_bytes_sent += len(packet)
        self._send(sealed[0] if len(sealed) == 1 else b"".join(sealed))
        return True

    # ------------------------------------------------------------------ what comes in

    def connection_made(self, transport: Any) -> None:
        if hasattr(transport, "max_size"):
            transport.max_size = READ
        super().connection_made(transport)

    def data_received(self, data: bytes, datatype: Any = None) -> None:
        """Channel data goes straight to its channel; all else is asyncssh's, packet by packet."""
        if len(data) >= BULK and self._auth_complete and self._transport is not None:
            data = self._take_bulk(data)
        for at in range(0, len(data), PIECE):
            super().data_received(data[at : at + PIECE], datatype)

    def _take_bulk(self, data: bytes) -> bytes:
        """What is left for asyncssh, which raises whatever there is to raise."""
        self._reset_keepalive_timer()
        at = 0
        if self._recv_handler == self._recv_packet:
            # In the middle of a packet, which is asyncssh's now: the rest of that, and no more.
            at = 4 + self._pktlen + self._recv_macsize - self._recv_blocksize - len(self._inpbuf)
            if not 0 <= at < len(data):
                return data
            super().data_received(data[:at])
        if self._inpbuf and self._between_packets():
            data, at = self._inpbuf + data[at:], 0
            self._inpbuf = b""
        view = memoryview(data)
        while self._between_packets():
            size = self._packet_size(view[at:])
            if size is None:
                # A part of a packet: not shown to asyncssh before it is whole.
                self._inpbuf = data[at:]
                return b""
            if not size:
                break
            if not self._take_packet(view[at : at + size]):
                super().data_received(data[at : at + size])
            at += size
        return data[at:]

    def _between_packets(self) -> bool:
        return (
            self._recv_handler == self._recv_pkthdr
            and self._kex_complete
            and not self._decompressor
            and self._transport is not None
            and hasattr(self._recv_encryption, "unseal")
        )

    def _packet_size(self, data: memoryview) -> int | None:
        """Of the packet at the beginning, in bytes; None while it is not whole, 0 for one that cannot be."""
        if len(data) < self._recv_blocksize:
            return None
        assert self._recv_encryption is not None
        _, length = self._recv_encryption.decrypt_header(self._recv_seq, bytes(data[: self._recv_blocksize]), 4)
        size = 4 + int.from_bytes(length, "big") + self._recv_macsize
        if not self._recv_blocksize + self._recv_macsize <= size <= LARGEST:
            return 0
        return size if len(data) >= size else None

    def _take_packet(self, sealed: memoryview) -> bool:
        """Deliver it when it is nothing but data for an open channel with room. False: nothing was done."""
        encryption: Any = self._recv_encryption
        if len(sealed) < SMALL or (packet := encryption.unseal(self._recv_seq, sealed)) is None:
            return False
        # RFC 4254 section 5.2: padding length, type, channel, string.
        end = len(packet) - packet[0]
        channel: Any = self._channels.get(int.from_bytes(packet[2:6], "big")) if packet[1] == MSG_CHANNEL_DATA else None
        size = int.from_bytes(packet[6:10], "big")
        if channel is None or end != 10 + size or channel._recv_state != "open" or size > channel._recv_window:
            encryption.put_back()
            return False
        self._recv_seq = (self._recv_seq + 1) & 0xFFFFFFFF
        try:
            channel._accept_data(packet[10:end])
        except asyncssh.DisconnectError as error:
            self._send_disconnect(error.code, error.reason, error.lang)
            self._force_close(error)
        except Exception:
            # As asyncssh has it: logged with its traceback, and the end of this connection.
            self.internal_error()
        return True


def _sealed_into(aead: Any, nonce: bytes, header: bytes, packet: bytes) -> bytearray:
    whole = bytearray(len(header) + len(packet) + _TAG)
    whole[: len(header)] = header
    with memoryview(whole) as view:
        aead.encrypt_into(nonce, packet, header, view[len(header) :])
    return whole


def _sealed_beside(aead: Any, nonce: bytes, header: bytes, packet: bytes) -> bytes:
    sealed: bytes = header + aead.encrypt(nonce, packet, header)
    return sealed


# cryptography has it since 47.
_sealed = _sealed_into if hasattr(AESGCM, "encrypt_into") else _sealed_beside


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

    def seal(self, seq: int, header: bytes, packet: bytes) -> bytes | bytearray:
        """The packet as it goes out."""
        del seq
        return _sealed(self._aead, self._nonce(), header, packet)

    def unseal(self, seq: int, sealed: memoryview) -> bytes | None:
        """What is in a whole packet; None when somebody has changed it, and nothing is read then."""
        del seq
        try:
            return self._aead.decrypt(self._nonce(), sealed[4:], sealed[:4])
        except InvalidTag:
            self.put_back()
            return None

    def put_back(self) -> None:
        """The last packet will be read once more."""
        self._counter = (self._counter - 1) & 0xFFFFFFFFFFFFFFFF

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        return bytes(self.seal(seq, header, packet)), b""

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

    def seal(self, seq: int, header: bytes, packet: bytes) -> bytearray:
        """The packet as it goes out."""
        nonce = seq.to_bytes(16, "big")
        tag = self._begin(nonce)
        whole = bytearray(4 + len(packet) + _TAG)
        with memoryview(whole) as view:
            view[:4] = self._code_header(nonce, header)
            self._payload.update_into(packet, view[4:-_TAG])
            tag.update(view[:-_TAG])
            view[-_TAG:] = tag.finalize()
        return whole

    def unseal(self, seq: int, sealed: memoryview) -> bytes | None:
        """What is in a whole packet; None when somebody has changed it."""
        tag = self._begin(seq.to_bytes(16, "big"))
        tag.update(sealed[:-_TAG])
        try:
            tag.verify(bytes(sealed[-_TAG:]))
        except InvalidSignature:
            return None
        return self._payload.update(sealed[4:-_TAG])

    def put_back(self) -> None:
        """The last packet will be read once more: its number is all that there is to it."""

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        return bytes(self.seal(seq, header, packet)), b""

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
