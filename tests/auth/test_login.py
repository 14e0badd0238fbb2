"""People: invitations, passwords, lock-outs, what a login gives, and what takes it away again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from tinyport.auth.store import Database
from tinyport.core.certificate import EXT_ROLES, EXT_TRAITS, EXT_USER, Certificate, parse_public_line, public_line
from tinyport.core.errors import PeerError
from tinyport.core.names import check_login
from tinyport.core.signatures import Ed25519Key

from .conftest import START, Answer, AuthServer, csr

TLS_KEY = ed25519.Ed25519PrivateKey.generate()


def attempt(auth: AuthServer, name: str, password: str = "correct horse", **fields: object) -> Answer:
    return auth.anyone().post("/v1/login", {**auth.login_body(name, password, TLS_KEY), **fields})


def certificate(body: dict[str, Any]) -> Certificate:
    return Certificate.decode(parse_public_line(body["ssh_certificate"]))


def test_an_invitation_is_for_one_time_and_one_hour(auth: AuthServer) -> None:
    auth.join("gate", "proxy", addresses=["port.example.com:443"])
    made = auth.local().post("/v1/users", {"name": "alice", "roles": ["access"], "logins": ["pi"]}).body
    invitation = made["invitation"]
    assert made["urls"] == [f"https://port.example.com:443/invite#{invitation}"]
    shown = auth.anyone().post("/v1/invitation", {"invitation": invitation}).body
    assert shown == {"user": "alice", "expires": START + 3600, "cluster": "farm.example", "second_factor": "off"}
    short = auth.anyone().post("/v1/signup", {"invitation": invitation, "password": "short"})
    assert (short.status, short.code) == (400, "bad_password")
    assert attempt(auth, "alice").code == "bad_credentials"
    assert auth.anyone().post("/v1/signup", {"invitation": invitation, "password": "correct horse"}).status == 200
    again = auth.anyone().post("/v1/signup", {"invitation": invitation, "password": "another horse"})
    assert (again.status, again.code) == (401, "bad_token")
    assert attempt(auth, "alice").status == 200
    reset = auth.local().post("/v1/users/alice/reset").body["invitation"]
    auth.clock.now += 3601
    late = auth.anyone().post("/v1/signup", {"invitation": reset, "password": "correct horse"})
    assert late.code == "bad_token"
    stored = auth.do(auth.service.store.read.database.all("SELECT * FROM invitations"))
    assert reset.partition(".")[2] not in str([tuple(row) for row in stored])


def test_what_a_login_gives(auth: AuthServer) -> None:
    auth.role("team", allow={"logins": ["ubuntu"]}, options={"max_session_ttl": "2h", "port_forwarding": False})
    auth.add_user("alice", ["access", "team"], ["pi"])
    answer = attempt(auth, "alice").body
    assert answer["logins"] == ["pi", "ubuntu"]
    assert answer["roles"] == ["access", "team"]
    assert answer["valid_before"] - answer["valid_after"] == 2 * 3600
    cert = certificate(answer)
    assert cert.principals == ("pi", "ubuntu")
    assert (cert.text_extension(EXT_USER), cert.json_extension(EXT_ROLES)) == ("alice", ["access", "team"])
    assert cert.json_extension(EXT_TRAITS) == {"logins": ["pi"]}
    assert "permit-port-forwarding" not in cert.extensions
    shorter = attempt(auth, "alice", ttl=600).body
    assert shorter["valid_before"] - shorter["valid_after"] == 600
    longer = attempt(auth, "alice", ttl=10 * 86400).body
    assert longer["valid_before"] - longer["valid_after"] == 2 * 3600
    event = auth.events("user.login")[-1]
    assert (event["user"], event["serial"]) == ("alice", certificate(longer).serial)


def test_a_user_without_logins_gets_no_certificate(auth: AuthServer) -> None:
    auth.add_user("alice", ["access"], [])
    answer = attempt(auth, "alice")
    assert (answer.status, answer.code) == (403, "denied")
    assert "no login" in answer.message


def test_an_auditor_needs_no_login_and_can_be_nobody(auth: AuthServer) -> None:
    auth.add_user("ada", ["auditor"], [])
    caller, answer = auth.login("ada")
    assert answer["logins"] == []
    (principal,) = certificate(answer).principals
    with pytest.raises(PeerError):
        check_login(principal)
    assert caller.get("/v1/audit").status == 200
    # Who was meant to be somebody and is not yet is told so.
    auth.add_user("bob", ["access", "auditor"], [])
    assert (attempt(auth, "bob").status, attempt(auth, "bob").code) == (403, "denied")


def test_unknown_users_and_wrong_passwords_look_the_same(auth: AuthServer) -> None:
    auth.add_user("alice", ["access"], ["pi"])
    auth.local().post("/v1/users", {"name": "invited", "roles": ["access"], "logins": ["pi"]})
    answers = [attempt(auth, name, "wrong horse") for name in ("alice", "nobody", "invited", "al ice\x1b[31m")]
    assert {(answer.status, json.dumps(answer.body)) for answer in answers} == {
        (401, json.dumps({"error": {"code": "bad_credentials", "message": "user or password is wrong"}}))
    }
    assert [event["user"] for event in auth.events("user.login.failed")] == [
        "alice",
        "nobody",
        "invited",
        "al ice\\x1b[31m",
    ]


def test_who_there_is_does_not_show_in_the_work_done(auth: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: one password is hashed, at the same cost, whoever was asked for."""
    auth.add_user("alice", ["access"], ["pi"])
    auth.add_user("out", ["access"], ["pi"])
    auth.local().post("/v1/users", {"name": "invited", "roles": ["access"], "logins": ["pi"]})
    for _ in range(5):
        attempt(auth, "out", "wrong horse")
    passwords, hashed = auth.service.passwords, []
    verify = passwords._verify

    def counted(stored: str, password: str) -> bool:
        hashed.append(stored.rpartition("$")[0].rpartition("$")[0])
        return verify(stored, password)

    monkeypatch.setattr(passwords, "_verify", counted)
    written: list[str] = []
    run_statement = Database.run

    async def watched(self: Database, sql: str, *values: object) -> int:
        written.append(sql)
        return await run_statement(self, sql, *values)

    monkeypatch.setattr(Database, "run", watched)
    work = {}
    statements = {}
    for name in ("alice", "nobody", "invited", "out", "al ice"):
        hashed.clear()
        written.clear()
        auth.clock.now += 60
        assert attempt(auth, name, "wrong horse").code == "bad_credentials"
        work[name] = list(hashed)
        statements[name] = sorted(written)
    # argon2's encoded hash without salt and sum: the kind, the version, memory, passes.
    (cost,) = work["alice"]
    assert cost.startswith("$argon2id$")
    assert all(done == [cost] for done in work.values()), work
    assert statements["nobody"] == statements["alice"] == statements["invited"] == statements["al ice"]


def test_five_failures_lock_a_user_out_for_a_while(auth: AuthServer) -> None:
    auth.add_user("alice", ["access"], ["pi"])
    auth.add_user("bob", ["access"], ["pi"])
    for _ in range(5):
        assert attempt(auth, "alice", "wrong horse").code == "bad_credentials"
    locked = attempt(auth, "alice")
    assert (locked.status, locked.code, locked.message) == (401, "bad_credentials", "user or password is wrong")
    assert attempt(auth, "bob").status == 200
    assert auth.events("user.locked_out")[0]["user"] == "alice"
    assert auth.local().get("/v1/resources/user/alice").body["resource"]["locked_until"] == START + 900
    auth.clock.now += 901
    assert attempt(auth, "alice").status == 200
    for _ in range(5):
        attempt(auth, "alice", "wrong horse")
    assert attempt(auth, "alice").code == "bad_credentials"
    assert auth.local().post("/v1/users/alice/unlock").status == 200
    assert attempt(auth, "alice").status == 200


def test_four_failures_and_a_success_begin_anew(auth: AuthServer) -> None:
    auth.add_user("alice", ["access"], ["pi"])
    for _ in range(3):
        for _ in range(4):
            attempt(auth, "alice", "wrong horse")
        assert attempt(auth, "alice").status == 200


def test_a_locked_user_is_told_why_after_the_right_password(auth: AuthServer) -> None:
    auth.add_user("alice", ["access"], ["pi"])
    made = auth.local().post("/v1/locks", {"target": {"user": "alice"}, "message": "lost laptop", "ttl": 60}).body
    assert attempt(auth, "alice", "wrong horse").code == "bad_credentials"
    answer = attempt(auth, "alice")
    assert (answer.status, answer.code, answer.message) == (403, "locked", "user alice is locked: lost laptop")
    auth.clock.now += 61
    assert attempt(auth, "alice").status == 200
    assert auth.local().get("/v1/locks").body["locks"] == []
    assert auth.local().call("DELETE", f"/v1/locks/{made['id']}").status == 200


def test_what_is_taken_away_ends_the_certificates(auth: AuthServer) -> None:
    client, _ = auth.user("alice", ["admin", "access"], ["pi"])
    assert auth.local().call("PATCH", "/v1/users/alice", {"logins": ["pi", "root"]}).status == 200
    assert client.get("/v1/users").status == 200
    assert auth.local().call("PATCH", "/v1/users/alice", {"roles": ["access"]}).status == 200
    gone = client.get("/v1/nodes")
    assert (gone.status, gone.code) == (401, "login_required")
    # In the same second a new login is newer than what was withdrawn.
    client, _ = auth.login("alice")
    assert client.get("/v1/nodes").status == 200
    assert auth.service.issuer.policy.refuse_before["alice"] == START + 1
    assert auth.local().post("/v1/users/alice/reset").status == 200
    assert client.get("/v1/nodes").code == "login_required"
    assert auth.service.issuer.policy.refuse_before["alice"] == START + 2
    assert attempt(auth, "alice").code == "bad_credentials"


def test_a_removed_user_stays_removed(auth: AuthServer) -> None:
    client, _ = auth.user("alice", ["access"], ["pi"])
    assert auth.local().call("DELETE", "/v1/users/alice").status == 200
    assert client.get("/v1/nodes").code == "login_required"
    assert auth.service.issuer.policy.refuse_before == {"alice": START + 1}
    # Somebody else of the same name does not bring the old certificates back.
    auth.add_user("alice", ["access"], ["pi"])
    assert client.get("/v1/nodes").code == "login_required"
    assert auth.login("alice")[0].get("/v1/nodes").status == 200


def test_users_as_listed(auth: AuthServer) -> None:
    auth.add_user("alice", ["access"], ["pi"])
    listed = auth.local().get("/v1/users")
    assert listed.body["users"] == [
        {
            "kind": "user",
            "name": "alice",
            "roles": ["access"],
            "logins": ["pi"],
            "traits": {"logins": ["pi"]},
            "created": START,
            "invited": False,
            "locked_until": None,
        }
    ]
    assert "argon2" not in json.dumps(listed.body)
    assert auth.local().post("/v1/users", {"name": "alice", "roles": ["access"]}).code == "exists"
    assert auth.local().post("/v1/users", {"name": "bob", "roles": ["nope"]}).code == "not_found"
    for body in ({"name": "bob"}, {"name": "b@b", "roles": ["access"]}, {"name": "bob", "roles": "access"}):
        assert auth.local().post("/v1/users", body).status == 400
    bad = {"name": "bob", "roles": ["access"], "logins": ["ro ot"]}
    assert auth.local().post("/v1/users", bad).message.startswith("logins:")


def test_signing_for_users_and_hosts(auth: AuthServer) -> None:
    key = Ed25519Key.generate()
    auth.local().post("/v1/users", {"name": "alice", "roles": ["access"], "logins": ["pi"]})
    request = {"user": "alice", "ssh_public_key": public_line(key.public_blob), "ttl": 30 * 86400}
    answer = auth.local().post("/v1/sign", request)
    assert answer.status == 200, answer
    assert answer.body["tls_certificate"] == ""
    assert answer.body["valid_before"] - answer.body["valid_after"] == 30 * 86400
    both = auth.local().post("/v1/sign", {**request, "tls_csr": csr(TLS_KEY)}).body
    assert auth.bearer(both["tls_certificate"], TLS_KEY).get("/v1/nodes").status == 200
    assert auth.local().post("/v1/sign", {**request, "user": "nobody"}).code == "not_found"
    node = auth.join("greenhouse")
    line = public_line(Ed25519Key.generate().public_blob)
    host = auth.local().post("/v1/sign", {"host": "switch", "ssh_public_key": line, "ttl": 86400})
    assert certificate(host.body).principals[:2] == ("switch", "switch.farm.example")
    assert auth.local().post("/v1/sign", {"host": "greenhouse", "ssh_public_key": line}).code == "exists"
    own = {"host": "other", "ssh_public_key": public_line(node.key.public_blob)}
    assert auth.local().post("/v1/sign", own).code == "exists"
    assert {event["by"] for event in auth.events("certificate.issue")} == {"local"}
