"""Locks of every kind: live sessions end and say why, new ones are refused, and nobody else notices."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.scenarios.cluster import BIN, LIMIT, Cluster, text, wait_for


@pytest.fixture(scope="module")
def ivy(cluster: Cluster) -> str:
    """Somebody with a role of her own, logged in on two laptops."""
    role = cluster.folder / "gardener.json"
    allow = {"logins": ["{{internal.logins}}"], "node_labels": {"*": ["*"]}}
    role.write_text(json.dumps({"kind": "role", "name": "gardener", "allow": allow}))
    assert cluster.tctl("create", "-f", role).returncode == 0
    name = cluster.add_user("ivy", cluster.login_name, "gardener")
    words = ("login", "--proxy", cluster.ready["proxy"], "--user", name, "--ca-pin", cluster.ready["ca_pin"])
    done = cluster.tsh(*words, home="ivy-2", input="correct horse battery\n")
    assert done.returncode == 0, text(done)
    return name


def session(cluster: Cluster, home: str) -> subprocess.Popen[bytes]:
    """A live one, which has said "here"."""
    command = [str(BIN / "tsh"), "ssh", f"{cluster.login_name}@{cluster.node}", "echo here; exec sleep 1000"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=cluster.env(home)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n", process.communicate()
    return process


def device(cluster: Cluster, home: str) -> str:
    return str(json.loads(cluster.tsh("status", "--format", "json", home=home).stdout)[0]["fingerprint"])


def gets_in(cluster: Cluster, home: str) -> bool:
    return cluster.tsh("ssh", f"{cluster.login_name}@{cluster.node}", "true", home=home).returncode == 0


@pytest.mark.parametrize("kind", ["user", "role", "device"])
def test_a_lock_ends_what_lives_and_keeps_out(cluster: Cluster, ivy: str, kind: str) -> None:
    value = {"user": ivy, "role": "gardener", "device": device(cluster, ivy)}[kind]
    bystander = "carla"
    if not (cluster.folder / bystander).exists():
        cluster.add_user(bystander, cluster.login_name)
    with session(cluster, ivy) as ended, session(cluster, "ivy-2") as second, session(cluster, bystander) as stays:
        try:
            made = cluster.tctl_json("lock", f"--{kind}", value, "--message", "until Monday")
            said = ended.communicate(timeout=LIMIT)[1]
            assert ended.returncode == 255
            assert b"access revoked" in said, said
            assert b"until Monday" in said, said
            refused = cluster.tsh("ssh", f"{cluster.login_name}@{cluster.node}", "true", home=ivy)
            assert b"until Monday" in refused.stderr, text(refused)
            listed = cluster.tsh("ls", home=ivy)
            assert listed.returncode == 4, text(listed)
            if kind == "device":
                # Her other laptop goes on.
                assert second.poll() is None
                assert gets_in(cluster, "ivy-2")
                assert cluster.tsh("ls", home="ivy-2").returncode == 0
            else:
                second.communicate(timeout=LIMIT)
            assert stays.poll() is None
            assert gets_in(cluster, bystander)
        finally:
            assert cluster.tctl("unlock", made["id"]).returncode == 0
            for process in (second, stays):
                process.kill()
    wait_for("her to be let in again", lambda: gets_in(cluster, ivy))


@pytest.mark.parametrize("kind", ["login", "node"])
def test_a_lock_on_what_all_share_ends_all(cluster: Cluster, ivy: str, kind: str) -> None:
    value = {"login": cluster.login_name, "node": cluster.node}[kind]
    with session(cluster, ivy) as one, session(cluster, "ivy-2") as other:
        made = cluster.tctl_json("lock", f"--{kind}", value, "--message", "until Monday")
        try:
            for process in (one, other):
                said = process.communicate(timeout=LIMIT)[1]
                assert process.returncode == 255
                assert f"access revoked: {kind} {value} is locked: until Monday".encode() in said, said
            assert not gets_in(cluster, ivy)
        finally:
            assert cluster.tctl("unlock", made["id"]).returncode == 0
    wait_for("her to be let in again", lambda: gets_in(cluster, ivy))


TAKEN = {
    "a role that loses its logins": ("create", "-f"),
    "other roles": ("users", "update", "NAME", "--roles", "auditor"),
    "another login": ("users", "update", "NAME", "--logins", "nobody"),
    "a reset": ("users", "reset", "NAME"),
    "removal": ("users", "rm", "NAME"),
}


@pytest.mark.parametrize("what", TAKEN)
def test_what_is_taken_back_ends_what_lives(cluster: Cluster, what: str) -> None:
    """And the certificate, which is good for hours yet, opens nothing any more."""
    name = f"temp-{list(TAKEN).index(what)}"
    role = {"kind": "role", "name": name, "allow": {"logins": ["{{internal.logins}}"], "node_labels": {"*": ["*"]}}}
    path = cluster.folder / f"{name}.json"
    path.write_text(json.dumps(role))
    assert cluster.tctl("create", "-f", path).returncode == 0
    cluster.add_user(name, cluster.login_name, name)
    words: list[str] = [name if word == "NAME" else word for word in TAKEN[what]]
    if words[0] == "create":
        path.write_text(json.dumps({**role, "allow": {"node_labels": {"*": ["*"]}}}))
        words.append(str(path))
    with session(cluster, name) as ended:
        done = cluster.tctl(*words)
        assert done.returncode == 0, text(done)
        said = ended.communicate(timeout=LIMIT)[1]
        assert ended.returncode == 255
        assert b"access revoked" in said, said
    assert not gets_in(cluster, name)


def test_who_only_forwards_reads_it_too(cluster: Cluster, ivy: str) -> None:
    words = [str(BIN / "tsh"), "ssh", "-N", "-R", "0:127.0.0.1:9", f"{cluster.login_name}@{cluster.node}"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=cluster.env(ivy)) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"Allocated port")
        made = cluster.tctl_json("lock", "--user", ivy, "--message", "until Monday")
        try:
            said = process.communicate(timeout=LIMIT)[1]
        finally:
            assert cluster.tctl("unlock", made["id"]).returncode == 0
    assert b"access revoked: user ivy is locked: until Monday" in said


def test_a_lock_on_what_is_no_device(cluster: Cluster) -> None:
    for wrong in ("laptop", "SHA256:short", "SHA256:" + "?" * 43, "MD5:" + "a" * 43):
        done = cluster.tctl("lock", "--device", wrong)
        assert done.returncode == 1, text(done)
        assert b"is not a key's fingerprint" in done.stderr, text(done)
