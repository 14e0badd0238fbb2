"""What the authority issues, judged by ssh-keygen and openssl as well as by ourselves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tinyport.auth.tls_certificates import (
    issue_leaf,
    load_authority,
    make_authority,
    pin_of,
    read_leaf,
    read_request,
)
from tinyport.core.certificate import Certificate, parse_public_line, public_line
from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.identity import Identity
from tinyport.core.signatures import Ed25519Key, verify

from .conftest import CLUSTER, START, AuthServer, csr

UUID = "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"


def _der(pem: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(("kind", "server"), [("user", False), ("node", False), ("proxy", True), ("auth", True)])
def test_leafs_say_their_kind_by_uri_and_usage(kind: str, server: bool) -> None:
    authority = make_authority(CLUSTER, now=START)
    key = ec.generate_private_key(ec.SECP256R1())
    identity = Identity(kind, CLUSTER, "alice" if kind == "user" else UUID)
    pem = issue_leaf(authority, public_key=key.public_key(), identity=identity, serial=7, now=START, ttl=3600)
    leaf = read_leaf(_der(pem))
    assert leaf.identity == identity
    assert (leaf.not_before, leaf.not_after, leaf.serial) == (START - 60, START + 3600, "7")
    certificate = x509.load_pem_x509_certificate(pem.encode())
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert (ExtendedKeyUsageOID.SERVER_AUTH in usage) is server
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ([f"{kind}.{CLUSTER}"] if server else [])
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_the_authority_survives_its_text_form() -> None:
    authority = make_authority(CLUSTER, now=START)
    again = load_authority(authority.private_pem(), authority.pem)
    assert again.pin == authority.pin == pin_of(authority.certificate)
    with pytest.raises(OperatorError):
        load_authority(make_authority(CLUSTER, now=START).private_pem(), authority.pem)
    with pytest.raises(OperatorError):
        load_authority("nonsense", authority.pem)


def test_requests_are_checked() -> None:
    authority = make_authority(CLUSTER, now=START)
    for good in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())):
        assert read_request(csr(good)).public_key is not None
    with pytest.raises(PeerError, match="Ed25519 or P-256"):
        read_request(csr(ec.generate_private_key(ec.SECP384R1())))
    with pytest.raises(PeerError, match="Ed25519 or P-256"):
        read_request(csr(rsa.generate_private_key(65537, 2048)))
    with pytest.raises(PeerError, match="own"):
        read_request(csr(authority.key), forbidden=[authority])
    for bad in ("", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"):
        with pytest.raises(PeerError, match="tls_csr"):
            read_request(bad)
    with pytest.raises(PeerError, match="at most"):
        read_request("x" * 20_000)


def test_a_request_with_a_wrong_signature_is_refused() -> None:
    import base64

    lines = csr(ed25519.Ed25519PrivateKey.generate()).strip().splitlines()
    der = bytearray(base64.b64decode("".join(lines[1:-1])))
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der)).decode()
    with pytest.raises(PeerError, match="signature"):
        read_request(f"{lines[0]}\n{body}{lines[-1]}\n")


def test_a_certificate_without_client_auth_is_nobody(tmp_path: Path) -> None:
    authority = make_authority(CLUSTER, now=START)
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([])
    bare = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(authority.certificate.not_valid_before_utc)
        .not_valid_after(authority.certificate.not_valid_after_utc)
    )
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"tinyport://{CLUSTER}/user/alice")])
    two = x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(f"tinyport://{CLUSTER}/user/alice"),
            x509.UniformResourceIdentifier(f"tinyport://{CLUSTER}/user/bob"),
        ]
    )
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    from cryptography.hazmat.primitives.serialization import Encoding

    def made(*extensions: x509.ExtensionType) -> bytes:
        builder = bare
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(authority.key, None).public_bytes(Encoding.DER)

    assert read_leaf(made(san, client)).identity.id == "alice"
    for wrong in ((san,), (client,), (san, server), (two, client)):
        with pytest.raises(PeerError):
            read_leaf(made(*wrong))
    with pytest.raises(PeerError):
        read_leaf(b"nonsense")


def test_a_machine_gets_what_the_contract_says(auth: AuthServer) -> None:
    node = auth.join("greenhouse", token=auth.token(labels={"site": "berlin"}))
    answer = node.answer
    certificate = Certificate.decode(parse_public_line(answer["ssh_certificate"]))
    assert certificate.principals == (
        "greenhouse",
        f"greenhouse.{CLUSTER}",
        node.uuid,
        f"{node.uuid}.{CLUSTER}",
    )
    host_ca = auth.local().get("/v1/ca", type="host").body["keys"][0]
    assert certificate.ca_key == parse_public_line(host_ca["line"])
    verify(certificate.ca_key, certificate.signed, certificate.signature)
    leaf = read_leaf(_der(answer["tls_certificate"]))
    assert leaf.identity == Identity("node", CLUSTER, node.uuid)
    assert answer["valid_before"] - answer["valid_after"] == 7 * 86400
    assert answer["generation"] == 1


def test_a_proxy_has_its_public_hosts_but_not_a_nodes_name(auth: AuthServer) -> None:
    node = auth.join("greenhouse")
    addresses = ["port.example.com:443", "greenhouse:443", f"greenhouse.{CLUSTER}:443", f"{node.uuid}:1"]
    proxy = auth.join("gate", "proxy", addresses=addresses)
    principals = Certificate.decode(parse_public_line(proxy.answer["ssh_certificate"])).principals
    assert principals == (
        "gate",
        f"gate.{CLUSTER}",
        proxy.uuid,
        f"{proxy.uuid}.{CLUSTER}",
        "proxy",
        f"proxy.{CLUSTER}",
        "port.example.com",
    )
    assert proxy.answer["node"] is None


@pytest.mark.needs("ssh-keygen")
def test_ssh_keygen_reads_our_certificates(auth: AuthServer, tmp_path: Path) -> None:
    _, body = auth.user("alice", ["access"], ["pi", "root"])
    path = tmp_path / "id-cert.pub"
    path.write_text(body["ssh_certificate"] + "\n")
    text = subprocess.run(["ssh-keygen", "-L", "-f", path], capture_output=True, text=True, check=True).stdout
    assert "user certificate" in text
    assert 'Key ID: "alice"' in text
    assert [line.strip() for line in text.split("Principals:")[1].splitlines()[1:3]] == ["pi", "root"]
    assert "permit-agent-forwarding" in text


@pytest.mark.needs("openssl")
def test_openssl_verifies_our_leafs(auth: AuthServer, tmp_path: Path) -> None:
    _, body = auth.user("alice", ["access"], ["pi"])
    (tmp_path / "ca.pem").write_text(body["tls_cas"][0])
    (tmp_path / "leaf.pem").write_text(body["tls_certificate"])
    verdict = subprocess.run(
        ["openssl", "verify", "-no_check_time", "-purpose", "sslclient", "-CAfile", "ca.pem", "leaf.pem"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert verdict.returncode == 0, verdict.stderr
    server = subprocess.run(
        ["openssl", "verify", "-no_check_time", "-purpose", "sslserver", "-CAfile", "ca.pem", "leaf.pem"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert server.returncode != 0


def test_the_clusters_own_keys_are_never_certified(auth: AuthServer) -> None:
    auth.add_user("alice", ["access"], ["pi"])
    tls_key = ed25519.Ed25519PrivateKey.generate()
    for kind in ("user", "host", "policy"):
        line = auth.local().get("/v1/ca", type=kind).body["keys"][0]["line"]
        body = {**auth.login_body("alice", "correct horse", tls_key), "ssh_public_key": line}
        answer = auth.anyone().post("/v1/login", body)
        assert (answer.status, answer.code) == (400, "bad_request"), answer


def test_weak_and_foreign_keys_are_refused(auth: AuthServer) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    auth.add_user("alice", ["access"], ["pi"])
    tls_key = ed25519.Ed25519PrivateKey.generate()
    weak = rsa.generate_private_key(65537, 1024).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    for line in (weak.decode(), "ssh-dss AAAAB3NzaC1kc3M=", "ssh-ed25519 AAAA", "nonsense", ""):
        body = {**auth.login_body("alice", "correct horse", tls_key), "ssh_public_key": line}
        assert auth.anyone().post("/v1/login", body).status == 400, line
    assert (
        auth.anyone()
        .post("/v1/login", auth.login_body("alice", "correct horse", tls_key, Ed25519Key.generate()))
        .status
        == 200
    )


def test_auth_is_auth_by_its_own_leaf(auth: AuthServer) -> None:
    import socket

    from tinyport.core.identity import from_peer_certificate
    from tinyport.host.tls import client_context

    context = client_context(auth.tls_cas, alpn=["tinyport-auth"])
    with socket.create_connection(auth.addresses.listen, 10) as tcp, context.wrap_socket(tcp) as tls:
        identity = from_peer_certificate(tls.getpeercert())
        assert tls.selected_alpn_protocol() == "tinyport-auth"
    assert (identity.kind, identity.cluster) == ("auth", CLUSTER)
    assert public_line(parse_public_line(auth.local().get("/v1/ca", type="user").body["keys"][0]["line"]))
