"""An SSH client of our own that does one thing: full handshakes, as many as a core can drive.

It shares no code with the server under test beyond ``cryptography``'s primitives, waits in one ``select`` for all its
connections, and proves what it measures: the host's signature over the exchange hash is verified, the server's CA is
the expected one, and a handshake counts only at SSH_MSG_USERAUTH_SUCCESS. As ssh(1) does, it asks first whether the
key would do, and then signs (RFC 4252 section 7).

``python -m bench.wire_client`` reads one JSON object on standard input and writes one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.poly1305 import Poly1305

CURVE, HYBRID = "curve25519-sha256", "mlkem768x25519-sha256"
CIPHER = "chacha20-poly1305@openssh.com"
PLAIN, CERTIFIED = b"ssh-ed25519", b"ssh-ed25519-cert-v01@openssh.com"
VERSION = b"SSH-2.0-bench"
_STRICT_CLIENT, _STRICT_SERVER = b"kex-strict-c-v00@openssh.com", b"kex-strict-s-v00@openssh.com"
DISCONNECT, IGNORE, DEBUG, SERVICE_REQUEST, SERVICE_ACCEPT, EXT_INFO = 1, 2, 4, 5, 6, 7
KEXINIT, NEWKEYS, ECDH_INIT, ECDH_REPLY = 20, 21, 30, 31
USERAUTH_REQUEST, USERAUTH_SUCCESS, BANNER, PK_OK = 50, 52, 53, 60


class Refused(Exception):
    """The server did not let us in, or is not who it should be."""


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def mpint(value: bytes) -> bytes:
    value = value.lstrip(b"\0")
    return string(b"\0" + value if value and value[0] & 0x80 else value)


def take(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from(">I", data, at)
    end: int = at + 4 + length
    return data[at + 4 : end], end


@dataclass
class Terms:
    """What to do on every connection. ``key`` is the user's; ``public`` what is offered: key or certificate."""

    kex: str
    user: str
    key: Ed25519PrivateKey
    public: bytes
    #: the host CA's public key blob; None: the server shows a plain key
    host_ca: bytes | None
    algorithm: bytes = field(init=False)
    #: K_S that were checked before
    trusted: dict[bytes, Ed25519PublicKey] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.algorithm = take(self.public, 0)[0]

    def host_key(self, blob: bytes) -> Ed25519PublicKey:
        """The key that must have signed the exchange. Refused when the host is not certified by the expected CA."""
        if blob not in self.trusted:
            self.trusted[blob] = self._check(blob)
        return self.trusted[blob]

    def _check(self, blob: bytes) -> Ed25519PublicKey:
        kind, at = take(blob, 0)
        if self.host_ca is None:
            return Ed25519PublicKey.from_public_bytes(take(blob, at)[0])
        if kind != CERTIFIED:
            raise Refused(f"the host showed {kind!r} and no certificate")
        _, at = take(blob, at)
        point, at = take(blob, at)
        at += 8 + 4  # serial, type
        for _ in range(2):
            _, at = take(blob, at)
        at += 16  # validity
        for _ in range(3):
            _, at = take(blob, at)
        ca, at = take(blob, at)
        signature, _ = take(blob, at)
        if ca != self.host_ca:
            raise Refused("the host is certified by somebody else")
        Ed25519PublicKey.from_public_bytes(take(ca, 15)[0]).verify(take(signature, 15)[0], blob[:at])
        return Ed25519PublicKey.from_public_bytes(point)


class _Direction:
    """chacha20-poly1305@openssh.com (PROTOCOL.chacha20poly1305) in one direction."""

    def __init__(self, key: bytes) -> None:
        self._payload, self._length = key[:32], key[32:]

    def _stream(self, key: bytes, sequence: int, counter: int, data: bytes) -> bytes:
        nonce = struct.pack("<Q", counter) + struct.pack(">Q", sequence)
        return Cipher(algorithms.ChaCha20(key, nonce), None).encryptor().update(data)

    def seal(self, sequence: int, packet: bytes) -> bytes:
        sealed = self._stream(self._length, sequence, 0, packet[:4])
        keyed = self._stream(self._payload, sequence, 0, bytes(64))[:32]
        sealed += self._stream(self._payload, sequence, 1, packet[4:])
        return sealed + Poly1305.generate_tag(keyed, sealed)

    def length(self, sequence: int, head: bytes) -> int:
        (found,) = struct.unpack(">I", self._stream(self._length, sequence, 0, head))
        return int(found)

    def open(self, sequence: int, packet: bytes) -> bytes:
        body, tag = packet[:-16], packet[-16:]
        Poly1305.verify_tag(self._stream(self._payload, sequence, 0, bytes(64))[:32], body, tag)
        return self._stream(self._payload, sequence, 1, body[4:])


Steps = Generator[bytes, bytes, None]


class Handshake:
    """One connection without its socket: ``steps`` yields bytes to send (often none) and is sent what was received."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._incoming = bytearray()
        self._outgoing = b""
        self._sent = self._received = 0
        self._seal: _Direction | None = None
        self._unseal: _Direction | None = None

    # ------------------------------------------------------------------ packets

    def _send(self, payload: bytes) -> None:
        # RFC 4253 section 6; the length field of an AEAD packet is not part of what is padded.
        block, head = (8, 4) if self._seal is not None else (8, 0)
        padding = block - (len(payload) + 5 - head) % block
        padding += block if padding < 4 else 0
        packet = struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding)
        self._outgoing += packet if self._seal is None else self._seal.seal(self._sent, packet)
        self._sent += 1

    def _more(self, wanted: int) -> Generator[bytes, bytes, None]:
        while len(self._incoming) < wanted:
            out, self._outgoing = self._outgoing, b""
            self._incoming += yield out

    def _packet(self) -> Generator[bytes, bytes, bytes]:
        """The next packet's payload that is neither IGNORE nor DEBUG."""
        while True:
            yield from self._more(4)
            head = bytes(self._incoming[:4])
            if self._unseal is None:
                length, tag = struct.unpack(">I", head)[0], 0
            else:
                length, tag = self._unseal.length(self._received, head), 16
            yield from self._more(4 + length + tag)
            packet = bytes(self._incoming[: 4 + length + tag])
            del self._incoming[: 4 + length + tag]
            plain = packet[4:] if self._unseal is None else self._unseal.open(self._received, packet)
            self._received += 1
            payload = plain[1 : len(plain) - plain[0]]
            if payload[0] == DISCONNECT:
                raise Refused(f"disconnected: {take(payload, 5)[0].decode(errors='replace')}")
            if payload[0] not in (IGNORE, DEBUG):
                return payload

    def _expect(self, wanted: int, but: tuple[int, ...] = ()) -> Generator[bytes, bytes, bytes]:
        while True:
            payload = yield from self._packet()
            if payload[0] == wanted:
                return payload
            if payload[0] not in but:
                raise Refused(f"message {payload[0]} instead of {wanted}")

    # ------------------------------------------------------------------ the whole of it

    def steps(self) -> Steps:
        self._outgoing += VERSION + b"\r\n"
        while b"\n" not in self._incoming:
            yield from self._more(len(self._incoming) + 1)
        line, _, rest = bytes(self._incoming).partition(b"\n")
        self._incoming[:] = rest
        session = yield from self._exchange(line.rstrip(b"\r"))
        yield from self._authenticate(session)

    def _exchange(self, server_version: bytes) -> Generator[bytes, bytes, bytes]:
        terms = self._terms
        host_algorithm = PLAIN if terms.host_ca is None else CERTIFIED
        lists = [terms.kex.encode() + b"," + _STRICT_CLIENT, host_algorithm]
        lists += [CIPHER.encode()] * 2 + [b"hmac-sha2-256"] * 2 + [b"none"] * 2 + [b""] * 2
        ours = bytes((KEXINIT,)) + os.urandom(16) + b"".join(map(string, lists)) + bytes(5)
        self._send(ours)
        theirs = yield from self._expect(KEXINIT)
        offered = take(theirs, 17)[0].split(b",")
        if terms.kex.encode() not in offered:
            raise Refused(f"the server has no {terms.kex}")

        secret = X25519PrivateKey.generate()
        public = secret.public_key().public_bytes_raw()
        kem = None
        if terms.kex == HYBRID:
            from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

            kem = MLKEM768PrivateKey.generate()
            public = kem.public_key().public_bytes_raw() + public
        self._send(bytes((ECDH_INIT,)) + string(public))
        reply = yield from self._expect(ECDH_REPLY)
        host_blob, at = take(reply, 1)
        server_public, at = take(reply, at)
        signature, _ = take(reply, at)
        if kem is None:
            shared = mpint(secret.exchange(X25519PublicKey.from_public_bytes(server_public)))
        else:
            inner = kem.decapsulate(server_public[:1088])
            inner += secret.exchange(X25519PublicKey.from_public_bytes(server_public[1088:]))
            shared = string(hashlib.sha256(inner).digest())
        pieces = [VERSION, server_version, ours, theirs, host_blob, public, server_public]
        session = hashlib.sha256(b"".join(map(string, pieces)) + shared).digest()
        terms.host_key(host_blob).verify(take(signature, 15)[0], session)

        self._send(bytes((NEWKEYS,)))
        yield from self._expect(NEWKEYS)
        if _STRICT_SERVER in offered:
            self._sent = self._received = 0
        self._seal, self._unseal = (_Direction(self._key(shared, session, letter)) for letter in (b"C", b"D"))
        return session

    @staticmethod
    def _key(shared: bytes, session: bytes, letter: bytes) -> bytes:
        # RFC 4253 section 7.2, for 64 bytes.
        first = hashlib.sha256(shared + session + letter + session).digest()
        return first + hashlib.sha256(shared + session + first).digest()

    def _authenticate(self, session: bytes) -> Steps:
        terms = self._terms
        self._send(bytes((SERVICE_REQUEST,)) + string(b"ssh-userauth"))
        yield from self._expect(SERVICE_ACCEPT, (EXT_INFO,))
        head = bytes((USERAUTH_REQUEST,)) + string(terms.user.encode()) + string(b"ssh-connection")
        asked = string(terms.algorithm) + string(terms.public)
        self._send(head + string(b"publickey") + b"\0" + asked)
        yield from self._expect(PK_OK, (EXT_INFO, BANNER))
        signed = head + string(b"publickey") + b"\1" + asked
        signature = string(PLAIN) + string(terms.key.sign(string(session) + signed))
        self._send(signed + string(signature))
        yield from self._expect(USERAUTH_SUCCESS, (EXT_INFO, BANNER))


# ---------------------------------------------------------------------------- many of them


class _Running:
    __slots__ = ("began", "pending", "steps", "stream")

    def __init__(self, address: tuple[str, int], terms: Terms, source: str) -> None:
        self.stream = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        self.stream.setblocking(False)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source:
            self.stream.bind((source, 0))
        self.stream.connect_ex(address)
        self.steps = Handshake(terms).steps()
        self.began = time.monotonic()
        self.pending = next(self.steps)


def run(address: tuple[str, int], terms: Terms, count: int, concurrency: int) -> dict[str, Any]:
    """``count`` handshakes, ``concurrency`` at a time. Seconds in all and of each, our own CPU, failures by text."""
    selector = selectors.DefaultSelector()
    times: list[float] = []
    failures: dict[str, int] = {}
    started = ended = 0
    begin, cpu = time.monotonic(), time.process_time()
    while ended < count:
        while started < count and started - ended < concurrency:
            # From many addresses, as people come: dropbear takes five unauthenticated connections from each.
            source = f"127.0.1.{1 + started % 250}" if address[0].startswith("127.") else ""
            one = _Running(address, terms, source)
            selector.register(one.stream, selectors.EVENT_WRITE, one)
            started += 1
        ready = selector.select(30)
        if not ready:
            raise SystemExit("bench: error: the server answers nobody for 30 s")
        for key, _ in ready:
            one = key.data
            try:
                going = _move(selector, one)
            except (Refused, OSError, InvalidSignature) as error:
                text = f"{type(error).__name__}: {error}"
                failures[text] = failures.get(text, 0) + 1
                going = False
            else:
                if not going:
                    times.append(time.monotonic() - one.began)
            if not going:
                selector.unregister(one.stream)
                one.stream.close()
                ended += 1
    seconds = time.monotonic() - begin
    cpu = time.process_time() - cpu
    return {"seconds": seconds, "done": len(times), "times": times, "client_cpu": cpu, "failures": failures}


def _move(selector: selectors.BaseSelector, one: _Running) -> bool:
    """Send what waits, or receive and go on. False at success."""
    if one.pending:
        sent = one.stream.send(one.pending)
        one.pending = one.pending[sent:]
        if not one.pending:
            selector.modify(one.stream, selectors.EVENT_READ, one)
        return True
    data = one.stream.recv(65536)
    if not data:
        raise Refused("closed by the server")
    try:
        one.pending = one.steps.send(data)
    except StopIteration:
        return False
    if one.pending:
        # There is room in the socket's buffer nearly always.
        sent = one.stream.send(one.pending)
        one.pending = one.pending[sent:]
        if one.pending:
            selector.modify(one.stream, selectors.EVENT_WRITE, one)
    return True


def main() -> None:
    told = json.load(sys.stdin)
    terms = Terms(
        kex=told["kex"],
        user=told["user"],
        key=Ed25519PrivateKey.from_private_bytes(base64.b64decode(told["key"])),
        public=base64.b64decode(told["public"]),
        host_ca=base64.b64decode(told["host_ca"]) if told["host_ca"] else None,
    )
    found = run((told["host"], told["port"]), terms, told["count"], told["concurrency"])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
