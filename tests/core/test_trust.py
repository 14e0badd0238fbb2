"""Trusted clusters: what a map makes of foreign roles, and what a foreign certificate is worth."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.test_access import CA, NODE, NOW, UUID, certificate, policy
from tinyport.core.access import Subject, decide, judge_certificate
from tinyport.core.break_glass import judge as judge_break_glass
from tinyport.core.certificate import public_line
from tinyport.core.errors import AccessDenied, ConfigError, PeerError, TinyportError
from tinyport.core.policy import Lock, Policy
from tinyport.core.roles import parse_role
from tinyport.core.signatures import Ed25519Key
from tinyport.core.trust import RoleMapping, TrustedCluster, compile_remote, parse_trusted_cluster
from tinyport.core.verified import VerifiedCertificates

PARTNER = Ed25519Key.generate()
THIRD = Ed25519Key.generate()
PIN = "sha256:" + "0" * 64
NAME = "partner.example"
GUEST = {"name": "dev-guest", "allow": {"logins": ["guest", "{{user.name}}"], "node_labels": {"site": ["berlin"]}}}
EVERY = {"name": "every", "allow": {"logins": ["*"], "node_labels": {"*": ["*"]}}}
CAREFUL = {**GUEST, "name": "careful-guest", "options": {"require_mfa": True}}
TRAITS = {"name": "traits", "allow": {"logins": ["{{internal.logins}}"], "node_labels": {"*": ["*"]}}}


def trusted(*mappings: tuple[str, list[str]], **changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": NAME,
        "user_ca": public_line(PARTNER.public_blob),
        "role_map": [{"remote": remote, "local": local} for remote, local in mappings],
    }
    return {**document, **changes}


def local(*documents: dict[str, Any], **changes: Any) -> Policy:
    roles = {str(role["name"]): parse_role(role) for role in (GUEST, EVERY, CAREFUL, TRAITS)}
    return policy(roles=roles, trusted_clusters=tuple(map(parse_trusted_cluster, documents)), **changes)


MAPPED = trusted(("^(.*)-admin$", ["$1-guest"]))


def judge(rules: Policy, **changes: Any) -> Subject:
    values: dict[str, Any] = {"roles": ["dev-admin"], "logins": ["root", "pi"], "ca": PARTNER, "cluster": NAME}
    return judge_certificate(certificate(**{**values, **changes}), policy=rules, now=NOW, source="10.0.0.1")


def refused(rules: Policy, **changes: Any) -> AccessDenied:
    with pytest.raises(AccessDenied) as caught:
        judge(rules, **changes)
    return caught.value


def test_a_mapped_user_has_local_roles_and_logins_and_nothing_else() -> None:
    rules = local(MAPPED)
    subject = judge(rules)
    assert (subject.user, subject.home) == ("alice@partner.example", NAME)
    assert (subject.role_names, subject.logins, dict(subject.traits)) == (("dev-guest",), ("guest",), {})
    grant = decide(subject, login="guest", node=NODE, policy=rules, now=NOW)
    assert grant.user == "alice@partner.example"
    # Both are principals of the certificate; a user's name is no login here, whatever it is.
    for login in ("root", "pi", "alice"):
        with pytest.raises(AccessDenied):
            decide(subject, login=login, node=NODE, policy=rules, now=NOW)


def test_remote_traits_fill_no_template() -> None:
    assert judge(local(trusted(("admin", ["traits"]))), roles=["admin"]).logins == ()


def test_a_role_for_every_login_asks_the_certificate_as_it_does_of_our_own() -> None:
    rules = local(trusted(("admin", ["every"])))
    subject = judge(rules, roles=["admin"])
    decide(subject, login="root", node=NODE, policy=rules, now=NOW)
    with pytest.raises(AccessDenied):
        decide(subject, login="games", node=NODE, policy=rules, now=NOW)


@pytest.mark.parametrize(
    ("document", "changes", "code"),
    [
        (MAPPED, {"roles": ["admin"]}, "role"),
        (MAPPED, {"roles": ["dev-admins"]}, "role"),
        (MAPPED, {"roles": []}, "role"),
        (MAPPED, {"roles": ["none-admin"]}, "role"),  # none-guest does not exist here
        (trusted(), {}, "role"),
        (trusted(("dev-admin", ["dev-guest"]), enabled=False), {}, "foreign"),
        (MAPPED, {"ca": THIRD}, "foreign"),
        (MAPPED, {"cluster": "farm.example"}, "foreign"),
        (MAPPED, {"cluster": "third.example"}, "foreign"),
        # Our own CA does not speak for them either.
        (MAPPED, {"ca": CA}, "foreign"),
    ],
)
def test_refusals(document: dict[str, Any], changes: dict[str, Any], code: str) -> None:
    assert refused(local(document), **changes).code == code


def test_our_own_key_and_a_key_of_two_clusters_are_nobody_elses() -> None:
    own = trusted(("^.*$", ["every"]), user_ca=public_line(CA.public_blob))
    assert local(own).foreign_user_cas == {}
    retired = local(MAPPED, retired_user_cas=(PARTNER.public_blob,))
    assert retired.foreign_user_cas == {}
    twice = local(MAPPED, trusted(("^.*$", ["every"]), name="third.example"))
    assert refused(twice).code == "foreign"
    named_like_us = trusted(("^.*$", ["every"]), name="farm.example")
    assert refused(local(named_like_us), cluster="farm.example").code == "foreign"


def test_locks_and_revocation_of_a_namesake_are_not_theirs() -> None:
    namesake = Lock("1", {"user": "alice"}, None, "")
    judge(local(MAPPED, locks=(namesake,), refuse_before={"alice": NOW + 1}))
    for target in ({"user": "alice@partner.example"}, {"role": "dev-guest"}):
        assert refused(local(MAPPED, locks=(Lock("1", target, None, ""),))).code == "locked"


def test_their_second_factor_is_not_ours() -> None:
    rules = local(trusted(("dev-admin", ["careful-guest"])))
    subject = judge(rules, second_factor={"nodes": [UUID], "login_ends": NOW + 86400})
    assert subject.claims.login_ends is None
    with pytest.raises(AccessDenied, match=r"one shown in partner\.example does not count") as caught:
        decide(subject, login="guest", node=NODE, policy=rules, now=NOW)
    # Not what makes a client ask for one.
    assert caught.value.code == "mfa_elsewhere"
    assert "administrator of farm.example" in caught.value.hint


def test_what_was_verified_is_judged_by_the_map_of_today() -> None:
    verified = VerifiedCertificates()
    cert = verified.decode(certificate(["dev-admin"], ca=PARTNER, cluster=NAME).blob)
    judged: dict[str, Any] = {"now": NOW, "source": "10.0.0.1", "verified": verified}
    assert judge_certificate(cert, policy=local(MAPPED), **judged).role_names == ("dev-guest",)
    for gone in (local(), local({**MAPPED, "role_map": []}), local({**MAPPED, "enabled": False})):
        with pytest.raises(AccessDenied):
            judge_certificate(cert, policy=gone, **judged)


def test_a_foreign_ca_breaks_no_glass() -> None:
    with pytest.raises(TinyportError):
        judge_break_glass(
            certificate(ca=PARTNER), login="pi", policy=local(MAPPED), node=NODE, past=NOW, now=NOW, verified=None
        )


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("admin", ["admin"], ["xadmin", "adminx", "admin\n", "Admin"]),
        ("^(dev|ops)-.*$", ["dev-x", "ops-"], ["xdev-x", "devx", "x\ndev-1"]),
        (r"^a\.b$", ["a.b"], ["axb"]),
        ("^a.b$", ["axb", "a.b"], ["ab", "xa.b"]),
    ],
)
def test_patterns_are_anchored_at_both_ends(pattern: str, yes: list[str], no: list[str]) -> None:
    compiled = compile_remote(pattern)
    assert all(compiled.fullmatch(name) for name in yes)
    assert not any(compiled.fullmatch(name) for name in no)


@pytest.mark.parametrize(
    "pattern",
    ["", "*", "^", "dev-*", "^a|b$", "^(a+)+$", "^(.*)*$", "^.*.*.*.*$", "^(?P<x>a)$", r"^\w+$", "^[a-z]+$", "admin$"],
)
def test_other_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(PeerError):
        compile_remote(pattern)


@pytest.mark.parametrize("pattern", ["^(a|b|)$", "^" + "a" * 200 + "$", "^a$\n", "^((a))$"])
def test_these_neither(pattern: str) -> None:
    with pytest.raises(PeerError):
        compile_remote(pattern)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({}, "name: must be given"),
        ({"name": NAME}, "user_ca: must be given"),
        (trusted(nonsense=1), "nonsense: unknown"),
        (trusted(enabled="yes"), "must be true or false"),
        (trusted(user_ca="ssh-ed25519 x"), "base64 is damaged"),
        (trusted(user_ca=["x"] * 5), "not an SSH public key"),
        (trusted(("^(.*)$", ["$2"])), "names a group"),
        (trusted(("admin", [])), "a mapping is"),
        (trusted(("admin", ["no such"])), "role name"),
        (trusted(host_ca=public_line(PARTNER.public_blob)), "one key cannot be both"),
        (
            {"name": NAME, "host_ca": public_line(PARTNER.public_blob), "role_map": MAPPED["role_map"]},
            "maps nobody without user_ca",
        ),
        (trusted(public_addr="proxy.partner.example"), "host_ca: must be given beside public_addr"),
        (trusted(public_addr=5, host_ca=public_line(THIRD.public_blob)), "must be a host and a port"),
        (trusted(server="partner.example:443"), "ca_pin: must be given beside server"),
        (trusted(ca_pin=PIN), "server: must be given beside ca_pin"),
        (trusted(server=5, ca_pin=PIN), "server: must be a host and a port"),
        (trusted(server=[], ca_pin=PIN), "server: must be a host and a port"),
        (trusted(server=["p:443", 5], ca_pin=PIN), "server: must be a host and a port"),
        (trusted(server=[f"p{n}:443" for n in range(9)], ca_pin=PIN), "a list of at most 8"),
        (trusted(server="p:443", ca_pin="sha256:short"), "is not a pin"),
        (trusted(server="p:443", ca_pin=[]), "a list of at most 3"),
        (trusted(server="p:443", ca_pin=[PIN] * 4), "a list of at most 3"),
        (
            {"name": NAME, "host_ca": public_line(PARTNER.public_blob), "server": "p:443", "ca_pin": PIN},
            "nobody could come through that tunnel",
        ),
        ([], "is a table"),
    ],
)
def test_every_problem_is_named(document: object, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_trusted_cluster(document)
    assert any(problem in said for said in caught.value.problems), caught.value.problems


def test_a_document_reads_as_it_was_written() -> None:
    elsewhere = {"public_addr": "proxy.partner.example:443", "host_ca": public_line(THIRD.public_blob)}
    dialled = {
        "server": ["proxy.partner.example:443", "proxy-2.partner.example:443"],
        "ca_pin": [PIN, PIN.replace("0", "1")],
    }
    for document in (
        MAPPED,
        trusted(enabled=False),
        trusted(**elsewhere),
        trusted(("x", ["y", "z"])),
        trusted(**dialled),
    ):
        cluster = parse_trusted_cluster(document)
        assert parse_trusted_cluster(cluster.document) == cluster


def test_a_cluster_that_cannot_be_read_lets_nobody_in() -> None:
    body = {
        "cluster": "farm.example",
        "epoch": 1,
        "serial": 1,
        "issued_at": NOW,
        "trusted_clusters": [{**MAPPED, "of_a_later_version": 1}, MAPPED],
    }
    assert Policy.parse(body).trusted_clusters == (parse_trusted_cluster(MAPPED),)


NAMES = st.text("abAB1-_.", min_size=1, max_size=12)
PIECES = st.sampled_from(["a", "b", "-", r"\.", ".", ".*", ".+", "(.*)", "(.+)", "(a|b)", "(ab)"])
PATTERNS = NAMES | st.lists(PIECES, max_size=6).map(lambda pieces: f"^{''.join(pieces)}$")


@given(PATTERNS | st.text(max_size=20), st.lists(NAMES | st.text(max_size=20), max_size=4))
def test_a_role_that_no_pattern_meets_whole_grants_nothing(pattern: str, roles: list[str]) -> None:
    try:
        compiled = compile_remote(pattern)
    except PeerError:
        return
    cluster = TrustedCluster(NAME, role_map=(RoleMapping(pattern, ("guest",)),))
    whole = [role for role in roles if re.fullmatch(f"(?:{compiled.pattern})", role)]
    assert cluster.local_roles(roles) == (("guest",) if whole else ())


@given(NAMES | st.text(max_size=40))
def test_what_dollar_one_makes_is_a_role_name_or_nothing(role: str) -> None:
    found = TrustedCluster(NAME, role_map=(RoleMapping("^(.*)$", ("$1-guest",)),)).local_roles([role])
    assert found in ((), (f"{role}-guest",))


@given(st.permutations(["dev-admin", "x-admin", "viewer", "dev-admin"]))
def test_order_and_repetition_of_their_roles_never_matter(roles: list[str]) -> None:
    assert parse_trusted_cluster(MAPPED).local_roles(roles) == ("dev-guest", "x-guest")


@given(st.recursive(st.none() | st.booleans() | st.text(max_size=9), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["name", "enabled", "user_ca", "host_ca", "role_map", "remote", "local", "server", "ca_pin"]),
    x)))  # fmt: skip
def test_never_anything_but_a_cluster_or_a_config_error(document: object) -> None:
    try:
        made = parse_trusted_cluster(document)
    except ConfigError:
        return
    assert made.user_cas or made.host_cas
