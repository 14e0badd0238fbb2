"""Finding auth again after its TLS CA was replaced: by a pin, by an identity, by a login of before; and not being led
astray.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.link.test_enrolment import TinyAuth, join
from tests.node.tiny_cluster import Cluster
from tinyport.client.trust import trusted_client
from tinyport.core.errors import AccessDenied, OperatorError, PeerError
from tinyport.core.names import format_address
from tinyport.core.policy import sign_document
from tinyport.core.restored_trust import trust_body
from tinyport.core.signatures import Ed25519Key
from tinyport.host import identity_file
from tinyport.link import enrolment, known_auth
from tinyport.link.api import UNKNOWN_CA


def following(old: Cluster) -> Cluster:
    """The same cluster with another TLS CA."""
    new = Cluster()
    new.policy_key, new.host_ca, new.user_ca = old.policy_key, old.host_ca, old.user_ca
    return new


@pytest.fixture
def old() -> Cluster:
    return Cluster()


@pytest.fixture
def auth(old: Cluster) -> Iterator[TinyAuth]:
    """Auth after two rotations."""
    between = following(old)
    today = following(old)
    made = TinyAuth(today)
    made.successions = [old.succeeded_by(between), between.succeeded_by(today)]
    yield made
    made.stop()


def away(old: Cluster, auth: TinyAuth, folder: Path) -> Path:
    """The identity of a node that joined before."""
    path = folder / "identity.json"
    identity_file.save(path, old.identity(auth.address))
    return path


def test_an_old_pin_joins(old: Cluster, auth: TinyAuth, tmp_path: Path) -> None:
    identity = join(auth, tmp_path / "identity.json", ca_pins=[old.pin.upper()])
    assert identity["tls_cas"] == [auth.cluster.tls_ca]
    assert identity["ca_pins"] == [old.pin]


def test_a_pin_that_leads_nowhere_gives_no_token_away(auth: TinyAuth, tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as refused:
        join(auth, tmp_path / "identity.json", ca_pins=[Cluster().pin])
    assert refused.value.code == "ca_pin"
    assert set(auth.paths()) == {"/v1/hello"}


def test_a_machine_that_was_away_returns(old: Cluster, auth: TinyAuth, tmp_path: Path) -> None:
    path = away(old, auth, tmp_path)
    uuid = identity_file.load(path)["uuid"]
    with pytest.raises(AccessDenied) as refused:
        enrolment.renew(path)
    assert refused.value.code == "expired"
    assert "/v1/renew" not in auth.paths()
    identity = enrolment.renew_or_return(path)
    assert (identity["uuid"], identity["tls_cas"]) == (uuid, [auth.cluster.tls_ca])
    assert auth.paths()[-1] == "/v1/return"
    # Now it is known again.
    assert enrolment.renew_if_stale(path) is None
    assert enrolment.renew_or_return(path)["uuid"] == uuid
    assert auth.paths()[-1] == "/v1/renew"


def test_a_stale_identity_is_noticed(old: Cluster, auth: TinyAuth, tmp_path: Path) -> None:
    path = away(old, auth, tmp_path)
    returned = enrolment.renew_if_stale(path)
    assert returned is not None
    assert auth.paths()[-1] == "/v1/return"


def test_the_old_ca_alone_leads_no_machine_that_holds_the_policy_key(
    old: Cluster, auth: TinyAuth, tmp_path: Path
) -> None:
    path = away(old, auth, tmp_path)
    thief = following(old)
    thief.policy_key, policy_key = Ed25519Key.generate(), old.policy_key
    old.policy_key = thief.policy_key
    auth.successions = [old.succeeded_by(auth.cluster)]
    old.policy_key = policy_key
    with pytest.raises(PeerError) as refused:
        enrolment.renew_or_return(path)
    assert refused.value.code == UNKNOWN_CA
    # Whether there is a proxy behind it is asked, too; nothing else is.
    assert set(auth.paths()) == {"/v1/hello", "/v1/connect"}


def test_after_a_compromise_nobody_is_led(old: Cluster, auth: TinyAuth, tmp_path: Path) -> None:
    path = away(old, auth, tmp_path)
    auth.successions = []
    with pytest.raises(PeerError) as refused:
        enrolment.renew_or_return(path)
    assert refused.value.code == UNKNOWN_CA
    with pytest.raises(OperatorError, match="CA pin does not match"):
        join(auth, tmp_path / "other.json", ca_pins=[old.pin])


# -------------------------------------------------------------------- an auth that was restored


@pytest.fixture
def restored(old: Cluster) -> Iterator[TinyAuth]:
    """Auth of before a rotation again, whose machines have followed it to the CA of ``old``."""
    made = TinyAuth(following(old))
    made.trust = trust_of(made.cluster, 2, 1)
    yield made
    made.stop()


def trust_of(cluster: Cluster, epoch: int, serial: int) -> dict[str, str]:
    return sign_document(cluster.policy_key, trust_body("farm", epoch, serial, [cluster.tls_ca]))


def holds(policy: dict[str, str], folder: Path) -> None:
    (folder / "policy.json").write_text(json.dumps(policy))


def refused(path: Path) -> str:
    with pytest.raises(PeerError) as said:
        enrolment.renew_or_return(path)
    return said.value.code


def test_a_restored_auth_is_followed_back_by_whoever_holds_an_older_policy(
    old: Cluster, restored: TinyAuth, tmp_path: Path
) -> None:
    path = away(old, restored, tmp_path)
    holds(old.policy(900), tmp_path)
    identity = enrolment.renew_or_return(path)
    assert identity["tls_cas"] == [restored.cluster.tls_ca]
    assert restored.paths()[-1] == "/v1/return"


def test_a_restored_auth_that_was_rotated_since_is_followed(old: Cluster, restored: TinyAuth, tmp_path: Path) -> None:
    path = away(old, restored, tmp_path)
    holds(old.policy(900), tmp_path)
    rotated = TinyAuth(following(old))
    rotated.successions = [restored.cluster.succeeded_by(rotated.cluster)]
    # Of before that rotation: it is true, and not enough.
    rotated.trust = restored.trust
    identity_file.save(path, old.identity(rotated.address))
    try:
        assert refused(path) == UNKNOWN_CA
        rotated.trust = trust_of(rotated.cluster, 2, 5)
        assert enrolment.renew_or_return(path)["tls_cas"] == [rotated.cluster.tls_ca]
    finally:
        rotated.stop()


def test_nobody_goes_back_behind_their_own_policy(old: Cluster, restored: TinyAuth, tmp_path: Path) -> None:
    path = away(old, restored, tmp_path)
    for held in ((2, 1), (2, 50), (3, 0), (2**63 - 1, 2**63 - 1)):
        holds(old.policy(held[1], epoch=held[0]), tmp_path)
        assert refused(path) == UNKNOWN_CA
    # Nor does who does not know how far they were.
    (tmp_path / "policy.json").write_text("{")
    assert refused(path) == UNKNOWN_CA
    (tmp_path / "policy.json").unlink()
    assert refused(path) == UNKNOWN_CA
    assert "/v1/return" not in restored.paths()


def test_the_old_tls_ca_alone_leads_nobody_back(old: Cluster, restored: TinyAuth, tmp_path: Path) -> None:
    """A thief of the key that was replaced, with a statement of their own, and with one that another CA is in."""
    path = away(old, restored, tmp_path)
    holds(old.policy(900), tmp_path)
    thief = following(old)
    thief.policy_key = Ed25519Key.generate()
    restored.trust = trust_of(thief, 9, 9)
    assert refused(path) == UNKNOWN_CA
    restored.trust = trust_of(following(old), 9, 9)
    assert refused(path) == UNKNOWN_CA
    assert "/v1/return" not in restored.paths()


def test_a_login_is_not_led_back(old: Cluster, restored: TinyAuth) -> None:
    """People do not hold the policy key: they log in with the pin."""
    with pytest.raises(PeerError):
        trusted_client(format_address(*restored.address), known_cas=[old.tls_ca])


def test_a_server_that_shows_another_ca_than_it_was_led_to_is_not_believed(old: Cluster, tmp_path: Path) -> None:
    stranger = TinyAuth(Cluster())
    stranger.successions = [old.succeeded_by(following(old))]
    try:
        with pytest.raises(PeerError) as refused:
            enrolment.renew_or_return(away(old, stranger, tmp_path))
        assert refused.value.code == UNKNOWN_CA
    finally:
        stranger.stop()


def test_a_login_of_last_year_leads_to_a_new_one(old: Cluster, auth: TinyAuth) -> None:
    proxy = format_address(*auth.address)
    with trusted_client(proxy, known_cas=[old.tls_ca]) as client:
        assert client.request("GET", "/v1/hello")["cluster"] == "farm"
    with trusted_client(proxy, pins=[old.pin]) as client:
        assert client.request("GET", "/v1/hello")["cluster"] == "farm"
    auth.successions = []
    with pytest.raises(PeerError) as refused:
        trusted_client(proxy, known_cas=[old.tls_ca])
    assert "tsh login" in refused.value.hint


@pytest.mark.parametrize("hello", [{}, {"tls_cas": None}, {"tls_cas": [5]}, {"tls_cas": "x"}])
def test_a_hello_that_is_none(hello: dict[str, object]) -> None:
    with pytest.raises(PeerError, match="malformed"):
        known_auth.believed(hello, ["sha256:" + "0" * 64])


def test_certificates_are_vouched_for_by_those_who_made_them(old: Cluster, auth: TinyAuth) -> None:
    leaf, _ = old.leaf("node", "x")
    assert known_auth.vouched_for(leaf, {"tls_cas": [auth.cluster.tls_ca, old.tls_ca]})
    assert not known_auth.vouched_for(leaf, {"tls_cas": [auth.cluster.tls_ca]})
    assert not known_auth.vouched_for("nonsense", {"tls_cas": [old.tls_ca]})
    assert not known_auth.vouched_for(leaf, {"tls_cas": ["nonsense"]})
