"""TLS between our programs: who gets in, and that a board without a clock does."""

from __future__ import annotations

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tinyport.core.identity import from_peer_certificate
from tinyport.host.tls import client_context, server_context

UUID = "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"
LONG_AGO = datetime.datetime(2001, 1, 1)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


class Authority:
    """A TLS CA whose certificates ended in 2001."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.pem = self._build("ca", self.key, None, [])

    def _build(self, name: str, key: Ed25519PrivateKey, uri: str | None, usage: list[x509.ObjectIdentifier]) -> str:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(LONG_AGO)
            .not_valid_after(LONG_AGO + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=uri is None, path_length=None), critical=True)
        )
        if uri is not None:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
            ).add_extension(x509.ExtendedKeyUsage(usage), critical=True)
        return builder.sign(self.key, None).public_bytes(Encoding.PEM).decode()

    def leaf(self, kind: str, *usage: x509.ObjectIdentifier) -> tuple[str, str]:
        key = Ed25519PrivateKey.generate()
        pem = self._build(kind, key, f"tinyport://farm/{kind}/{UUID}", list(usage))
        return pem, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after a handshake in memory; whatever either end raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(20):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
    # In TLS 1.3 a client learns that its certificate was refused with its first read.
    with pytest.raises(ssl.SSLWantReadError):
        ends[0].read(1)
    assert not waiting
    return ends[0], ends[1]


def contexts(
    client_leaf: tuple[str, str] | None, server_leaf: tuple[str, str], ca: Authority, client: str = "required"
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    cert, key = client_leaf or (None, None)
    return (
        client_context([ca.pem], alpn=["tinyport-tunnel"], cert_pem=cert, key_pem=key),
        server_context(
            [ca.pem], alpn=["tinyport-tunnel"], cert_pem=server_leaf[0], key_pem=server_leaf[1], client=client
        ),
    )


def test_certificates_of_another_day_pass_here_and_time_is_judged_elsewhere() -> None:
    ca = Authority()
    near, far = handshake(*contexts(ca.leaf("node", CLIENT), ca.leaf("proxy", SERVER, CLIENT), ca))
    assert from_peer_certificate(near.getpeercert()).kind == "proxy"
    assert from_peer_certificate(far.getpeercert()).kind == "node"
    assert near.selected_alpn_protocol() == "tinyport-tunnel"


def test_a_node_cannot_be_a_server() -> None:
    ca = Authority()
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(*contexts(None, ca.leaf("node", CLIENT), ca, "none"))


def test_another_authority_is_nobody() -> None:
    ca, other = Authority(), Authority()
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(*contexts(None, other.leaf("proxy", SERVER), ca, "none"))
    with pytest.raises(ssl.SSLError):
        handshake(*contexts(other.leaf("node", CLIENT), ca.leaf("proxy", SERVER), ca))


def test_required_means_required() -> None:
    ca = Authority()
    with pytest.raises(ssl.SSLError):
        handshake(*contexts(None, ca.leaf("proxy", SERVER), ca))
