"""The proof of another cluster's proxy: for one server, at one moment, by one cluster's key; all else is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.cluster_proof import Proven, judge_proof, signed_words
from tinyport.core.errors import PeerError
from tinyport.core.issue import issue_host_certificate
from tinyport.core.signatures import Ed25519Key
from tinyport.core.trust import TrustedCluster

NOW = 1_700_000_000
CA, KEY = Ed25519Key.generate(), Ed25519Key.generate()
UUID = "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"
NAME = "leaf.example"
CERTIFICATE = issue_host_certificate(
    CA,
    public_key=KEY.public_blob,
    serial=1,
    nonce=bytes(32),
    cluster=NAME,
    uuid=UUID,
    name="proxy-1",
    role="proxy",
    generation=1,
    now=NOW,
    ttl=3600,
    extra_principals=["proxy", f"proxy.{NAME}"],
)
EXPECTED = TrustedCluster(NAME, host_cas=(CA.public_blob,))
ABOUT: dict[str, Any] = {"cluster": NAME, "server": "root.example", "challenge": b"c" * 32, "digest": b"d" * 32}
SIGNATURE = KEY.sign_raw(signed_words(**ABOUT))


def judge(blob: bytes = CERTIFICATE, signature: bytes = SIGNATURE, **changes: Any) -> Proven:
    return judge_proof(blob, signature, **{**ABOUT, "trusted": [EXPECTED], "now": NOW + 60.0, **changes})


def test_a_good_proof_says_whose_it_is() -> None:
    assert judge() == Proven(EXPECTED, UUID, NOW + 3600)


@pytest.mark.parametrize(
    "changes",
    [
        {"server": "other.example"},
        {"challenge": b"x" * 32},
        {"digest": b"x" * 32},
        {"challenge": b"short"},
        {"cluster": "other.example"},
        {"cluster": "LEAF.example"},
        {"cluster": None},
        {"trusted": []},
        {"trusted": [TrustedCluster(NAME, host_cas=(KEY.public_blob,))]},
        {"trusted": [TrustedCluster(NAME, enabled=False, host_cas=(CA.public_blob,))]},
        {"trusted": [TrustedCluster(NAME, host_cas=(CA.public_blob,), public_addr="leaf.example:443")]},
        {"trusted": [TrustedCluster("other.example", host_cas=(CA.public_blob,))]},
        {"now": NOW + 7200.0},
        {"now": NOW - 7200.0},
    ],
)
def test_everything_counts(changes: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        judge(**changes)


def test_no_two_sets_of_words_are_signed_alike() -> None:
    """Names that run into each other must not read the same."""
    one = signed_words("a.b", "c", b"c" * 32, b"d" * 32)
    assert one != signed_words("a", "b.c", b"c" * 32, b"d" * 32)


@given(st.binary(max_size=200), st.binary(max_size=80))
def test_hostile_proofs_are_refused_and_nothing_else(blob: bytes, signature: bytes) -> None:
    with pytest.raises(PeerError):
        judge(blob, signature)


@given(st.integers(0, len(CERTIFICATE) - 1), st.integers(1, 255))
def test_a_changed_certificate_is_refused(at: int, change: int) -> None:
    blob = bytearray(CERTIFICATE)
    blob[at] ^= change
    with pytest.raises(PeerError):
        judge(bytes(blob))
