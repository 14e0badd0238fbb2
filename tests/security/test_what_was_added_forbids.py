"""Certificates name the roles and traits of their day. One from before a deny was added must not go on without it."""

from __future__ import annotations

import pytest

from tests.auth.conftest import AuthServer
from tinyport.core.access import judge_certificate
from tinyport.core.certificate import Certificate, parse_public_line
from tinyport.core.errors import AccessDenied


def _patch(auth: AuthServer, **fields: object) -> None:
    answer = auth.local().call("PATCH", "/v1/users/alice", fields)
    assert answer.status == 200, answer


def _judge(auth: AuthServer, line: str) -> None:
    certificate = Certificate.decode(parse_public_line(line))
    policy = auth.service.issuer.policy
    judge_certificate(certificate, policy=policy, now=auth.clock.now, source=None)


FORBIDDING: list[dict[str, object]] = [
    {"deny": {"node_labels": {"site": ["paris"]}}},
    {"deny": {"logins": ["root"]}},
    {"deny": {"rules": [{"resources": ["nodes"], "verbs": ["read"]}]}},
    {"options": {"exec": False}},
]


@pytest.mark.parametrize("document", FORBIDDING, ids=range(len(FORBIDDING)))
def test_a_role_that_forbids_ends_older_certificates(auth: AuthServer, document: dict[str, object]) -> None:
    client, held = auth.user("alice", ["access"], ["pi"])
    _judge(auth, held["ssh_certificate"])
    auth.role("less", **document)
    _patch(auth, roles=["access", "less"])
    with pytest.raises(AccessDenied) as refused:
        _judge(auth, held["ssh_certificate"])
    assert refused.value.code == "revoked"
    assert client.get("/v1/nodes").code == "login_required"
    assert auth.events("user.update")[-1]["withdrawn"] is True


def test_a_trait_that_widens_a_deny_ends_older_certificates(auth: AuthServer) -> None:
    auth.role("less", deny={"logins": ["{{internal.logins}}"], "node_labels": {"site": ["paris"]}})
    _, held = auth.user("alice", ["access", "less"], ["pi"])
    _patch(auth, logins=["pi", "root"])
    with pytest.raises(AccessDenied):
        _judge(auth, held["ssh_certificate"])


def test_a_role_that_only_allows_ends_nothing(auth: AuthServer) -> None:
    client, held = auth.user("alice", ["access"], ["pi"])
    _patch(auth, roles=["access", "auditor"])
    _judge(auth, held["ssh_certificate"])
    assert client.get("/v1/status").status == 200
    assert auth.events("user.update")[-1]["withdrawn"] is False
