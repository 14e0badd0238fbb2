"""What is remembered of certificates is their CA's signature, and nothing that a rule is about."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from tests.node.tiny_cluster import NAME
from tinyport.core.certificate import FOREVER, Certificate
from tinyport.core.errors import PeerError
from tinyport.core.issue import issue_user_certificate
from tinyport.core.signatures import Ed25519Key, verify
from tinyport.core.verified import MOST_BYTES, VerifiedCertificates

CA, OTHER, USER = (Ed25519Key.generate() for _ in range(3))
TRUSTED = (CA.public_blob,)


def made(serial: int = 1, ca: Ed25519Key = CA, logins: list[str] | None = None) -> bytes:
    return issue_user_certificate(
        ca,
        public_key=USER.public_blob,
        serial=serial,
        nonce=os.urandom(32),
        cluster=NAME,
        user="alice",
        logins=logins or ["pi"],
        roles=["ops"],
        traits={},
        permits=[],
        now=1_000_000,
        ttl=3600,
    )


def test_a_certificate_is_decoded_and_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []

    def counted(key_blob: bytes, data: bytes, signature: bytes) -> None:
        checked.append(data)
        verify(key_blob, data, signature)

    monkeypatch.setattr("tinyport.core.verified.verify", counted)
    known, blob = VerifiedCertificates(), made()
    first = known.decode(blob)
    known.verify(first, TRUSTED)
    again = known.decode(bytes(bytearray(blob)))
    known.verify(again, TRUSTED)
    assert again is first
    assert again == Certificate.decode(blob)
    assert len(checked) == 1


def test_a_certificate_with_other_fields_is_not_kept() -> None:
    """As after a new document, when a session's certificate is judged as if it lasted."""
    known, blob = VerifiedCertificates(), made()
    lasting = replace(known.decode(blob), valid_before=FOREVER)
    known.verify(lasting, TRUSTED)
    assert len(known) == 0
    known.verify(known.decode(blob), TRUSTED)
    known.verify(lasting, TRUSTED)
    assert known.decode(blob).valid_before == 1_003_600


@pytest.mark.parametrize("field", ["ca_key", "signed", "signature"])
def test_what_was_verified_is_the_whole_proof(field: str) -> None:
    known, blob = VerifiedCertificates(), made()
    cert = known.decode(blob)
    known.verify(cert, TRUSTED)
    changes: dict[str, Any] = {
        "ca_key": OTHER.public_blob,
        "signed": cert.signed + b"\0",
        "signature": OTHER.sign(cert.signed),
    }
    with pytest.raises(PeerError):
        known.verify(replace(cert, **{field: changes[field]}), TRUSTED)


def test_a_changed_blob_is_another_certificate() -> None:
    known, blob = VerifiedCertificates(), made()
    known.verify(known.decode(blob), TRUSTED)
    changed = bytearray(blob)
    changed[-1] ^= 1
    with pytest.raises(PeerError):
        known.verify(known.decode(bytes(changed)), TRUSTED)
    assert len(known) == 1


def test_strangers_fill_nothing() -> None:
    known = VerifiedCertificates()
    known.verify(known.decode(made(ca=OTHER)), TRUSTED)
    known.verify(known.decode(made(logins=[f"{'x' * 200}{number}" for number in range(200)])), TRUSTED)
    assert len(made(logins=[f"{'x' * 200}{number}" for number in range(200)])) > MOST_BYTES
    assert len(known) == 0


def test_the_oldest_goes() -> None:
    known, blobs = VerifiedCertificates(most=2), [made(serial) for serial in range(3)]
    for blob in blobs[:2]:
        known.verify(known.decode(blob), TRUSTED)
    known.verify(known.decode(blobs[0]), TRUSTED)
    known.verify(known.decode(blobs[2]), TRUSTED)
    assert len(known) == 2
    first = known.decode(blobs[0])
    assert known.decode(blobs[0]) is first
    assert known.decode(blobs[1]) is not known.decode(blobs[1])
