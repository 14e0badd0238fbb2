"""Signatures of security keys (PROTOCOL.u2f), by an authenticator in software."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tinyport.core.errors import PeerError
from tinyport.core.signatures import verify
from tinyport.core.sshwire import mpint, string, uint32

DATA = b"session id and request"
APPLICATION = b"ssh:"
PRESENT, VERIFIED = 1, 4


class Ed25519Token:
    name = b"sk-ssh-ed25519@openssh.com"

    def __init__(self) -> None:
        self._key = ed25519.Ed25519PrivateKey.generate()
        point = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.blob = string(self.name) + string(point) + string(APPLICATION)

    def raw(self, message: bytes) -> bytes:
        return self._key.sign(message)


class EcdsaToken:
    name = b"sk-ecdsa-sha2-nistp256@openssh.com"

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.blob = string(self.name) + string(b"nistp256") + string(point) + string(APPLICATION)

    def raw(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(message, ec.ECDSA(hashes.SHA256())))
        return mpint(r) + mpint(s)


Token = Ed25519Token | EcdsaToken


def signed(
    token: Token, data: bytes = DATA, flags: int = PRESENT, application: bytes = APPLICATION, counter: int = 7
) -> bytes:
    message = hashlib.sha256(application).digest() + bytes((flags,)) + uint32(counter) + hashlib.sha256(data).digest()
    return string(token.name) + string(token.raw(message)) + bytes((flags,)) + uint32(counter)


@pytest.fixture(params=[Ed25519Token, EcdsaToken])
def token(request: pytest.FixtureRequest) -> Token:
    made: Token = request.param()
    return made


@pytest.mark.parametrize("flags", [PRESENT, PRESENT | VERIFIED])
def test_touched(token: Token, flags: int) -> None:
    verify(token.blob, DATA, signed(token, flags=flags))


@pytest.mark.parametrize("flags", [0, VERIFIED])
def test_not_touched(token: Token, flags: int) -> None:
    with pytest.raises(PeerError, match="not touched"):
        verify(token.blob, DATA, signed(token, flags=flags))


def test_what_is_not_its_own(token: Token) -> None:
    good = signed(token)
    for wrong in (
        signed(token, data=b"another session"),
        signed(token, application=b"ssh:other"),
        # Flags and counter are part of what was signed.
        good[:-5] + bytes((PRESENT | VERIFIED,)) + good[-4:],
        good[:-1] + b"\x08",
        good[:-1],
        good + b"\0",
        signed(type(token)()),
    ):
        with pytest.raises(PeerError):
            verify(token.blob, DATA, wrong)
