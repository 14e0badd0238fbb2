"""The same words against a real auth: answers are as tctl expects them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.admin.conftest import Run
from tinyport.core.certificate import Certificate, parse_public_line
from tinyport.core.names import is_pin
from tinyport.core.signatures import Ed25519Key
from tinyport.host import user_identity


@pytest.fixture
def run(real_auth: Path, tctl: Callable[[Path], Run]) -> Run:
    return tctl(real_auth)


def test_status(run: Run) -> None:
    found = run("status", "--format", "json").json
    assert found["cluster"] == "farm.example"
    assert is_pin(found["ca_pins"][0])
    assert "nodes:    0 online, 0 offline" in run("status").out


def test_a_users_life(run: Run) -> None:
    made = run("users", "add", "alice", "--logins", "pi", "--roles", "access", "--format", "json")
    assert made.status == 0, made.err
    assert made.json["line"].startswith("tsh signup ")
    again = run("users", "add", "alice", "--logins", "pi", "--roles", "access")
    assert (again.status, "there is" in again.err) == (1, True)
    assert run("users", "update", "alice", "--logins", "pi,root").status == 0
    listed = run("users", "ls").out.splitlines()
    assert listed[-1].split()[:4] == ["alice", "access", "pi,root", "invited"]
    assert "signup" in run("users", "reset", "alice", "--ttl", "2h").out
    assert run("users", "unlock", "alice").out == "user alice was unlocked\n"
    assert run("users", "update", "alice").status == 2
    assert run("users", "add", "bob", "--logins", "pi", "--roles", "no-such-role").status == 5
    assert run("users", "rm", "alice").out == "user alice was removed\n"
    assert run("users", "rm", "alice").status == 5


def test_a_tokens_life(run: Run) -> None:
    made = run("tokens", "add", "--type", "proxy", "--uses", "3", "--ttl", "7d", "--format", "json").json
    assert made["token"] in made["line"]
    listed = run("tokens", "ls").out.splitlines()
    assert listed[-1].split()[:5] == [made["id"], "proxy", "0", "of", "3"]
    assert made["token"].partition(".")[2] not in run("get", "token").out
    terms = ("--cidr", "10.0.0.0/8,192.0.2.1/32", "--pending", "--name-template", "pi-{uuid8}")
    assert run("tokens", "add", *terms).status == 0
    assert (
        run("tokens", "ls").out.splitlines()[-1].endswith("  pending; named pi-{uuid8}; from 10.0.0.0/8,192.0.2.1/32")
    )
    assert "from 1s to 366d" in run("tokens", "add", "--ttl", "2000d").err
    more = [run("tokens", "add", "--format", "json").json["id"] for _ in range(2)]
    assert run("tokens", "rm", *more).out.count(" was revoked\n") == 2
    assert run("tokens", "rm", made["id"]).status == 0
    assert run("tokens", "rm", made["id"]).status == 5
    assert run("nodes", "add", "--labels", "a=b").out.startswith(" printf '%s\\n' ")


def test_roles_are_edited_as_files(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "ops.toml"
    path.write_text('kind = "role"\nname = "ops"\n[allow]\nlogins = ["pi"]\n[allow.node_labels]\nsite = ["berlin"]\n')
    assert run("create", str(path)).status == 0
    refused = run("create", str(path))
    assert refused.status == 1
    shown = run("get", "role/ops", "--format", "json").json
    assert shown["allow"]["node_labels"] == {"site": ["berlin"]}
    shown["allow"]["logins"].append("root")
    path.write_text(json.dumps(shown))
    assert run("create", "-f", str(path)).status == 0
    assert run("get", "role/ops", "--format", "json").json["allow"]["logins"] == ["pi", "root"]
    names = [role["name"] for role in run("get", "role", "--format", "json").json]
    assert {"admin", "access", "auditor", "ops"} <= set(names)
    path.write_text(json.dumps(run("get", "role", "--format", "json").json))
    assert run("create", "-f", str(path)).out.count("was stored") == len(names)
    # As people read it, and with a comment of their own.
    before = run("get", "role", "--format", "json").json
    path.write_text("# all of them\n" + run("get", "role").out)
    assert path.read_text().count("\n---\n") == len(names) - 1
    assert run("create", "-f", str(path)).out.count("was stored") == len(names)
    assert run("get", "role", "--format", "json").json == before
    assert run("rm", "role/ops").status == 0
    assert run("rm", "role/ops").status == 5
    path.write_text('kind = "role"\nname = "bad"\n[alow]\n')
    assert "alow" in run("create", str(path)).err


def test_the_clusters_configuration(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('kind = "cluster_config"\nsession_recording = "node"\n')
    assert run("create", "-f", str(path)).status == 0
    (found,) = run("get", "cluster_config", "--format", "json").json
    assert found["session_recording"] == "node"


def test_locks_and_explain(run: Run) -> None:
    lock = run("lock", "--role", "auditor", "--message", "closed", "--format", "json").json
    assert lock["id"] in run("lock").out
    assert run("unlock", lock["id"]).status == 0
    assert run("unlock", lock["id"]).status == 5
    assert run("explain", "nobody", "pi@nowhere").status == 5


def test_what_was_done_is_in_the_audit_log(run: Run) -> None:
    lock = run("lock", "--user", "mallory", "--ttl", "1h", "--format", "json").json
    by_code = run("audit", "--type", "TLK00I", "--since", "1h", "--format", "json").json["events"]
    assert by_code[-1]["lock"] == lock["id"]
    line = run("audit", "--type", "lock.create").out.splitlines()[-1]
    assert "TLK00I  lock.create" in line
    assert f"lock={lock['id']}" in line
    assert run("sessions", "ls").status == 0


def test_authorities(run: Run) -> None:
    for kind in ("user", "host", "policy"):
        assert parse_public_line(run("auth", "export", "--type", kind).out.strip())
    assert run("auth", "export", "--type", "tls").out.startswith("-----BEGIN CERTIFICATE-----\n")
    pin = run("auth", "export", "--type", "tls", "--fingerprint").out.strip()
    assert pin == run("status", "--format", "json").json["ca_pins"][0]
    assert run("auth", "export", "--type", "user", "--fingerprint").out.startswith("SHA256:")


def test_signing(run: Run, tmp_path: Path) -> None:
    run("users", "add", "carol", "--logins", "pi", "--roles", "access")
    out = tmp_path / "carol"
    # No proxy has joined this cluster, and an identity file names one.
    refused = run("auth", "sign", "--user", "carol", "-o", str(out))
    assert (refused.status, "no proxy has joined" in refused.err) == (1, True)
    assert run("auth", "sign", "--user", "carol", "-o", str(out), "--format", "openssh", "--ttl", "1h").status == 0
    key = Ed25519Key.from_openssh(out.read_bytes())
    certificate = Certificate.decode(parse_public_line((tmp_path / "carol-cert.pub").read_text()))
    assert certificate.public_key == key.public_blob == parse_public_line((tmp_path / "carol.pub").read_text())
    assert certificate.principals == ("pi",)
    assert certificate.valid_before - certificate.valid_after <= 3700
    assert out.stat().st_mode & 0o777 == 0o600
    assert run("auth", "sign", "--host", "switch", "-o", str(tmp_path / "switch")).status == 0
    host = Certificate.decode(parse_public_line((tmp_path / "switch-cert.pub").read_text()))
    assert "switch.farm.example" in host.principals
    assert run("auth", "sign", "--user", "nobody", "--format", "openssh", "-o", str(out)).status == 5


def test_signing_a_file_for_a_proxy_that_is_named(run: Run, real_auth: Path, tmp_path: Path) -> None:
    from tinyport.admin.tctl_auth import sign_user
    from tinyport.link.api import AuthClient

    run("users", "add", "dora", "--logins", "pi", "--roles", "access")
    with AuthClient(real_auth / "auth" / "api.sock") as client:
        identity = sign_user(client, "dora", 3600, "port.example.com:443")
    user_identity.save(tmp_path / "dora", identity)
    assert user_identity.load(tmp_path / "dora").logins == ("pi",)
