"""What auth answers to a machine that wants to be one of its cluster: certificates that are checked against what was
asked for, and signed documents. And the TLS key and the proofs that go into the question.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tinyport.core.certificate import (
    EXT_CLUSTER,
    EXT_HOST_UUID,
    EXT_ROLE,
    HOST,
    Certificate,
    parse_public_line,
)
from tinyport.core.clock import SKEW_WORTH_SAYING
from tinyport.core.errors import OperatorError, PeerError, TinyportError
from tinyport.core.identity import Identity, parse_uri
from tinyport.core.names import format_address, is_uuid
from tinyport.core.policy import newer, open_document
from tinyport.core.signatures import Ed25519Key
from tinyport.host import identity_file
from tinyport.host.files import read_limited, write_private
from tinyport.host.logging_line import Log
from tinyport.link.known_auth import MAX_DOCUMENT_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.x509 import CertificateSigningRequest


class TlsKey:
    """An Ed25519 key for X.509, and the request to certify it."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def generate(cls) -> TlsKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: str) -> TlsKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        private = load_pem_private_key(pem.encode(), None)
        if not isinstance(private, Ed25519PrivateKey):
            raise OperatorError("the TLS key is not an Ed25519 key")
        return cls(private)

    def pem(self) -> str:
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")

    def request(self) -> CertificateSigningRequest:
        from cryptography.x509 import CertificateSigningRequestBuilder, Name

        # The name is empty: auth decides what we are called.
        return CertificateSigningRequestBuilder().subject_name(Name([])).sign(self._private, None)


def csr_pem(request: CertificateSigningRequest) -> str:
    """A request as auth takes it."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return request.public_bytes(Encoding.PEM).decode("ascii")


def proof(prefix: bytes, challenge: str, request: CertificateSigningRequest, key: Ed25519Key) -> str:
    """docs/protocol/api.md, join: binds the TLS key to the SSH host key, and both to this challenge."""
    from cryptography.hazmat.primitives.serialization import Encoding

    digest = hashlib.sha256(request.public_bytes(Encoding.DER)).digest()
    return base64.b64encode(key.sign_raw(prefix + challenge.encode() + b"\0" + digest)).decode("ascii")


def checked_identity(
    answer: Mapping[str, object],
    *,
    kind: str,
    cluster: str,
    ssh_key: Ed25519Key,
    tls_key: TlsKey,
    server: tuple[str, int],
    pins: Sequence[str],
) -> dict[str, object]:
    """An identity answer, checked against what we asked for → what identity.json holds."""
    uuid = text_of(answer, "uuid")
    if not is_uuid(uuid) or answer.get("kind") != kind or answer.get("cluster") != cluster:
        raise PeerError("auth's answer is for somebody else", detail=f"{answer.get('kind')} {uuid}")
    _check_ssh_certificate(text_of(answer, "ssh_certificate"), ssh_key, kind, cluster, uuid)
    _check_tls_certificate(text_of(answer, "tls_certificate"), tls_key, Identity(kind, cluster, uuid))
    parse_public_line(text_of(answer, "policy_key"))
    return {
        "version": identity_file.VERSION,
        "kind": kind,
        "cluster": cluster,
        "uuid": uuid,
        "name": text_of(answer, "name"),
        "generation": number_of(answer, "generation"),
        "ssh_key": ssh_key.to_openssh().decode("ascii"),
        "ssh_certificate": text_of(answer, "ssh_certificate"),
        "tls_key": tls_key.pem(),
        "tls_certificate": text_of(answer, "tls_certificate"),
        "tls_cas": texts_of(answer, "tls_cas"),
        "policy_key": text_of(answer, "policy_key"),
        "server": format_address(*server),
        "proxies": texts_of(answer, "proxies"),
        "ca_pins": list(pins),
        "valid_after": number_of(answer, "valid_after"),
        "valid_before": number_of(answer, "valid_before"),
    }


def _check_ssh_certificate(line: str, key: Ed25519Key, kind: str, cluster: str, uuid: str) -> None:
    certificate = Certificate.decode(parse_public_line(line))
    said = tuple(certificate.text_extension(name) for name in (EXT_ROLE, EXT_CLUSTER, EXT_HOST_UUID))
    if certificate.cert_type != HOST or certificate.public_key != key.public_blob or said != (kind, cluster, uuid):
        raise PeerError("auth's host certificate is not for this device", detail=f"it says {said}")


def _check_tls_certificate(pem: str, key: TlsKey, identity: Identity) -> None:
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(pem.encode("utf-8", "replace"))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        raise PeerError("auth's TLS certificate cannot be read") from None
    ours = key.request().public_key()
    if certificate.public_key() != ours or len(uris) != 1 or parse_uri(uris[0]) != identity:
        raise PeerError("auth's TLS certificate is not for this device")


def newer_documents(
    folder: Path, answer: Mapping[str, object], identity: Mapping[str, object]
) -> list[tuple[Path, object]]:
    """The documents of an answer, checked, that are to be written, and where."""
    found: list[tuple[Path, object]] = []
    policy_key = parse_public_line(text_of(identity, "policy_key"))
    cluster = text_of(identity, "cluster")
    for kind in ("policy", "node"):
        signed = answer.get(kind)
        if signed is None:
            continue
        body = open_document(signed, policy_key, kind, cluster)
        path = folder / f"{kind}.json"
        old = _held_document(path, policy_key, kind, cluster)
        # Another node's: from when this device had that one's identity.
        foreign = old is not None and old.get("uuid") != body.get("uuid")
        if foreign or newer(body, old):
            found.append((path, signed))
    return found


def keep_documents(documents: Sequence[tuple[Path, object]], *, may_fail: bool, log: Log | None) -> None:
    """``may_fail``: the cluster sends them again, through the tunnel."""
    for path, signed in documents:
        try:
            write_private(path, json.dumps(signed).encode())
        except OSError as error:
            if not may_fail:
                raise
            if log is not None:
                log.warning("a document could not be written", file=path, reason=error)


def _held_document(path: Path, policy_key: bytes, kind: str, cluster: str) -> dict[str, object] | None:
    try:
        return open_document(json.loads(read_limited(path, MAX_DOCUMENT_FILE)), policy_key, kind, cluster)
    except (OSError, ValueError, TinyportError):
        # Absent, damaged, or of a cluster that this machine was in before.
        return None


def mention_skew(hello: Mapping[str, object], log: Log | None) -> None:
    """Say by how much this machine's clock is off, when it is worth saying."""
    said = hello.get("time")
    if log is None or not isinstance(said, (int, float)) or isinstance(said, bool):
        return
    skew = time.time() - said
    if abs(skew) > SKEW_WORTH_SAYING:
        log.warning("this machine's clock differs from the cluster's", ahead_by=f"{skew:.0f}s")


def text_of(found: Mapping[str, object], name: str) -> str:
    """A text of auth's answer. PeerError when it is none; likewise the next two."""
    value = found.get(name)
    if not isinstance(value, str):
        raise PeerError(f"malformed answer of auth: {name}")
    return value


def texts_of(found: Mapping[str, object], name: str) -> list[str]:
    value = found.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise PeerError(f"malformed answer of auth: {name}")
    return list(value)


def number_of(found: Mapping[str, object], name: str) -> int:
    value = found.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise PeerError(f"malformed answer of auth: {name}")
    return int(value)
