"""The access decision, rung by rung: every refusal by its own name, and the one way through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core import certificate as c
from tinyport.core.access import STRANGER, Grant, Subject, decide, judge_certificate
from tinyport.core.certificate import Certificate, fingerprint
from tinyport.core.errors import AccessDenied, TinyportError
from tinyport.core.issue import issue_host_certificate, issue_user_certificate
from tinyport.core.policy import Lock, NodeDocument, Policy
from tinyport.core.roles import BUILTIN_ROLES, parse_role
from tinyport.core.signatures import Ed25519Key
from tinyport.core.sshwire import string

CA = Ed25519Key.generate()
OTHER_CA = Ed25519Key.generate()
KEY = Ed25519Key.generate()
NOW = 1_700_000_000
UUID = "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"
NODE = NodeDocument(epoch=1, serial=1, uuid=UUID, name="greenhouse", labels={"site": "berlin"}, state="active")

ROLES: dict[str, dict[str, Any]] = {
    **BUILTIN_ROLES,
    "berlin": {"name": "berlin", "allow": {"logins": ["pi"], "node_labels": {"site": ["berlin"]}}},
    "paris": {"name": "paris", "allow": {"logins": ["pi"], "node_labels": {"site": ["paris"]}}},
    "no-root": {"name": "no-root", "deny": {"logins": ["root"]}},
    "not-berlin": {"name": "not-berlin", "deny": {"node_labels": {"site": ["berlin"]}}},
    "nothing": {"name": "nothing"},
    "careful": {"name": "careful", "options": {"require_mfa": True}},
    "no-forward": {"name": "no-forward", "options": {"port_forwarding": False}},
}


def policy(**changes: Any) -> Policy:
    values: dict[str, Any] = {
        "cluster": "farm.example",
        "epoch": 1,
        "serial": 1,
        "issued_at": NOW,
        "user_cas": (CA.public_blob,),
        "host_cas": (),
        "tls_cas": (),
        "roles": {name: parse_role(document) for name, document in ROLES.items()},
    }
    values.update(changes)
    return Policy(**values)


def certificate(
    roles: Sequence[str] = ("access",),
    logins: Sequence[str] = ("pi",),
    ca: Ed25519Key = CA,
    options: Mapping[str, str] | None = None,
    cluster: str = "farm.example",
    now: int = NOW,
    second_factor: Mapping[str, object] | None = None,
) -> Certificate:
    return Certificate.decode(
        issue_user_certificate(
            ca,
            public_key=KEY.public_blob,
            serial=1,
            nonce=bytes(32),
            cluster=cluster,
            user="alice",
            logins=logins,
            roles=roles,
            traits={"logins": list(logins)},
            permits={"pty", "port_forwarding"},
            now=now,
            ttl=3600,
            critical_options=options or {},
            second_factor=second_factor,
        )
    )


def judge(cert: Certificate, *, now: float = NOW, source: str | None = "10.0.0.9", **changes: Any) -> Subject:
    return judge_certificate(cert, policy=policy(**changes), now=now, source=source)


def grant(
    roles: Sequence[str] = ("access",),
    login: str = "pi",
    node: NodeDocument = NODE,
    logins: Sequence[str] = ("pi",),
    **p: Any,
) -> Grant:
    subject = judge(certificate(roles, logins), **p)
    return decide(subject, login=login, node=node, policy=policy(**p), now=NOW)


def test_the_one_way_through() -> None:
    granted = grant()
    assert (granted.user, granted.login, granted.node) == ("alice", "pi", UUID)
    assert granted.permits == {"pty", "exec", "sftp", "port_forwarding"}
    assert granted.expires == NOW + 3600


@pytest.mark.parametrize(
    "shown", [None, {}, {"nodes": []}, {"nodes": UUID}, {"nodes": [7]}, {"nodes": [f"{UUID}0"]}, {"nodes": ["*"]}]
)
def test_a_role_wants_a_code_for_this_very_node(shown: Mapping[str, object] | None) -> None:
    subject = judge(certificate(("access", "careful"), second_factor=shown))
    with pytest.raises(AccessDenied, match="needs a one-time code") as refused:
        decide(subject, login="pi", node=NODE, policy=policy(), now=NOW)
    assert refused.value.code == "mfa_required"


def test_a_code_was_shown_for_this_node() -> None:
    subject = judge(certificate(("access", "careful"), second_factor={"nodes": ["another", UUID]}))
    assert decide(subject, login="pi", node=NODE, policy=policy(), now=NOW).login == "pi"
    # What is to end with the certificate ends with the login, as far as that can be read.
    for ends, expires in (
        (NOW + 7200, NOW + 7200),
        (NOW + 60, NOW + 3600),
        ("tomorrow", NOW + 3600),
        (True, NOW + 3600),
    ):
        shown = {"nodes": [UUID], "login_ends": ends}
        subject = judge(certificate(("access", "careful"), second_factor=shown))
        assert decide(subject, login="pi", node=NODE, policy=policy(), now=NOW).expires == expires
    # It opens nothing that the roles do not.
    subject = judge(certificate(("paris", "careful"), second_factor={"nodes": [UUID]}))
    with pytest.raises(AccessDenied, match=STRANGER):
        decide(subject, login="pi", node=NODE, policy=policy(), now=NOW)


def tampered(cert: Certificate) -> Certificate:
    return Certificate.decode(cert.blob.replace(b"alice", b"mallo"))


def host_certificate() -> Certificate:
    return Certificate.decode(
        issue_host_certificate(
            CA,
            public_key=KEY.public_blob,
            serial=1,
            nonce=bytes(32),
            cluster="farm.example",
            uuid=UUID,
            name="n",
            role="node",
            generation=1,
            now=NOW,
            ttl=60,
        )
    )


def without_principals() -> Certificate:
    tbs = c.to_be_signed(
        public_key=KEY.public_blob,
        nonce=bytes(32),
        serial=1,
        cert_type=c.USER,
        key_id="alice",
        principals=[],
        valid_after=0,
        valid_before=c.FOREVER,
        critical_options={},
        extensions={
            c.EXT_CLUSTER: "farm.example",
            c.EXT_ROUTE: "farm.example",
            c.EXT_USER: "alice",
            c.EXT_ROLES: '["access"]',
        },
        ca_key=CA.public_blob,
    )
    return Certificate.decode(tbs + string(CA.sign(tbs)))


LOCKED = (Lock(id="l1", target={"user": "alice"}, expires=None, message="lost laptop"),)
LOCKED_DEVICE = (Lock(id="l3", target={"device": fingerprint(KEY.public_blob)}, expires=None, message="stolen"),)
LOCKED_ROLE = (Lock(id="l2", target={"role": "access"}, expires=None, message=""),)

REFUSALS: list[tuple[str, Certificate, dict[str, Any], str, str]] = [
    ("another CA", certificate(ca=OTHER_CA), {}, "foreign", STRANGER),
    ("changed after signing", tampered(certificate()), {}, "foreign", STRANGER),
    ("another cluster", certificate(cluster="other.example"), {}, "foreign", STRANGER),
    ("a host's", host_certificate(), {}, "kind", STRANGER),
    ("no principals", without_principals(), {}, "principals", STRANGER),
    ("expired", certificate(), {"now": NOW + 3600 + 7200}, "expired", "expired 2h ago"),
    ("at its very end", certificate(), {"now": NOW + 3600}, "expired", "expired 0s ago"),
    ("not yet", certificate(), {"now": NOW - 3660}, "clock", "clock is 1h behind"),
    ("unknown option", certificate(options={"verify-required": "x"}), {}, "option", "verify-required"),
    ("wrong source", certificate(options={"source-address": "192.0.2.0/24"}), {}, "source", "address"),
    ("unknown source", certificate(options={"source-address": "10.0.0.0/8"}), {"source": None}, "source", "address"),
    ("source nonsense", certificate(options={"source-address": "everywhere"}), {}, "source", "address"),
    ("withdrawn", certificate(), {"refuse_before": {"alice": NOW + 1}}, "revoked", "withdrawn"),
    ("unknown role", certificate(roles=["access", "gone"]), {}, "role", "gone does not exist"),
    ("no role", certificate(roles=[]), {}, "role", "no role"),
    ("user locked", certificate(), {"locks": LOCKED}, "locked", "lost laptop"),
    ("role locked", certificate(), {"locks": LOCKED_ROLE}, "locked", "role access is locked"),
    ("device locked", certificate(), {"locks": LOCKED_DEVICE}, "locked", "stolen"),
]


@pytest.mark.parametrize(
    ("cert", "changes", "code", "text"), [row[1:] for row in REFUSALS], ids=[r[0] for r in REFUSALS]
)
def test_certificate_refusals(cert: Certificate, changes: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(AccessDenied) as caught:
        judge(cert, **changes)
    assert caught.value.code == code
    assert text in caught.value.message


def test_a_source_that_is_allowed_is_allowed() -> None:
    cert = certificate(options={"source-address": "192.0.2.0/24,10.0.0.0/8"})
    assert judge(cert, source="::ffff:10.1.2.3").user == "alice"


def test_a_lock_ends_by_itself() -> None:
    over = (Lock(id="l", target={"user": "alice"}, expires=NOW - 1, message=""),)
    assert judge(certificate(), locks=over).user == "alice"


DENIALS: list[tuple[str, Sequence[str], str, dict[str, Any], str, str]] = [
    ("another login", ("access",), "root", {}, "denied", "login root is not one of yours"),
    ("role for elsewhere, not seen", ("paris",), "pi", {}, "denied", STRANGER),
    ("no allow at all", ("nothing",), "pi", {}, "denied", STRANGER),
    ("login denied", ("access", "no-root"), "root", {"logins": ("pi", "root")}, "denied", "role no-root denies root"),
    ("node denied, not seen", ("access", "not-berlin"), "pi", {}, "denied", STRANGER),
    ("pending", ("access",), "pi", {"state": "pending"}, "quarantined", "is pending"),
    ("quarantined", ("access",), "pi", {"state": "quarantined"}, "quarantined", "is quarantined"),
    ("node locked", ("access",), "pi", {"lock": {"node": UUID}}, "locked", "is locked"),
    ("node locked by name", ("access",), "pi", {"lock": {"node": "greenhouse"}}, "locked", "is locked"),
    ("login locked", ("access",), "pi", {"lock": {"login": "pi"}}, "locked", "login pi is locked"),
    ("locked, not seen", ("paris",), "pi", {"lock": {"login": "pi"}}, "denied", STRANGER),
]


@pytest.mark.parametrize(
    ("roles", "login", "changes", "code", "text"), [row[1:] for row in DENIALS], ids=[row[0] for row in DENIALS]
)
def test_node_refusals(roles: Sequence[str], login: str, changes: dict[str, Any], code: str, text: str) -> None:
    node = NodeDocument(1, 1, UUID, "greenhouse", {"site": "berlin"}, changes.get("state", "active"))
    locks = (Lock("l", changes["lock"], None, ""),) if "lock" in changes else ()
    with pytest.raises(AccessDenied) as caught:
        grant(roles, login, node, changes.get("logins", ("pi",)), locks=locks)
    assert caught.value.code == code
    assert text in caught.value.message


def test_permits_need_role_and_certificate() -> None:
    assert "port_forwarding" not in grant(["access", "no-forward"]).permits
    assert "agent" not in grant().permits  # the role would; the certificate has no flag


def test_a_role_that_cannot_be_read_denies() -> None:
    body = {
        "cluster": "farm.example",
        "epoch": 1,
        "serial": 1,
        "issued_at": NOW,
        "user_cas": [c.public_line(CA.public_blob)],
        "roles": {"access": BUILTIN_ROLES["access"], "odd": {"name": "odd", "allow": {"from-the-future": 1}}},
    }
    parsed = Policy.parse(body)
    subject = judge_certificate(certificate(["access", "odd"]), policy=parsed, now=NOW, source=None)
    with pytest.raises(AccessDenied, match="role odd denies"):
        decide(subject, login="pi", node=NODE, policy=parsed, now=NOW)


def outcome(roles: Sequence[str], login: str) -> bool:
    try:
        grant(roles, login, logins=("pi", "root"))
    except TinyportError:
        return False
    return True


ROLE_NAMES = st.lists(st.sampled_from(sorted(ROLES)), min_size=1, max_size=5, unique=True)


@given(ROLE_NAMES, st.sampled_from(["pi", "root"]), st.randoms())
def test_order_of_roles_never_matters(roles: list[str], login: str, random: Any) -> None:
    shuffled = list(roles)
    random.shuffle(shuffled)
    assert outcome(roles, login) == outcome(shuffled, login)


@given(ROLE_NAMES, st.sampled_from(["pi", "root"]), st.sampled_from(["no-root", "not-berlin"]))
def test_adding_a_deny_never_grants(roles: list[str], login: str, deny: str) -> None:
    if outcome([*roles, deny], login):
        assert outcome(roles, login)
