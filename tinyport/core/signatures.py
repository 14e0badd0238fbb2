"""SSH signatures (RFC 4253 section 6.6, RFC 8709, RFC 5656, RFC 8332, PROTOCOL.u2f): the door to ``cryptography``.

``cryptography`` costs 9 MB in a process and is never given back, so it is imported where a key is first used.
"""

from __future__ import annotations

import binascii
import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.sshwire import Reader, string

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

# NIST SP 800-131A: nothing shorter. OpenSSH's own floor is 1024.
MIN_RSA_BITS = 2048

#: signature algorithm → key type it belongs to
SIGNATURE_KEY_TYPES = {
    "ssh-ed25519": "ssh-ed25519",
    "rsa-sha2-256": "ssh-rsa",
    "rsa-sha2-512": "ssh-rsa",
    "ecdsa-sha2-nistp256": "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384": "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521": "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com": "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com": "sk-ecdsa-sha2-nistp256@openssh.com",
}

# PROTOCOL.u2f: bit 0 of the authenticator's flags, "user presence". A signature without it was made unattended.
_SK_USER_PRESENT = 0x01

_ED25519_KEY = string(b"ssh-ed25519") + (32).to_bytes(4, "big")
_ED25519_SIGNATURE = string(b"ssh-ed25519") + (64).to_bytes(4, "big")
_ED25519_LENGTHS = (len(_ED25519_KEY) + 32, len(_ED25519_SIGNATURE) + 64)
_ED25519_ONLY = (None, "ssh-ed25519")

_BAD = "the signature is not right"

# PROTOCOL.key
_MAGIC = b"openssh-key-v1\0"
_PEM_BEGIN, _PEM_END = (f"-----{word} OPENSSH PRIVATE KEY-----".encode().split() for word in ("BEGIN", "END"))


def verify(key_blob: bytes, data: bytes, signature: bytes, algorithm: str | None = None) -> None:
    """Check an SSH signature.

    ``key_blob``: plain SSH public key. ``signature``: SSH signature blob (algorithm name, then the value).
    ``algorithm``: when given, the only signature algorithm that is accepted. Raises PeerError when the signature is
    not valid, for another kind of key, of an algorithm that is too weak, or malformed.
    """
    # What nearly all of them are; a form that is not exactly this one is read in full below.
    if (
        (len(key_blob), len(signature)) == _ED25519_LENGTHS
        and key_blob.startswith(_ED25519_KEY)
        and signature.startswith(_ED25519_SIGNATURE)
        and algorithm in _ED25519_ONLY
    ):
        _verify_ed25519(key_blob[len(_ED25519_KEY) :], signature[len(_ED25519_SIGNATURE) :], data)
        return
    reader = Reader(signature, "signature")
    name = reader.text(64)
    value = reader.string(4096)
    key = Reader(key_blob, "public key")
    key_type = key.text(64)
    if SIGNATURE_KEY_TYPES.get(name) != key_type or (algorithm is not None and algorithm != name):
        raise PeerError(_BAD, detail=f"signature algorithm {name!r:.60} for a key of type {key_type!r:.60}")
    if name == "ssh-ed25519":
        point = key.string(64)
        key.end()
        reader.end()
        _verify_ed25519(point, value, data)
    elif name.startswith("sk-"):
        _verify_security_key(name, key, reader, value, data)
    elif name.startswith("rsa-"):
        reader.end()
        _verify_rsa(name, key, value, data)
    else:
        reader.end()
        curve, point = key.text(32), key.string(256)
        key.end()
        if name != f"ecdsa-sha2-{curve}":
            raise PeerError(_BAD, detail="curve and key type differ")
        _verify_ecdsa(curve, point, value, data)


def verify_raw(key_blob: bytes, data: bytes, signature: bytes) -> None:
    """Check a bare 64-byte Ed25519 signature by an ``ssh-ed25519`` key. PeerError when it is not valid."""
    reader = Reader(key_blob, "public key")
    if reader.text(64) != "ssh-ed25519":
        raise PeerError("an ssh-ed25519 key is needed here")
    point = reader.string(64)
    reader.end()
    _verify_ed25519(point, signature, data)


def _verify_ed25519(point: bytes, value: bytes, data: bytes) -> None:
    from cryptography.exceptions import InvalidSignature

    try:
        _ed25519(point).verify(value, data)
    except (InvalidSignature, ValueError):
        raise PeerError(_BAD) from None


@lru_cache(maxsize=64)
def _ed25519(point: bytes) -> Ed25519PublicKey:
    """The library's object for a public key. Kept, for a CA's is asked for again and again; ValueError is not."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(point)


def _verify_rsa(name: str, key: Reader, value: bytes, data: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    exponent, modulus = key.mpint(), key.mpint()
    key.end()
    if not MIN_RSA_BITS <= modulus.bit_length() <= 16384:
        raise PeerError(f"RSA keys need at least {MIN_RSA_BITS} bits")
    digest: hashes.HashAlgorithm = hashes.SHA512() if name == "rsa-sha2-512" else hashes.SHA256()
    try:
        public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        # RFC 8332 section 3 lets a signature be as long as the modulus only; some agents drop leading zeros.
        value = value.rjust((modulus.bit_length() + 7) // 8, b"\x00")
        public.verify(value, data, padding.PKCS1v15(), digest)
    except (InvalidSignature, ValueError):
        raise PeerError(_BAD) from None


def _verify_ecdsa(curve: str, point: bytes, value: bytes, data: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    curves: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
        "nistp256": (ec.SECP256R1(), hashes.SHA256()),
        "nistp384": (ec.SECP384R1(), hashes.SHA384()),
        "nistp521": (ec.SECP521R1(), hashes.SHA512()),
    }
    inner = Reader(value, "signature")
    r, s = inner.mpint(), inner.mpint()
    inner.end()
    group, digest = curves[curve]
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(group, point)
        public.verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(digest))
    except (InvalidSignature, ValueError):
        raise PeerError(_BAD) from None


def _verify_security_key(name: str, key: Reader, reader: Reader, value: bytes, data: bytes) -> None:
    # PROTOCOL.u2f "SSH U2F signatures": the token signs SHA256(application) || flags || counter || SHA256(data).
    flags, counter = reader.byte(), reader.uint32()
    reader.end()
    if not flags & _SK_USER_PRESENT:
        raise PeerError("the security key was not touched")
    ecdsa = name.startswith("sk-ecdsa")
    curve = key.text(32) if ecdsa else ""
    point, application = key.string(256), key.string(1024)
    key.end()
    signed = (
        hashlib.sha256(application).digest()
        + bytes((flags,))
        + counter.to_bytes(4, "big")
        + hashlib.sha256(data).digest()
    )
    if not ecdsa:
        _verify_ed25519(point, value, signed)
    elif curve == "nistp256":
        _verify_ecdsa(curve, point, value, signed)
    else:
        raise PeerError(_BAD, detail="security keys use nistp256 only")


class Ed25519Key:
    """An Ed25519 private key in SSH's clothes. The secret leaves it only through ``to_openssh``."""

    __slots__ = ("_private", "public_blob")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        #: the plain SSH public key blob
        self.public_blob = string(b"ssh-ed25519") + string(private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Ed25519Key:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_openssh(cls, pem: bytes) -> Ed25519Key:
        """Read an unencrypted OpenSSH private key file. OperatorError when it is not one, or not Ed25519."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        try:
            seed, public = _openssh_ed25519(pem)
            made = cls(Ed25519PrivateKey.from_private_bytes(seed))
        except (PeerError, ValueError):
            raise OperatorError("the private key cannot be read: it is damaged or has a passphrase") from None
        if made.public_blob != public:
            raise OperatorError("the private key cannot be read: its halves do not belong together")
        return made

    def to_openssh(self) -> bytes:
        """The unencrypted OpenSSH private key file."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())

    def sign_raw(self, data: bytes) -> bytes:
        """The bare 64-byte signature."""
        return self._private.sign(data)

    def sign(self, data: bytes) -> bytes:
        """An SSH signature blob (RFC 8709 section 6)."""
        return string(b"ssh-ed25519") + string(self._private.sign(data))


def _openssh_ed25519(pem: bytes) -> tuple[bytes, bytes]:
    """An OpenSSH private key file (PROTOCOL.key) → its seed and public key blob. PeerError or ValueError when it is
    malformed or encrypted, OperatorError for another kind of key.

    The library's own reader loads every kind of key that there is, 0.9 MB of it, into each keeper.
    """
    lines = pem.split()
    if lines[:4] != _PEM_BEGIN or lines[-4:] != _PEM_END:
        raise ValueError("not an OpenSSH private key file")
    whole = binascii.a2b_base64(b"".join(lines[4:-4]))
    if not whole.startswith(_MAGIC):
        raise ValueError("not an OpenSSH private key")
    reader = Reader(whole[len(_MAGIC) :], "private key")
    if (reader.string(64), reader.string(64), reader.string(64)) != (b"none", b"none", b"") or reader.uint32() != 1:
        raise ValueError("it is encrypted, or there are several")
    public = reader.string()
    inner = Reader(reader.string(), "private key")
    reader.end()
    if inner.uint32() != inner.uint32():
        raise ValueError("it is damaged")
    if inner.text(64) != "ssh-ed25519":
        raise OperatorError("the private key is not an Ed25519 key")
    point, secret = inner.string(64), inner.string(64)
    inner.string()
    padding = inner.rest()
    if len(secret) != 64 or secret[32:] != point or padding != bytes(range(1, len(padding) + 1)):
        raise ValueError("it is damaged")
    return secret[:32], public
