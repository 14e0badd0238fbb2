"""Break-glass certificates: every rung of their own ladder, and that they are nothing on any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.core.test_access import CA, KEY, NODE, NOW, OTHER_CA, UUID, policy
from tinyport.core import certificate as c
from tinyport.core.access import judge_certificate
from tinyport.core.break_glass import OPTION, PERMITS, USER, is_break_glass, issue_break_glass, judge
from tinyport.core.certificate import Certificate
from tinyport.core.errors import AccessDenied, OperatorError
from tinyport.core.issue import sign
from tinyport.core.policy import Lock
from tinyport.core.signatures import Ed25519Key

OTHER = "1b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"
YEAR = 366 * 86400


def issued(ca: Ed25519Key = CA, **changes: Any) -> Certificate:
    values: dict[str, Any] = {
        "public_key": KEY.public_blob,
        "serial": 4711,
        "nonce": bytes(32),
        "cluster": "farm.example",
        "node_uuid": UUID,
        "node_name": "greenhouse",
        "logins": ["root", "pi"],
        "now": NOW,
        "ttl": YEAR,
        **changes,
    }
    return Certificate.decode(issue_break_glass(ca, **values))


def built(
    options: Mapping[str, str] | None = None, extensions: Mapping[str, str | None] | None = None, **changes: Any
) -> Certificate:
    """One that auth would never make."""
    values: dict[str, Any] = {
        "public_key": KEY.public_blob,
        "nonce": bytes(32),
        "serial": 1,
        "cert_type": c.USER,
        "key_id": USER,
        "principals": ["root"],
        "valid_after": 0,
        "valid_before": NOW + YEAR,
        "critical_options": {OPTION: UUID} if options is None else dict(options),
        "extensions": {c.EXT_CLUSTER: "farm.example", c.EXT_USER: USER} if extensions is None else dict(extensions),
        "ca_key": CA.public_blob,
        **changes,
    }
    return Certificate.decode(sign(CA, c.to_be_signed(**values)))


def verdict(cert: Certificate, *, login: str = "root", past: float = NOW, **changes: Any) -> str:
    node = replace(NODE, **{key: changes.pop(key) for key in ("uuid", "state") if key in changes})
    try:
        grant = judge(cert, login=login, policy=policy(**changes), node=node, past=past, now=NOW)
    except AccessDenied as error:
        return error.code
    assert (grant.user, grant.login, grant.node) == (USER, login, node.uuid)
    return "in"


def test_it_is_a_shell_on_its_node_without_any_role() -> None:
    cert = issued()
    assert is_break_glass(cert)
    grant = judge(cert, login="root", policy=policy(roles={}), node=NODE, past=NOW, now=NOW)
    assert grant.permits == PERMITS
    assert "port_forwarding" not in grant.permits
    assert (grant.role_names, grant.certificate_serial) == ((), 4711)
    assert verdict(cert, login="pi") == "in"


@pytest.mark.parametrize(
    ("cert", "why"),
    [
        (issued(ca=OTHER_CA), "foreign"),
        (issued(cluster="other.example"), "foreign"),
        (issued(node_uuid=OTHER), "denied"),
        (built(cert_type=c.HOST), "kind"),
        (built(options={OPTION: UUID, "force-command": "id"}), "option"),
        (built(options={OPTION: UUID, "source-address": "10.0.0.0/8"}), "option"),
        (built(options={OPTION: ""}), "denied"),
        (built(principals=[]), "denied"),
        (built(extensions={c.EXT_CLUSTER: "farm.example", c.EXT_USER: "alice"}), "foreign"),
        (built(extensions={c.EXT_USER: USER}), "foreign"),
    ],
)
def test_what_is_not_quite_one_opens_nothing(cert: Certificate, why: str) -> None:
    assert verdict(cert) == why


def test_it_is_recorded_as_far_as_that_goes_and_never_refused_for_it() -> None:
    for said, done in (("off", "off"), ("node", "node"), ("strict", "node")):
        config = {"session_recording": said, "max_sessions": 1}
        grant = judge(issued(), login="root", policy=policy(config=config), node=NODE, past=NOW, now=NOW)
        assert (grant.terms.recording, grant.terms.sessions) == (done, None)


def test_logins_are_those_it_names() -> None:
    assert verdict(issued(), login="nobody") == "denied"


def test_only_time_that_is_known_to_be_past_ends_it() -> None:
    # A board without a clock thinks of any year; what auth has said once is certain.
    assert verdict(issued(), past=0) == "in"
    assert verdict(issued(), past=NOW + YEAR - 1) == "in"
    assert verdict(issued(), past=NOW + YEAR) == "expired"


@pytest.mark.parametrize(
    "target", [{"user": USER}, {"node": UUID}, {"node": "greenhouse"}, {"login": "root"}], ids=lambda one: str(one)
)
def test_locks_hold_for_it(target: dict[str, str]) -> None:
    assert verdict(issued(), locks=(Lock("1", target, None, "stolen from the safe"),)) == "locked"
    assert verdict(issued(), locks=(Lock("1", target, NOW - 1, ""),)) == "in"


@pytest.mark.parametrize("state", ["pending", "quarantined"])
def test_a_node_that_is_not_trusted_is_not_entered(state: str) -> None:
    assert verdict(issued(), state=state) == "quarantined"


def test_after_a_rotation_the_old_ones_are_paper() -> None:
    assert verdict(issued(), user_cas=(OTHER_CA.public_blob,), retired_user_cas=(CA.public_blob,)) == "foreign"


def test_on_the_usual_ladder_it_is_nothing() -> None:
    """A proxy, or a node that does not know the option."""
    with pytest.raises(AccessDenied) as refused:
        judge_certificate(issued(), policy=policy(), now=NOW, source="10.0.0.1")
    assert refused.value.code in ("foreign", "option")


def test_auth_makes_none_without_login_or_life() -> None:
    with pytest.raises(OperatorError):
        issued(logins=[])
    with pytest.raises(OperatorError):
        issued(ttl=0)
