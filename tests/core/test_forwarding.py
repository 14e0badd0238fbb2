from __future__ import annotations

from dataclasses import replace

import pytest

from tests.core.test_access import ROLES, certificate, judge
from tinyport.core.access import decide
from tinyport.core.claims import read_claims
from tinyport.core.errors import ConfigError, PeerError
from tinyport.core.forwarding import EVERYTHING, NOTHING, ForwardRule, merge, parse_forwarding
from tinyport.core.rights import forwarding, permits
from tinyport.core.roles import parse_role, role_document

RULE = parse_forwarding(
    {
        "local": [
            "*.db.internal:5432",
            "10.0.0.0/8:22",
            "[fd00::]/8:*",
            "localhost:8000-8099",
            "/run/app/*.sock",
            "*:25",
        ],
        "remote": ["localhost:8080", "*:9000-9010"],
    }
)


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        ("one.db.internal", 5432, True),
        ("ONE.DB.Internal.", 5432, True),
        ("one.db.internal", 5433, False),
        ("db.internal", 5432, False),
        ("one.db.internal.evil.example", 5432, False),
        ("10.1.2.3", 22, True),
        ("::ffff:10.1.2.3", 22, True),
        ("11.1.2.3", 22, False),
        # A name is never an address, whatever it looks like or resolves to.
        ("10.evil.example", 22, False),
        ("10.1.2.3.db.internal", 5432, True),
        ("fd00::17", 1, True),
        ("fe80::17", 1, False),
        ("localhost", 8000, True),
        ("localhost", 8099, True),
        ("localhost", 8100, False),
        ("127.0.0.1", 8000, False),
        ("::1", 8000, False),
        # What resolvers take for 10.0.0.1 and 127.0.0.1.
        ("10.1", 22, False),
        ("0x7f.1", 8000, False),
        ("167772161", 22, False),
        ("anything", 25, True),
        ("10.1", 25, True),
        ("", 22, False),
        ("*", 5432, False),
    ],
)
def test_what_may_be_reached(host: str, port: int, allowed: bool) -> None:
    assert RULE.may_connect(host, port) is allowed


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        ("localhost", 8080, True),
        ("localhost", 8081, False),
        ("127.0.0.1", 8080, False),
        ("", 8080, False),
        ("*", 8080, False),
        ("0.0.0.0", 8080, False),
        ("", 9000, True),
        ("0.0.0.0", 9010, True),
        # "Any free port" is none that was named.
        ("localhost", 0, False),
    ],
)
def test_where_may_be_listened(host: str, port: int, allowed: bool) -> None:
    assert RULE.may_listen(host, port) is allowed


def test_any_free_port_needs_every_port() -> None:
    assert parse_forwarding({"remote": ["localhost:*"]}).may_listen("localhost", 0)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/run/app/a.sock", True),
        ("/run/app/a/b.sock", True),
        ("/run/app/../other.sock", False),
        ("/run/app/./a.sock", False),
        ("/run/other.sock", False),
    ],
)
def test_unix_sockets(path: str, allowed: bool) -> None:
    assert RULE.may_connect_path(path) is allowed
    assert not RULE.may_listen_path(path)
    assert EVERYTHING.may_connect_path(path)


def test_directions() -> None:
    local, remote = parse_forwarding("local"), parse_forwarding("remote")
    assert local.may_connect("x", 1)
    assert not local.may_listen("localhost", 1)
    assert remote.may_listen("", 0)
    assert not remote.may_connect("x", 1)
    assert not NOTHING.may_connect("x", 1)
    assert not NOTHING.may_listen_path("/x")


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "all",
        [],
        {},
        {"locale": []},
        {"local": "host:1"},
        {"local": [1]},
        {"local": ["host"]},
        {"local": ["host:0"]},
        {"local": ["host:70000"]},
        {"local": ["host:9-1"]},
        {"local": ["host:1-"]},
        {"local": [":1"]},
        {"local": ["::1:22"]},
        {"local": ["[::1:22"]},
        {"local": ["10.*:22"]},
        {"local": ["10.0.0.0/33:22"]},
        {"local": ["a b:1"]},
        {"local": ["a\nb:1"]},
        {"local": [""]},
        {"local": ["x" * 300 + ":1"]},
        {"local": ["x:1"] * 100},
    ],
)
def test_what_is_no_rule(value: object) -> None:
    with pytest.raises(PeerError):
        parse_forwarding(value)
    with pytest.raises(ConfigError, match="port_forwarding"):
        parse_role({"name": "r", "options": {"port_forwarding": value}})


def test_the_merge() -> None:
    a, b = ForwardRule(("a:1",)), ForwardRule(("b:1",), ("*",))
    assert merge([None, None]) == EVERYTHING
    assert merge([None, a]) == a, "a role that says nothing gives way"
    assert merge([a, b]) == merge([a, b, a]) == ForwardRule(("a:1", "b:1"), ("*",))
    assert merge([a, EVERYTHING]).may_connect("z", 9)
    assert merge([EVERYTHING, NOTHING, a]) == NOTHING


def test_roles_keep_their_rule_and_permit_what_is_not_nothing() -> None:
    said = {"local": ["a:1"]}
    role = parse_role({"name": "r", "options": {"port_forwarding": said}})
    assert parse_role(role_document(role)) == role
    assert forwarding([role]) == ForwardRule(("a:1",))
    assert "port_forwarding" in permits([role])
    empty = parse_role({"name": "e", "options": {"port_forwarding": {"local": []}}})
    assert "port_forwarding" not in permits([role, empty])
    assert forwarding([]) == NOTHING


def test_the_grant_carries_it_and_the_certificate_may_withhold_it() -> None:
    from tests.core.test_access import NODE, NOW, policy

    roles = {**{name: parse_role(role) for name, role in ROLES.items()}}
    roles["db"] = parse_role({"name": "db", "options": {"port_forwarding": {"local": ["db:5432"]}}})
    subject = judge(certificate(["access", "db"]), roles=roles)
    granted = decide(subject, login="pi", node=NODE, policy=policy(roles=roles), now=NOW)
    assert granted.forwarding == ForwardRule(("db:5432",))
    bare = {name: value for name, value in subject.certificate.extensions.items() if name != "permit-port-forwarding"}
    claims = read_claims(replace(subject.certificate, extensions=bare))
    granted = decide(replace(subject, claims=claims), login="pi", node=NODE, policy=policy(roles=roles), now=NOW)
    assert granted.forwarding == NOTHING
    assert "port_forwarding" not in granted.permits
