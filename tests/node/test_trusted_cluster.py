"""People of a trusted cluster on a node: let in by the signed policy's map, by real OpenSSH, and out again with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.session_harness import LIMIT, LOGIN, Rig, wait_for
from tinyport.core.certificate import public_line
from tinyport.core.signatures import Ed25519Key

PARTNER = "partner.example"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path).start()
    yield rig
    rig.stop()


class Partner:
    """The other cluster: its CA, and whom it certifies."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.ca = Ed25519Key.generate()

    def trusted(self, **changes: object) -> dict[str, Any]:
        mapping = [{"remote": "^(.*)-admin$", "local": ["$1-guest"]}]
        return {"name": PARTNER, "user_ca": [public_line(self.ca.public_blob)], "role_map": mapping, **changes}

    def install(self, *clusters: dict[str, Any], **changes: object) -> None:
        guest = {"name": "dev-guest", "allow": {"logins": [LOGIN], "node_labels": {"*": ["*"]}}}
        roles = {**self.rig.authority.roles, "dev-guest": guest}
        self.rig.install(self.rig.authority.policy(roles=roles, trusted_clusters=list(clusters), **changes))

    def certify(self, **changes: Any) -> None:
        values: dict[str, Any] = {"ca": self.ca, "cluster": PARTNER, "roles": ["dev-admin"], "logins": ["whoever"]}
        self.rig.give_certificate(**{**values, **changes})


@pytest.fixture
def partner(rig: Rig) -> Partner:
    return Partner(rig)


def test_a_mapped_user_gets_in_and_is_named_in_full(rig: Rig, partner: Partner) -> None:
    partner.install(partner.trusted())
    partner.certify()
    done = rig.ssh("echo in")
    assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr
    rig.event("session.start", user=f"alice@{PARTNER}", login=LOGIN)


def test_without_a_map_or_by_another_name_nobody_does(rig: Rig, partner: Partner) -> None:
    partner.install(partner.trusted(role_map=[]))
    partner.certify()
    assert b"no role of yours counts" in rig.ssh("true").stderr
    # In the log they are never taken for a user of ours with the same name.
    rig.event("access.denied", user=f"alice@{PARTNER}", code_name="role")
    partner.install(partner.trusted())
    # Its key speaks for its own name alone: not for ours, and a role there is none here.
    wrong: list[dict[str, Any]] = [{"cluster": "farm"}, {"roles": ["ops"]}, {"roles": ["dev-guest"]}]
    for changes in wrong:
        partner.certify(**changes)
        assert rig.ssh("true").returncode == 255, changes


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("removed", b"access denied"),
        ("disabled", b"access denied"),
        ("unmapped", b"no role of yours counts"),
        ("locked", b"user alice@partner.example is locked"),
    ],
)
def test_what_is_taken_back_ends_live_sessions(rig: Rig, partner: Partner, how: str, words: bytes) -> None:
    partner.install(partner.trusted())
    partner.certify()
    process = rig.popen("echo ready; exec sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    if how == "locked":
        lock = {"id": "l", "target": {"user": f"alice@{PARTNER}"}, "expires": None, "message": ""}
        partner.install(partner.trusted(), locks=[lock])
    else:
        disabled, unmapped = partner.trusted(enabled=False), partner.trusted(role_map=[])
        then: dict[str, list[dict[str, Any]]] = {"removed": [], "disabled": [disabled], "unmapped": [unmapped]}
        partner.install(*then[how])
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 255
    assert words in said
    assert rig.ssh("true").returncode == 255


def test_a_namesakes_lock_and_our_own_users_are_left_alone(rig: Rig, partner: Partner) -> None:
    lock = {"id": "l", "target": {"user": "alice"}, "expires": None, "message": ""}
    partner.install(partner.trusted(), locks=[lock])
    partner.certify()
    assert rig.ssh("true").returncode == 0
    rig.give_certificate()
    wait_for("our own alice to be refused", lambda: rig.ssh("true").returncode == 255)
