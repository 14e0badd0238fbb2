"""One-time codes: setting them up, logging in with them, and what a thief of one factor cannot do."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from tinyport.auth import second_factor
from tinyport.auth.failures import MAX_FAILURES
from tinyport.core.certificate import EXT_DEVICE, EXT_SECOND_FACTOR, Certificate, parse_public_line, public_line
from tinyport.core.signatures import Ed25519Key

from .conftest import Answer, AuthServer, Client

TLS_KEY = ed25519.Ed25519PrivateKey.generate()
PASSWORD = "correct horse"


def rule(auth: AuthServer, value: str) -> None:
    path = "/v1/resources/cluster_config/cluster"
    assert auth.local().call("PUT", path, {"second_factor": value}).status == 200


def code(auth: AuthServer, secret: str, drift: int = 0) -> str:
    return second_factor.code_at(base64.b32decode(secret), int(auth.clock.now) // second_factor.STEP + drift)


def later(auth: AuthServer) -> None:
    """No code counts twice: on to the next one."""
    auth.clock.now += second_factor.STEP


def invite(auth: AuthServer, name: str = "alice", roles: tuple[str, ...] = ("access",)) -> str:
    made = auth.local().post("/v1/users", {"name": name, "roles": list(roles), "logins": ["pi"]})
    return str(made.body["invitation"])


def sign_up(auth: AuthServer, name: str = "alice", roles: tuple[str, ...] = ("access",)) -> str:
    """A user with a second factor; its secret."""
    invitation = invite(auth, name, roles)
    secret = str(auth.anyone().post("/v1/invitation", {"invitation": invitation}).body["totp"]["secret"])
    body = {"invitation": invitation, "password": PASSWORD, "otp": code(auth, secret)}
    answer = auth.anyone().post("/v1/signup", body)
    assert answer.status == 200, answer
    later(auth)
    return secret


def attempt(auth: AuthServer, name: str = "alice", password: str = PASSWORD, **fields: object) -> Answer:
    return auth.anyone().post("/v1/login", {**auth.login_body(name, password, TLS_KEY), **fields})


def logged_in(auth: AuthServer, secret: str | None, name: str = "alice") -> Client:
    answer = attempt(auth, name, **({} if secret is None else {"otp": code(auth, secret)}))
    assert answer.status == 200, answer
    later(auth)
    return auth.bearer(answer.body["tls_certificate"], TLS_KEY)


def test_codes_are_those_of_rfc_6238() -> None:
    # Appendix B, the last six of its eight digits.
    secret = b"12345678901234567890"
    for time, expected in ((59, "287082"), (1111111109, "081804"), (20000000000, "353130")):
        assert second_factor.code_at(secret, time // 30) == expected
        assert second_factor.matching_step(secret, expected, time) == time // 30
        assert second_factor.matching_step(secret, f"{expected[:3]} {expected[3:]}", time + 30) == time // 30
        assert second_factor.matching_step(secret, expected, time + 90) is None
    for wrong in ("", "287", "28708²", "x" * 16):
        assert second_factor.matching_step(secret, wrong, 59) is None


def test_required_from_the_invitation_on(auth: AuthServer) -> None:
    rule(auth, "required")
    assert auth.anyone().get("/v1/hello").body["second_factor"] == "required"
    invitation = invite(auth)
    shown = auth.anyone().post("/v1/invitation", {"invitation": invitation}).body
    secret = shown["totp"]["secret"]
    assert shown["totp"]["uri"].startswith(f"otpauth://totp/farm.example:alice?secret={secret}&issuer=farm.example")
    assert {len(row) for row in shown["totp"]["qr"]} == {len(shown["totp"]["qr"])}
    # Asked again (a reload of the page), it is the same secret.
    assert auth.anyone().post("/v1/invitation", {"invitation": invitation}).body["totp"]["secret"] == secret
    body = {"invitation": invitation, "password": PASSWORD}
    assert auth.anyone().post("/v1/signup", body).code == "otp_required"
    assert auth.anyone().post("/v1/signup", {**body, "otp": "000000"}).code == "bad_code"
    assert auth.anyone().post("/v1/signup", {**body, "otp": code(auth, secret)}).status == 200

    # The code that confirmed it is used up, here as at a login.
    assert attempt(auth).code == "otp_required"
    assert attempt(auth, otp=code(auth, secret)).code == "bad_credentials"
    later(auth)
    used = code(auth, secret)
    assert attempt(auth, otp=used).status == 200
    assert attempt(auth, otp=used).code == "bad_credentials"
    later(auth)
    assert attempt(auth, otp=code(auth, secret, -1)).code == "bad_credentials"
    assert attempt(auth, otp=code(auth, secret, 1)).status == 200


def test_a_password_alone_sets_up_no_factor(auth: AuthServer) -> None:
    auth.add_user("alice", ["access"], ["pi"])
    rule(auth, "required")
    refused = attempt(auth)
    assert (refused.status, refused.code) == (401, "factor_missing")
    assert "tctl users reset alice" in str(refused.body)
    assert attempt(auth, password="wrong horse").code == "bad_credentials"


def test_optional_asks_those_who_have_one(auth: AuthServer) -> None:
    rule(auth, "optional")
    auth.add_user("bob", ["access"], ["pi"])
    assert attempt(auth, "bob").status == 200
    secret = sign_up(auth)
    assert attempt(auth).code == "otp_required"
    assert attempt(auth, otp=code(auth, secret)).status == 200
    rule(auth, "off")
    assert attempt(auth).status == 200


def test_wrong_codes_lock_out_as_wrong_passwords_do(auth: AuthServer) -> None:
    rule(auth, "required")
    secret = sign_up(auth)
    for _ in range(MAX_FAILURES):
        wrong = attempt(auth, otp="000000")
        assert (wrong.status, wrong.code) == (401, "bad_credentials")
    auth.clock.now += 60
    right = attempt(auth, otp=code(auth, secret))
    assert (right.code, right.message) == (wrong.code, wrong.message)
    nobody = attempt(auth, "nobody", otp="000000")
    assert (nobody.code, nobody.message) == (wrong.code, wrong.message)
    assert [event["user"] for event in auth.events("user.locked_out")] == ["alice"]
    auth.local().post("/v1/users/alice/unlock")
    assert attempt(auth, otp=code(auth, secret)).status == 200


def test_a_reset_takes_the_factor_too(auth: AuthServer) -> None:
    rule(auth, "required")
    old = sign_up(auth)
    invitation = auth.local().post("/v1/users/alice/reset").body["invitation"]
    new = auth.anyone().post("/v1/invitation", {"invitation": invitation}).body["totp"]["secret"]
    assert new != old
    body = {"invitation": invitation, "password": PASSWORD, "otp": code(auth, old)}
    assert auth.anyone().post("/v1/signup", body).code == "bad_code"
    assert auth.anyone().post("/v1/signup", {**body, "otp": code(auth, new)}).status == 200


def test_ones_own_factors(auth: AuthServer) -> None:
    auth.add_user("alice", ["access"], ["pi"])
    plain = logged_in(auth, None)
    assert plain.post("/v1/mfa", {"name": "phone"}).status == 400
    rule(auth, "optional")
    begun = plain.post("/v1/mfa", {"name": "phone"}).body
    phone = str(begun["totp"]["secret"])
    assert plain.get("/v1/mfa").body["factors"] == []
    assert attempt(auth).status == 200
    assert plain.post(f"/v1/mfa/{begun['id']}/confirm", {"otp": "000000"}).code == "bad_code"
    assert plain.post(f"/v1/mfa/{begun['id']}/confirm", {"otp": code(auth, phone)}).status == 200
    assert plain.post(f"/v1/mfa/{begun['id']}/confirm", {"otp": code(auth, phone)}).code == "not_found"
    later(auth)

    # From here on a login that somebody stole changes nothing without the phone.
    assert plain.post("/v1/mfa", {"name": "thief"}).code == "otp_required"
    assert plain.post("/v1/mfa", {"name": "thief", "otp": "000000"}).code == "bad_credentials"
    assert plain.post("/v1/mfa/phone/remove", {}).code == "otp_required"
    assert plain.post("/v1/mfa", {"name": "phone", "otp": code(auth, phone)}).code == "exists"
    later(auth)
    rule(auth, "required")
    assert plain.post("/v1/mfa/phone/remove", {"otp": code(auth, phone)}).code == "in_use"
    later(auth)
    key = plain.post("/v1/mfa", {"name": "key", "otp": code(auth, phone)}).body
    assert plain.post(f"/v1/mfa/{key['id']}/confirm", {"otp": code(auth, key["totp"]["secret"])}).status == 200
    later(auth)
    assert plain.post("/v1/mfa/phone/remove", {"otp": code(auth, key["totp"]["secret"])}).status == 200
    assert [factor["name"] for factor in plain.get("/v1/mfa").body["factors"]] == ["key"]
    kept = [
        (event["event"], event["factor"]) for name in ("add", "remove") for event in auth.events(f"user.factor.{name}")
    ]
    assert kept == [("user.factor.add", "phone"), ("user.factor.add", "key"), ("user.factor.remove", "phone")]


def test_secrets_are_shown_once_and_never_listed(auth: AuthServer) -> None:
    rule(auth, "required")
    secret = sign_up(auth)
    client = logged_in(auth, secret)
    shown = (
        str(client.get("/v1/mfa")) + str(auth.local().get("/v1/resources/user")) + str(auth.local().get("/v1/users"))
    )
    assert secret not in shown
    assert secret not in str(auth.local().get("/v1/audit", limit=1000).body)


# ---------------------------------------------------------------------------- a code for each session


def session(auth: AuthServer, client: Client, nodes: list[str], otp: str) -> Answer:
    key = public_line(Ed25519Key.generate().public_blob)
    return client.post("/v1/mfa/session", {"nodes": nodes, "otp": otp, "ssh_public_key": key})


def test_a_code_for_each_session(auth: AuthServer) -> None:
    auth.role("careful", allow={"logins": ["pi"], "node_labels": {"*": ["*"]}}, options={"require_mfa": True})
    rule(auth, "optional")
    barn = auth.join("barn")
    auth.join("shed")
    secret = sign_up(auth, roles=("careful",))
    client = logged_in(auth, secret)
    made = session(auth, client, ["barn"], code(auth, secret))
    assert made.status == 200, made
    cert = Certificate.decode(parse_public_line(made.body["ssh_certificate"]))
    extension = cert.json_extension(EXT_SECOND_FACTOR)
    assert isinstance(extension, dict)
    assert extension["nodes"] == [barn.answer["uuid"]]
    # What ends with the certificate ends with the login that asked for it.
    assert extension["login_ends"] - auth.clock.now > 3600
    assert made.body["valid_before"] - auth.clock.now == 120
    assert session(auth, client, ["barn"], code(auth, secret)).code == "bad_credentials"
    later(auth)
    assert session(auth, client, ["nowhere"], code(auth, secret)).code == "no_such_node"
    later(auth)
    assert session(auth, client, [], code(auth, secret)).status == 400


def test_no_factor_no_session(auth: AuthServer) -> None:
    client, _ = auth.user("alice", ["access"], ["pi"])
    auth.join("barn")
    assert session(auth, client, ["barn"], "000000").code == "factor_missing"


# ---------------------------------------------------------------------------- logins that are extended


def extend(client: Client, auth: AuthServer, **fields: object) -> Answer:
    body = auth.login_body("alice", PASSWORD, TLS_KEY)
    return client.post("/v1/login/extend", {**{key: body[key] for key in ("ssh_public_key", "tls_csr")}, **fields})


def test_a_login_is_extended_where_every_role_lets_it(auth: AuthServer) -> None:
    auth.role("field", allow={"logins": ["pi"]}, options={"extend_login": "2d", "max_session_ttl": "8h"})
    auth.role("short", allow={"logins": ["ops"]}, options={"extend_login": "1d"})
    auth.add_user("alice", ["field", "short"], ["pi"])
    client = logged_in(auth, None)
    began = auth.clock.now - second_factor.STEP
    for hours in (7, 14, 21):
        auth.clock.now = began + hours * 3600
        answer = extend(client, auth)
        assert answer.status == 200, answer
        client = auth.bearer(answer.body["tls_certificate"], TLS_KEY)
    # The tightest role's day has three hours left, and a chain of extensions makes it no longer.
    assert answer.body["valid_before"] == pytest.approx(began + 86400, abs=1)
    assert [event.get("extended") for event in auth.events("user.login")] == [None, True, True, True]
    auth.clock.now = began + 86400 - 1
    answer = extend(client, auth)
    assert answer.status == 200
    client = auth.bearer(answer.body["tls_certificate"], TLS_KEY)
    auth.clock.now = began + 86400
    assert extend(client, auth).status == 401


@pytest.mark.parametrize("named", ["first", "second"])
def test_a_lock_on_the_device_finds_keys_that_came_later(auth: AuthServer, named: str) -> None:
    auth.role("field", allow={"logins": ["pi"], "node_labels": {"*": ["*"]}}, options={"extend_login": "2d"})
    rule(auth, "optional")
    barn = auth.join("barn")
    secret = sign_up(auth, roles=("field",))
    first = logged_in(auth, secret)
    keys = [auth.events("user.login")[-1]["fingerprint"]]
    later_key = public_line(Ed25519Key.generate().public_blob)
    answer = extend(first, auth, ssh_public_key=later_key)
    assert answer.status == 200, answer
    second = auth.bearer(answer.body["tls_certificate"], TLS_KEY)
    event = auth.events("user.login")[-1]
    assert event["device"] == keys[0] != event["fingerprint"]
    keys.append(event["fingerprint"])
    later(auth)
    made = session(auth, second, ["barn"], code(auth, secret))
    for line in (answer.body["ssh_certificate"], made.body["ssh_certificate"]):
        assert Certificate.decode(parse_public_line(line)).text_extension(EXT_DEVICE) == keys[0]
    lock = auth.local().post("/v1/locks", {"target": {"device": keys[named == "second"]}})
    assert lock.body["target"] == {"device": keys[0]}
    for client in (first, second):
        assert client.get("/v1/nodes").code == "locked"
    gate = auth.join("gate", "proxy", addresses=["127.0.0.1:1"]).client
    for line in (answer.body["ssh_certificate"], made.body["ssh_certificate"]):
        asked = {"certificate": line.split()[1], "target": barn.uuid, "login": "pi", "source": "127.0.0.1"}
        assert gate.post("/v1/access", asked).code == "locked"


@pytest.mark.parametrize("options", [{}, {"extend_login": "2d"}])
def test_a_role_that_does_not_say_so_extends_nothing(auth: AuthServer, options: dict[str, Any]) -> None:
    auth.role("field", allow={"logins": ["pi"]}, options=options)
    client, _ = auth.user("alice", ["access", "field"], ["pi"])
    assert extend(client, auth).code == "not_extended"


def test_signed_without_a_password_is_not_extended(auth: AuthServer) -> None:
    auth.role("field", allow={"logins": ["pi"]}, options={"extend_login": "2d"})
    auth.add_user("alice", ["field"], ["pi"])
    body = auth.login_body("alice", PASSWORD, TLS_KEY)
    signed = auth.local().post("/v1/sign", {**body, "ttl": 3600}).body
    client = auth.bearer(signed["tls_certificate"], TLS_KEY)
    assert extend(client, auth).status == 401


def test_passwords_of_the_clusters_choice(auth: AuthServer) -> None:
    path = "/v1/resources/cluster_config/cluster"
    assert auth.local().call("PUT", path, {"password_min_length": 14}).status == 200
    assert auth.local().call("PUT", path, {"password_min_length": 7}).code == "config"
    invitation = invite(auth)
    for bad in ("correct horse", "a" * 20, "abababababababababab"):
        answer = auth.anyone().post("/v1/signup", {"invitation": invitation, "password": bad})
        assert answer.code == "bad_password", bad
    assert auth.anyone().post("/v1/signup", {"invitation": invitation, "password": "correct horse b"}).status == 200
