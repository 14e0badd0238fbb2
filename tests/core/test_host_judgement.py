"""Which host is believed: our own judgement of host certificates, refusal by refusal."""

from __future__ import annotations

from typing import Any

import pytest

from tinyport.core.errors import PeerError
from tinyport.core.host_judgement import judge_host, wanted_principal
from tinyport.core.issue import issue_host_certificate, issue_user_certificate
from tinyport.core.signatures import Ed25519Key

CA, OTHER, KEY = Ed25519Key.generate(), Ed25519Key.generate(), Ed25519Key.generate()
NOW = 1_700_000_000
UUID = "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"


def host(ca: Ed25519Key = CA, **changes: Any) -> bytes:
    values: dict[str, Any] = {
        "public_key": KEY.public_blob,
        "serial": 1,
        "nonce": bytes(32),
        "cluster": "farm.example",
        "uuid": UUID,
        "name": "greenhouse",
        "role": "node",
        "generation": 1,
        "now": NOW,
        "ttl": 3600,
        **changes,
    }
    return issue_host_certificate(ca, **values)


def user() -> bytes:
    return issue_user_certificate(
        CA,
        public_key=KEY.public_blob,
        serial=1,
        nonce=bytes(32),
        cluster="farm.example",
        user="mallory",
        logins=["greenhouse", UUID],
        roles=["access"],
        traits={},
        permits=(),
        now=NOW,
        ttl=3600,
    )


def judge(blob: bytes, principals: tuple[str, ...] = ("greenhouse", UUID), now: float = NOW) -> None:
    judge_host(blob, host_cas=[CA.public_blob], cluster="farm.example", principals=principals, now=now)


def test_the_node_that_was_asked_for() -> None:
    judge(host())


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (KEY.public_blob, "no certificate"),
        (host(OTHER), "not signed by a CA"),
        (user(), "user certificate"),
        (host(cluster="other.example"), "not that of a node"),
        (host(role="proxy"), "not that of a node"),
        (host(name="other"), "not greenhouse"),
        (host()[:-1] + b"x", "signature"),
    ],
    ids=["plain key", "another CA", "a user's", "another cluster", "the proxy's", "another node", "changed"],
)
def test_everybody_else(blob: bytes, words: str) -> None:
    with pytest.raises(PeerError, match=words):
        judge(blob)


@pytest.mark.parametrize("now", [NOW + 3600, NOW - 3600])
def test_dates_count(now: int) -> None:
    with pytest.raises(PeerError):
        judge(host(), now=now)


def test_the_proxys_word_alone_names_nobody() -> None:
    # The proxy joined us to the right name but another UUID than it said: both must be in the certificate.
    with pytest.raises(PeerError):
        judge(host(), principals=("greenhouse", "11111111-93f1-4f0e-8a52-0d7e5a1d2c3b"))


def test_what_was_typed_as_a_principal() -> None:
    assert wanted_principal("Greenhouse.farm.example", "farm.example") == "greenhouse"
    assert wanted_principal("site=berlin", "farm.example") is None
