"""The chain that leads from an old TLS CA to today's: who may follow it, and that nobody else is led anywhere."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.errors import PeerError
from tinyport.core.signatures import Ed25519Key
from tinyport.core.succession import MOST, follow, key_blob, make_succession, newest, pin_of_key

CLUSTER = "farm.example"
POLICY = Ed25519Key.generate()
OTHER = Ed25519Key.generate()
CAS = [Ed25519Key.generate() for _ in range(4)]


def pem(key: Ed25519Key) -> str:
    """Stands for a certificate: what matters here is only that its pin is its key's."""
    return f"PEM {key.public_blob.hex()}"


def pin_of(text: str) -> str:
    if not text.startswith("PEM "):
        raise PeerError("not a certificate")
    return pin_of_key(bytes.fromhex(text[4:]))


def pin(key: Ed25519Key) -> str:
    return pin_of_key(key.public_blob)


def link(old: Ed25519Key, new: Ed25519Key, *, policy: Ed25519Key = POLICY, cluster: str = CLUSTER) -> dict[str, str]:
    return make_succession(policy, cluster, old.public_blob, pem(new), 1.0, old.sign_raw)


CHAIN = [link(CAS[0], CAS[1]), link(CAS[1], CAS[2]), link(CAS[2], CAS[3])]


def led(statements: object, *trusted: str, policy_key: bytes | None = POLICY.public_blob) -> str | None:
    return follow(statements, trusted, cluster=CLUSTER, pin_of=pin_of, policy_key=policy_key)


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("holds_policy_key", [True, False])
def test_whoever_trusts_one_of_the_chain_is_led_to_its_end(start: int, holds_policy_key: bool) -> None:
    key = POLICY.public_blob if holds_policy_key else None
    assert led(CHAIN, pin(CAS[start]), policy_key=key) == pem(CAS[3])


def test_the_last_one_and_strangers_are_led_nowhere() -> None:
    assert led(CHAIN, pin(CAS[3])) is None
    assert led(CHAIN, pin(OTHER)) is None
    assert led([], pin(CAS[0])) is None
    # Backwards in time leads nowhere: what was replaced does not come back.
    assert led(CHAIN[:2], pin(CAS[3])) is None


def test_a_gap_leads_nowhere() -> None:
    assert led([CHAIN[0], CHAIN[2]], pin(CAS[0])) == pem(CAS[1])


def test_a_stolen_ca_key_alone_leads_no_machine_astray() -> None:
    forged = link(CAS[0], OTHER, policy=OTHER)
    assert led([forged], pin(CAS[0])) is None
    # Who only has a pin is led: the stolen key could pose as auth to them as it is.
    assert led([forged], pin(CAS[0]), policy_key=None) == pem(OTHER)


def test_the_policy_key_alone_leads_nobody_astray() -> None:
    forged = make_succession(POLICY, CLUSTER, CAS[0].public_blob, pem(OTHER), 1.0, OTHER.sign_raw)
    assert led([forged], pin(CAS[0])) is None
    assert led([forged], pin(CAS[0]), policy_key=None) is None


def test_another_clusters_chain_is_not_ours() -> None:
    assert led([link(CAS[0], CAS[1], cluster="other.example")], pin(CAS[0])) is None


def test_a_new_ca_that_is_no_certificate_is_not_followed() -> None:
    odd = make_succession(POLICY, CLUSTER, CAS[0].public_blob, "nonsense", 1.0, CAS[0].sign_raw)
    assert led([odd], pin(CAS[0])) is None


@given(st.data())
def test_no_altered_statement_leads_anywhere(data: st.DataObject) -> None:
    statement: dict[str, Any] = dict(CHAIN[0])
    name = data.draw(st.sampled_from(sorted(statement)))
    value = str(statement[name])
    place = data.draw(st.integers(0, len(value) - 1))
    letter = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda found: found != value[place]))
    statement[name] = value[:place] + letter + value[place + 1 :]
    # The last letter of base64 holds bits that say nothing.
    if name != "document" and place >= len(value.rstrip("=")) - 1:
        return
    assert led([statement], pin(CAS[0])) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_whatever_a_stranger_says_leads_nowhere_and_raises_nothing(said: object) -> None:
    assert led(said, pin(CAS[0])) is None
    assert led([said], pin(CAS[0]), policy_key=None) is None
    assert led([{"document": said, "signature": said, "ca_signature": said}], pin(CAS[0])) is None
    text = json.dumps(said)
    assert led([{"document": text, "signature": "", "ca_signature": "AAAA"}], pin(CAS[0]), policy_key=None) is None


def test_a_hello_carries_the_newest() -> None:
    many = [{"document": str(number)} for number in range(MOST + 5)]
    assert newest(many)[0] == {"document": "5"}
    assert len(newest(many)) == MOST


def test_the_pin_of_a_key_is_that_of_its_certificate() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = Ed25519PrivateKey.generate().public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert pin_of_key(key_blob(key.public_bytes_raw())) == "sha256:" + hashlib.sha256(der).hexdigest()
