"""Backups taken under load, restored: nothing acknowledged before them is missing, and the fleet follows."""

from __future__ import annotations

import hashlib
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tinyport.auth.restore import restore
from tinyport.core.certificate import parse_public_line
from tinyport.core.errors import OperatorError
from tinyport.core.policy import Policy, newer, open_document, version
from tinyport.core.restored_trust import restored_cas

from .conftest import CLUSTER, START, AuthServer


def take(auth: AuthServer, target: Path) -> Path:
    connection = auth.local().connect()
    try:
        connection.request("POST", "/v1/backup", b"{}")
        response = connection.getresponse()
        data = response.read()
        assert response.status == 200, data
        assert int(response.headers["Content-Length"]) == len(data)
        assert response.headers["Tinyport-Sha256"] == hashlib.sha256(data).hexdigest()
    finally:
        connection.close()
    target.write_bytes(data)
    return target


def policy_of(auth: AuthServer) -> dict[str, object]:
    key = parse_public_line(auth.local().get("/v1/ca", type="policy").body["keys"][0]["line"])
    return open_document(auth.service.issuer.signed, key, "policy", CLUSTER)


def test_taken_under_load(auth: AuthServer, tmp_path: Path) -> None:
    done, stop = [], threading.Event()

    def load() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            assert (
                auth.local().post("/v1/users", {"name": f"u{number}", "roles": ["access"], "logins": ["pi"]}).status
                == 200
            )
            done.append(f"u{number}")

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for number in range(5):
            while len(done) < 10 * (number + 1):
                stop.wait(0.001)
            before = set(done)
            copy = take(auth, tmp_path / f"copy-{number}.db")
            with sqlite3.connect(copy) as database:
                held = {row[0] for row in database.execute("SELECT name FROM users")}
                # Each user and the event that tells of them: a moment, not a smear.
                told = {row[0] for row in database.execute("SELECT user FROM audit WHERE event = 'user.create'")}
                assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            database.close()
            assert before <= held
            assert held == told
    finally:
        stop.set()
        thread.join()
    assert [path.name for path in (tmp_path / "auth").glob("*.tmp")] == []
    assert len(auth.events("auth.backup")) == 5


def test_restored_and_followed(start: Callable[..., AuthServer], tmp_path: Path) -> None:
    auth = start()
    auth.add_user("alice", ["access"], ["pi"])
    node = auth.join("greenhouse")
    copy = take(auth, tmp_path / "copy.db")
    # What the backup does not know: the fleet has seen newer documents than those in it.
    for number in range(3):
        auth.local().post("/v1/locks", {"target": {"user": f"x{number}"}})
        auth.local().call("PATCH", "/v1/nodes/greenhouse", {"labels": {"n": str(number)}})
    late = policy_of(auth)
    assert "trust" not in auth.anyone().get("/v1/hello").body
    late_node = auth.do(auth.service.store.read.nodes.get(node.uuid))
    auth.stop()
    assert late_node is not None

    restored = restore(tmp_path, copy, START + 1000)
    assert (restored.cluster, restored.users, restored.nodes) == (CLUSTER, 1, 1)
    assert restored.replaced is not None
    assert stat.S_IMODE((tmp_path / "auth" / "auth.db").stat().st_mode) == 0o600
    again = start()
    body = policy_of(again)
    assert newer(body, late)
    assert Policy.parse(body).locks == ()
    assert (body["epoch"], body["serial"]) == (restored.epoch, 1)
    # By this, machines come back that were led to another TLS CA since.
    hello = again.anyone().get("/v1/hello").body
    key = parse_public_line(again.local().get("/v1/ca", type="policy").body["keys"][0]["line"])
    assert restored_cas(hello["trust"], key, CLUSTER, version(late)) == hello["tls_cas"] == body["tls_cas"]
    assert restored_cas(hello["trust"], key, CLUSTER, (restored.epoch, 1)) is None
    again.local().post("/v1/rotation", {"types": ["tls"], "phase": "init"})
    hello = again.anyone().get("/v1/hello").body
    assert restored_cas(hello["trust"], key, CLUSTER, (restored.epoch, 1)) == hello["tls_cas"]
    assert len(hello["tls_cas"]) == 2
    signed = again.do(again.service.store.read.nodes.document(node.uuid))
    document = open_document(signed, key, "node", CLUSTER)
    assert newer(document, {"epoch": 1, "serial": late_node.document_serial})
    assert document["labels"] == {}
    # People and machines go on with what they have.
    assert again.login("alice")[1]["user"] == "alice"
    assert again.bearer(node.answer["tls_certificate"], node.tls_key).get("/v1/policy").status == 200
    assert [event["at"] for event in again.events("auth.restored")] == [START + 1000]
    again.stop()
    # Told once, and the epoch stays.
    third = start()
    assert len(third.events("auth.restored")) == 1
    assert policy_of(third)["epoch"] == restored.epoch


def test_restored_onto_an_empty_disk_twice(start: Callable[..., AuthServer], tmp_path: Path) -> None:
    auth = start()
    copy = take(auth, tmp_path / "copy.db")
    auth.stop()
    first = restore(tmp_path / "new", copy, START + 10)
    # That disk is lost, too, and nobody remembers: the epoch is above the first one's all the same.
    second = restore(tmp_path / "newer", copy, START + 20)
    assert first.replaced is None
    assert second.epoch > first.epoch > 1


def test_what_is_not_restored(start: Callable[..., AuthServer], tmp_path: Path) -> None:
    auth = start()
    copy = take(auth, tmp_path / "copy.db")
    with pytest.raises(OperatorError, match="another auth server is using"):
        restore(tmp_path, copy, START)
    auth.stop()
    data = copy.read_bytes()
    cut = tmp_path / "cut.db"
    cut.write_bytes(data[: len(data) // 2])
    bent = tmp_path / "bent.db"
    bent.write_bytes(data[:8192] + bytes(4096) + data[12288:])
    newer_one = tmp_path / "newer.db"
    newer_one.write_bytes(data)
    with sqlite3.connect(newer_one) as database:
        database.execute("INSERT INTO migrations VALUES ('9999-from-tomorrow', 0)")
    database.close()
    text = tmp_path / "text.db"
    text.write_text("not a database")
    before = (tmp_path / "auth" / "auth.db").read_bytes()
    for path, words in (
        (cut, "damaged|not a backup"),
        (bent, "damaged|not a backup"),
        (newer_one, "9999-from-tomorrow"),
        (text, "not a backup"),
        (tmp_path / "absent.db", "cannot be read"),
    ):
        with pytest.raises(OperatorError, match=words):
            restore(tmp_path, path, START)
    assert (tmp_path / "auth" / "auth.db").read_bytes() == before
    assert {path.name for path in (tmp_path / "auth").iterdir()} <= {"auth.db", "auth.db-wal", "auth.db-shm", "lock"}


def test_another_clusters_backup(tmp_path: Path, start: Callable[..., AuthServer]) -> None:
    auth = start()
    copy = take(auth, tmp_path / "copy.db")
    auth.stop()
    with sqlite3.connect(copy) as database:
        database.execute("UPDATE meta SET value = 'other.example' WHERE name = 'cluster'")
    database.close()
    with pytest.raises(OperatorError, match=r"is of cluster other\.example"):
        restore(tmp_path, copy, START)
