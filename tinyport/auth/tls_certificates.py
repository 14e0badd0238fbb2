"""X.509 of the cluster: its TLS CA, leafs, requests for them, and what a peer's leaf says.

docs/protocol/certificate.md has the form. Pure: keys, serial numbers and times are arguments. What ``cryptography``
raises stops here.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.identity import Identity, parse_uri

LeafKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

MAX_REQUEST = 16 * 1024
CA_LIFE = 20 * 365 * 86400
#: a leaf begins this much before it is made, as the SSH certificate does
BACKDATE = 60
_SERVERS = frozenset(("proxy", "auth"))


@dataclass(frozen=True)
class TlsAuthority:
    """A TLS CA: its private key and its own certificate."""

    key: ed25519.Ed25519PrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    @property
    def pin(self) -> str:
        return pin_of(self.certificate)

    def private_pem(self) -> str:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode("ascii")


def pin_of(certificate: x509.Certificate) -> str:
    """``sha256:`` and the hex SHA-256 of the certificate's SubjectPublicKeyInfo."""
    return "sha256:" + hashlib.sha256(_spki(certificate.public_key())).hexdigest()


def _spki(key: object) -> bytes:
    if not isinstance(key, (ed25519.Ed25519PublicKey, ec.EllipticCurvePublicKey)):
        raise PeerError("TLS keys are Ed25519 or P-256")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc)


def make_authority(cluster: str, *, now: float) -> TlsAuthority:
    """A new CA. It begins a day early: the server that makes it may be a Pi whose clock is not set yet."""
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tinyport {cluster}"[:64])])
    subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(now - 86400))
        .not_valid_after(_utc(now + CA_LIFE))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(subject_key, critical=False)
        .sign(key, None)
    )
    return TlsAuthority(key, certificate)


def load_authority(private_pem: str, certificate_pem: str) -> TlsAuthority:
    """What ``private_pem`` and ``pem`` of a TlsAuthority said. OperatorError when they are damaged or do not fit."""
    try:
        key = serialization.load_pem_private_key(private_pem.encode(), None)
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise OperatorError("the TLS CA in the store is damaged", hint="restore a backup") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey) or _spki(key.public_key()) != _spki(certificate.public_key()):
        raise OperatorError("the TLS CA in the store is damaged", hint="restore a backup")
    return TlsAuthority(key, certificate)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def issue_leaf(
    authority: TlsAuthority, *, public_key: LeafKey, identity: Identity, serial: int, now: float, ttl: float
) -> str:
    """A leaf for ``identity`` as PEM. What kind of peer it is decides its extended key usage."""
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    if identity.kind in _SERVERS:
        usages.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
        names.append(x509.DNSName(f"{identity.kind}.{identity.cluster}"))
    subject_key = x509.SubjectKeyIdentifier.from_public_key(public_key)
    # The subject is for people who read certificates; nothing of ours does.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.id[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(_utc(now - BACKDATE))
        .not_valid_after(_utc(now + ttl))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(subject_key, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, None)
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


@dataclass(frozen=True)
class Request:
    """A certificate request whose signature was right. What it says about its subject was not read."""

    public_key: LeafKey
    der: bytes


def read_request(pem: str, *, forbidden: Sequence[TlsAuthority] = ()) -> Request:
    """A PKCS #10 request (PEM) → its key, which the sender was shown to have.

    PeerError when it is malformed, wrongly signed, has a key that is neither Ed25519 nor P-256, or one of ours.
    """
    if len(pem) > MAX_REQUEST:
        raise PeerError(f"tls_csr: at most {MAX_REQUEST} bytes")
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise PeerError("tls_csr: not a certificate request in PEM") from None
    if not isinstance(key, ed25519.Ed25519PublicKey) and not (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        raise PeerError("tls_csr: keys are Ed25519 or P-256")
    try:
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        signed = False
    if not signed:
        raise PeerError("tls_csr: its signature is not right")
    if any(_spki(key) == _spki(authority.certificate.public_key()) for authority in forbidden):
        raise PeerError("tls_csr: this key is the cluster's own")
    return Request(key, request.public_bytes(serialization.Encoding.DER))


@dataclass(frozen=True)
class Leaf:
    """What a peer's certificate says. Times are Unix seconds; ``serial`` is hex, as the store keeps it."""

    identity: Identity
    serial: str
    not_before: float
    not_after: float


def read_leaf(der: bytes) -> Leaf:
    """A peer's certificate, whose chain TLS has verified → who it is.

    PeerError unless it is a leaf of our kind: one URI name, and ``clientAuth`` said, not left out.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise PeerError("the peer's certificate is not one of this cluster's") from None
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise PeerError("the peer's certificate is not for clients")
    if len(uris) != 1:
        raise PeerError("the peer has no certificate of this cluster", detail=f"{len(uris)} URI names in it")
    return Leaf(
        identity=parse_uri(uris[0]),
        serial=serial_text(certificate.serial_number),
        not_before=_seconds(certificate, "not_valid_before"),
        not_after=_seconds(certificate, "not_valid_after"),
    )


def _seconds(certificate: x509.Certificate, name: str) -> float:
    # cryptography 41 has only the naive form, newer ones warn about it.
    aware = getattr(certificate, f"{name}_utc", None)
    if isinstance(aware, datetime.datetime):
        return aware.timestamp()
    naive: datetime.datetime = getattr(certificate, name)
    return naive.replace(tzinfo=datetime.timezone.utc).timestamp()


def serial_text(serial: int) -> str:
    """A certificate's serial number as the store keeps it."""
    return f"{serial:x}"
