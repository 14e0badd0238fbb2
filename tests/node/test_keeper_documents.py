from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.node.session_harness import CLUSTER, LOGIN, UUID, Authority
from tinyport.core.certificate import Certificate
from tinyport.core.errors import AccessDenied, OperatorError, PeerError
from tinyport.core.policy import sign_document
from tinyport.core.signatures import Ed25519Key
from tinyport.host import identity_before, identity_file
from tinyport.host.logging_line import Log
from tinyport.node.keeper.documents import Documents
from tinyport.node.keeper.judgement import judge

OTHER = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority()
    authority.identity(tmp_path)
    return authority


def load(folder: Path, instance: str = "") -> Documents:
    paths = {name: str(folder / f"{name}.json") for name in ("identity", "policy", "node")}
    return Documents({**paths, "floor": str(folder / "floor")}, Log("test", level="error"), instance)


def test_what_is_on_the_disk_is_used(tmp_path: Path, authority: Authority) -> None:
    documents = load(tmp_path)
    assert documents.policy is not None
    assert documents.node is not None
    assert documents.versions() == {"policy": [1, 1], "node": [1, 1]}


@pytest.mark.parametrize("damage", ["", "{}", "[]", "{", '{"document": "{}", "signature": "AAAA"}'])
def test_a_damaged_document_is_as_if_absent(tmp_path: Path, authority: Authority, damage: str) -> None:
    (tmp_path / "policy.json").write_text(damage)
    documents = load(tmp_path)
    assert documents.policy is None
    assert documents.versions()["policy"] == [0, 0]


def test_a_newer_document_lasts(tmp_path: Path, authority: Authority) -> None:
    documents = load(tmp_path)
    assert documents.install(authority.policy(user_cas=[])) == "policy"
    assert load(tmp_path).versions()["policy"] == [1, 2]
    assert oct((tmp_path / "policy.json").stat().st_mode & 0o777) == "0o600"


def test_what_cannot_be_written_counts_and_is_written_later(tmp_path: Path, authority: Authority) -> None:
    documents = load(tmp_path)
    (tmp_path / "policy.json").unlink()
    (tmp_path / "policy.json").mkdir()
    assert documents.install(authority.policy(user_cas=[])) == "policy"
    assert documents.versions()["policy"] == [1, 2]
    assert documents.unsaved == ["policy"]
    (tmp_path / "policy.json").rmdir()
    documents.save()
    assert documents.unsaved == []
    assert load(tmp_path).versions()["policy"] == [1, 2]


def test_equal_and_older_documents_change_nothing(tmp_path: Path, authority: Authority) -> None:
    documents = load(tmp_path)
    authority.serial = 1
    assert documents.install(authority.policy(user_cas=[])) is None
    assert documents.policy is not None
    assert documents.policy.user_cas


def test_a_document_of_somebody_else(tmp_path: Path, authority: Authority) -> None:
    documents = load(tmp_path)
    stranger = Authority()
    stranger.serial = 9
    for signed in (stranger.policy(), authority.policy(cluster="elsewhere"), authority.node(serial=2, uuid=OTHER)):
        with pytest.raises(PeerError):
            documents.install(signed)
    assert documents.versions() == {"policy": [1, 1], "node": [1, 1]}


def test_a_full_disk_keeps_no_lock_away(tmp_path: Path, authority: Authority) -> None:
    documents = load(tmp_path)
    (tmp_path / "policy.json").unlink()
    (tmp_path / "policy.json").mkdir()
    assert documents.install(authority.policy(user_cas=[])) == "policy"
    assert documents.policy is not None
    assert not documents.policy.user_cas


def statement(authority: Authority, moment: float) -> dict[str, str]:
    body = {"kind": "time", "cluster": CLUSTER, "nonce": "n", "time": moment}
    return sign_document(authority.policy_key, body)


def test_auth_says_what_time_it_is_and_the_disk_remembers(tmp_path: Path, authority: Authority) -> None:
    documents = load(tmp_path)
    future = time.time() + 10 * 86400
    documents.confirm_time(statement(authority, future), time.monotonic())
    assert documents.now() >= future
    assert float((tmp_path / "floor").read_text()) >= future - 1
    # A board that has lost its clock starts from there.
    assert load(tmp_path).now() >= future - 1


def test_an_old_statement_does_not_turn_time_back(tmp_path: Path, authority: Authority) -> None:
    documents = load(tmp_path)
    before = documents.now()
    documents.confirm_time(statement(authority, 1000.0), None)
    assert documents.now() >= before


@pytest.mark.parametrize("heard", ["x", -1.0, True, float("nan"), 1e18])
def test_a_statement_heard_at_no_possible_moment(tmp_path: Path, authority: Authority, heard: object) -> None:
    documents = load(tmp_path)
    with pytest.raises(PeerError):
        documents.confirm_time(statement(authority, time.time() + 9e9), heard)
    assert documents.now() < time.time() + 60


def test_a_statement_of_somebody_else(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(PeerError):
        load(tmp_path).confirm_time(statement(Authority(), 5e9), time.monotonic())


@pytest.mark.parametrize("floor", ["", "nan", "inf", "-1", "x", "9" * 60])
def test_a_nonsensical_floor_is_none(tmp_path: Path, authority: Authority, floor: str) -> None:
    (tmp_path / "floor").write_text(floor)
    assert abs(load(tmp_path).now() - time.time()) < 60


def test_a_renewed_identity_is_noticed_and_a_damaged_one_is_not_taken(tmp_path: Path, authority: Authority) -> None:
    documents = load(tmp_path)
    first = documents.refresh_identity()
    identity = identity_file.load(tmp_path / "identity.json")
    identity["ssh_key"] = Ed25519Key.generate().to_openssh().decode()
    identity_file.save(tmp_path / "identity.json", identity)
    second = documents.refresh_identity()
    assert second.key.public_blob != first.key.public_blob
    (tmp_path / "identity.json").write_text("{")
    os.utime(tmp_path / "identity.json", (1, 1))
    quiet = Log("test", descriptor=os.open(os.devnull, os.O_WRONLY))
    documents._log = quiet
    assert documents.refresh_identity() is second


def test_an_identity_that_is_no_nodes(tmp_path: Path, authority: Authority) -> None:
    identity = json.loads((tmp_path / "identity.json").read_text())
    (tmp_path / "identity.json").write_text(json.dumps({**identity, "kind": "proxy"}))
    with pytest.raises(OperatorError, match="not a node"):
        load(tmp_path)


# ---------------------------------------------------------------- a board without a clock


def entered(documents: Documents, authority: Authority, began: float, *, again: bool = False) -> str:
    """What whoever shows a certificate from that moment hears."""
    key = Ed25519Key.generate()
    blob = authority.certificate(key.public_blob, now=int(began), ttl=8 * 3600)
    try:
        judge(documents, Certificate.decode(blob), LOGIN, "127.0.0.1", again=again)
    except AccessDenied as refused:
        return refused.code
    return "in"


def test_without_a_clock_a_certificate_says_what_time_it_is_at_least(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = load(tmp_path)
    last = time.time()
    documents.confirm_time(statement(authority, last), time.monotonic())
    # It starts again in 1970, and reaches nobody.
    monkeypatch.setattr(time, "time", lambda: 12.0)
    documents = load(tmp_path)
    assert not documents.knows_time
    # Issued before the last moment that is known of: it may have ended since. Who was let in before is not thrown out.
    assert entered(documents, authority, last - 3600) == "clock"
    assert entered(documents, authority, last - 3600, again=True) == "in"
    assert entered(documents, authority, last + 40 * 86400) == "in"
    # Auth says what time it is: now both are judged by that.
    documents.confirm_time(statement(authority, last + 1800), time.monotonic())
    assert entered(documents, authority, last - 3600) == "in"
    assert entered(documents, authority, last - 40 * 86400) == "expired"
    assert entered(documents, authority, last + 40 * 86400) == "clock"


def test_a_clock_that_is_not_before_what_is_known_counts(tmp_path: Path, authority: Authority) -> None:
    documents = load(tmp_path)
    assert documents.knows_time
    assert entered(documents, authority, time.time() - 3600) == "in"


def test_a_copy_is_quarantined_and_the_first_is_not(tmp_path: Path, authority: Authority) -> None:
    first, later = "a" * 32, "b" * 32
    signed = authority.node(serial=2, copies=[later])
    for instance, state in ((first, "active"), (later, "quarantined"), ("", "active")):
        documents = load(tmp_path, instance)
        documents.install(signed, write=False)
        assert documents.node is not None
        assert documents.node.state == state


def test_a_keeper_of_the_identity_before_writes_no_document_of_it(tmp_path: Path, authority: Authority) -> None:
    documents = load(tmp_path)
    path = tmp_path / "identity.json"
    path.write_text(path.read_text().replace(UUID, OTHER))
    (tmp_path / "node.json").write_text("of the other one")
    assert documents.install(authority.node(serial=2)) == "node"
    assert (tmp_path / "node.json").read_text() == "of the other one"
    assert documents.unsaved == []


def test_sessions_are_dialled_back_to_where_a_tunnel_may_stand(tmp_path: Path, authority: Authority) -> None:
    documents = load(tmp_path)
    assert documents.policy is not None
    today = list(documents.policy.tls_cas)
    assert documents.dial_cas == today
    held = {**identity_file.load(tmp_path / "identity.json"), "tls_cas": ["OLD", *today]}
    identity_before.keep(tmp_path, {**held, "valid_before": documents.now() + 3600}, documents.now())
    assert documents.dial_cas == [*today, "OLD"]
    # It has ended; then, somebody has given up the keys of before for stolen.
    (tmp_path / identity_before.PUBLIC).write_text(
        json.dumps({"tls_cas": ["OLD"], "valid_before": documents.now() - 1})
    )
    assert documents.dial_cas == today
    identity_before.drop(tmp_path)
    identity_before.keep(tmp_path, {**held, "valid_before": documents.now() + 3600}, documents.now())
    last = {"epoch": identity_before.GIVEN_UP, "serial": identity_before.GIVEN_UP}
    assert documents.install(authority.policy(**last)) == "policy"
    assert documents.dial_cas == today
