"""Back to a TLS CA of before: only by the policy key's word, only forward in its count, and by nothing malformed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.policy import sign_document
from tinyport.core.restored_trust import MAX_STATEMENT, MOST, restored_cas, trust_body
from tinyport.core.signatures import Ed25519Key

CLUSTER = "farm.example"
POLICY = Ed25519Key.generate()
LAST = 2**63 - 1


def said(key: Ed25519Key = POLICY, **changes: Any) -> dict[str, str]:
    return sign_document(key, {**trust_body(CLUSTER, 7, 2, ["PEM"]), **changes})


def read(statement: object, held: tuple[int, int] = (1, 99)) -> list[str] | None:
    return restored_cas(statement, POLICY.public_blob, CLUSTER, held)


@pytest.mark.parametrize("held", [(0, 0), (1, LAST), (6, LAST), (7, 1)])
def test_whoever_holds_an_older_policy_believes_it(held: tuple[int, int]) -> None:
    assert read(said(), held) == ["PEM"]


@pytest.mark.parametrize("held", [(7, 2), (7, 3), (8, 0), (LAST, LAST)])
def test_whoever_holds_the_same_or_a_newer_one_does_not(held: tuple[int, int]) -> None:
    """After a compromise machines hold the last version that there is."""
    assert read(said(), held) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "policy"},
        {"kind": "succession"},
        {"cluster": "other.example"},
        {"epoch": LAST + 1},
        {"epoch": -1},
        {"epoch": True},
        {"epoch": None},
        {"serial": "3"},
        {"tls_cas": []},
        {"tls_cas": "PEM"},
        {"tls_cas": [5]},
        {"tls_cas": None},
        {"tls_cas": ["PEM"] * (MOST + 1)},
        {"tls_cas": ["x" * MAX_STATEMENT]},
    ],
)
def test_what_says_something_else_leads_nowhere(changes: dict[str, Any]) -> None:
    assert read(said(**changes)) is None


def test_whoever_else_signs_it_leads_nowhere() -> None:
    assert read(said(Ed25519Key.generate())) is None
    genuine = said()
    forged = {**genuine, "document": genuine["document"].replace("PEM", "MEP")}
    assert read(forged) is None
    assert read({"document": genuine["document"]}) is None


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["document", "signature", "x"]), inner),
    )
)
def test_a_stranger_may_say_anything(statement: Any) -> None:
    assert read(statement) is None


def test_it_is_not_large() -> None:
    """A hello with it is read from strangers. A TLS CA of ours has some 700 bytes."""
    full = said(tls_cas=["x" * 800] * MOST)
    assert len(json.dumps(full)) < MAX_STATEMENT
    assert read(full) is not None
