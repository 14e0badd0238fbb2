"""The CAs' keys encrypted at rest: nothing of them on the disk, in backups or after rotations."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tinyport.auth import sealing
from tinyport.auth.restore import restore
from tinyport.auth.sealing import new_seal, open_seal
from tinyport.auth.store_authorities import AuthorityRow
from tinyport.auth.store_sealing import decrypt_keys, encrypt_keys
from tinyport.core.errors import OperatorError

from .conftest import START, AuthServer
from .test_rotation import FORWARD, step

PASSPHRASE = "correct horse battery staple"
OTHER = "another one that is long enough"
ROW = AuthorityRow("user", "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n", "ssh-ed25519 AAAA user-ca@farm")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_N", 2)


def secrets_of(auth: AuthServer) -> list[bytes]:
    """A line of each private key that no other file has."""
    found = []
    for row in auth.service.authority.ring.rows.values():
        lines = row.private.splitlines()
        found.append(lines[min(3, len(lines) - 2)].encode())
    return found


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((folder / "auth").iterdir()) if path.is_file())


def test_a_sealed_row_comes_back_and_is_bound_to_its_place() -> None:
    seal = new_seal()
    closed = seal.close(ROW)
    assert "secret" not in closed.private
    assert closed.private != seal.close(ROW).private
    assert seal.open(closed) == ROW
    # What is in clear stays as it is.
    assert seal.open(ROW) == ROW
    # In a rotation the new key becomes the active one.
    assert seal.open(replace(closed, state="new")).private == ROW.private
    for moved in (replace(closed, type="host"), replace(closed, public="ssh-ed25519 BBBB")):
        with pytest.raises(OperatorError, match="damaged"):
            seal.open(moved)
    with pytest.raises(OperatorError, match="damaged"):
        new_seal().open(closed)
    for private in (closed.private[:-8], closed.private + "?", "tinyport-sealed-v1 "):
        with pytest.raises(OperatorError, match="damaged"):
            seal.open(replace(closed, private=private))


def test_the_passphrase_opens_the_seal_and_nothing_else_does() -> None:
    seal = new_seal()
    wrapped = seal.wrapped(PASSPHRASE)
    assert open_seal(wrapped, PASSPHRASE).open(seal.close(ROW)) == ROW
    with pytest.raises(OperatorError, match="not the one"):
        open_seal(wrapped, OTHER)
    with pytest.raises(OperatorError, match="no passphrase") as missing:
        open_seal(wrapped, None)
    assert "LoadCredential" in missing.value.hint
    held = json.loads(wrapped)
    for changes in ({"version": 2}, {"n": 2**30}, {"kdf": "md5"}, {"salt": 5}, {"p": 1000}):
        with pytest.raises(OperatorError, match="damaged"):
            open_seal(json.dumps({**held, **changes}), PASSPHRASE)
    for text in ("", "[]", "null", "{}"):
        with pytest.raises(OperatorError, match="damaged"):
            open_seal(text, PASSPHRASE)
    for short in ("", "x" * (sealing.LEAST_PASSPHRASE - 1), "x" * (sealing.MOST_PASSPHRASE + 1)):
        with pytest.raises(OperatorError, match="characters"):
            seal.wrapped(short)


def test_a_new_cluster_with_a_passphrase_never_writes_a_key_in_clear(
    start: Callable[..., AuthServer], tmp_path: Path
) -> None:
    auth = start(key_passphrase=PASSPHRASE)
    held = secrets_of(auth)
    for phase in FORWARD[:3]:
        step(auth, phase)
        held += secrets_of(auth)
    assert not any(secret in on_disk(tmp_path) for secret in held)
    step(auth, "standby")
    auth.local().post("/v1/rotation/compromised", {"cluster": auth.service.cluster})
    held += secrets_of(auth)
    pins = auth.service.authority.ca_pins
    auth.stop()
    assert len(set(held)) > 8
    assert not any(secret in on_disk(tmp_path) for secret in held)
    for wrong in (None, OTHER):
        with pytest.raises(OperatorError, match="passphrase"):
            start(key_passphrase=wrong)
    assert start(key_passphrase=PASSPHRASE).service.authority.ca_pins == pins


def test_an_old_store_is_encrypted_changed_and_decrypted(start: Callable[..., AuthServer], tmp_path: Path) -> None:
    auth = start()
    node = auth.join("greenhouse")
    held, pins = secrets_of(auth), auth.service.authority.ca_pins
    with pytest.raises(OperatorError, match="another auth server is using"):
        encrypt_keys(tmp_path, PASSPHRASE, None)
    auth.stop()
    assert all(secret in on_disk(tmp_path) for secret in held)
    assert encrypt_keys(tmp_path, PASSPHRASE, None) == 4
    assert not any(secret in on_disk(tmp_path) for secret in held)

    with pytest.raises(OperatorError, match="encrypted already"):
        encrypt_keys(tmp_path, OTHER, None)
    with pytest.raises(OperatorError, match="not the one"):
        encrypt_keys(tmp_path, OTHER, OTHER)
    with closing(sqlite3.connect(tmp_path / "auth" / "auth.db")) as database:
        of_before = open_seal(database.execute("SELECT value FROM meta WHERE name = 'seal'").fetchone()[0], PASSPHRASE)
    assert encrypt_keys(tmp_path, OTHER, PASSPHRASE) == 4
    with closing(sqlite3.connect(tmp_path / "auth" / "auth.db")) as database:
        row = AuthorityRow(*database.execute("SELECT type, private, public FROM authorities LIMIT 1").fetchone())
    # Another passphrase is another data key, too.
    with pytest.raises(OperatorError, match="damaged"):
        of_before.open(row)
    with pytest.raises(OperatorError, match="not the one"):
        start(key_passphrase=PASSPHRASE)
    again = start(key_passphrase=OTHER)
    assert again.service.authority.ca_pins == pins
    again.tls_cas = again.service.authority.tls_cas
    assert again.bearer(node.answer["tls_certificate"], node.tls_key).get("/v1/policy").status == 200
    again.stop()

    with pytest.raises(OperatorError, match="not the one"):
        decrypt_keys(tmp_path, PASSPHRASE)
    assert decrypt_keys(tmp_path, OTHER) == 4
    with pytest.raises(OperatorError, match="not encrypted"):
        decrypt_keys(tmp_path, OTHER)
    assert start().service.authority.ca_pins == pins


def test_a_backup_keeps_them_encrypted(start: Callable[..., AuthServer], tmp_path: Path) -> None:
    auth = start(key_passphrase=PASSPHRASE)
    held, pins = secrets_of(auth), auth.service.authority.ca_pins
    connection = auth.local().connect()
    connection.request("POST", "/v1/backup", b"{}")
    data = connection.getresponse().read()
    connection.close()
    auth.stop()
    assert data.startswith(b"SQLite format 3")
    assert not any(secret in data for secret in held)
    backup = tmp_path / "farm.db"
    backup.write_bytes(data)
    restore(tmp_path, backup, START + 60)
    assert start(key_passphrase=PASSPHRASE).service.authority.ca_pins == pins


def test_what_cannot_be_done_changes_nothing(start: Callable[..., AuthServer], tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no store"):
        encrypt_keys(tmp_path, PASSPHRASE, None)
    start().stop()
    with closing(sqlite3.connect(tmp_path / "auth" / "auth.db")) as database, database:
        # A row that somebody damaged on the way: nothing of the others is rewritten.
        database.execute("UPDATE authorities SET private = 'tinyport-sealed-v1 AAAA' WHERE type = 'tls'")
    before = on_disk(tmp_path)
    with pytest.raises(OperatorError, match="damaged"):
        encrypt_keys(tmp_path, PASSPHRASE, None)
    with closing(sqlite3.connect(tmp_path / "auth" / "auth.db")) as database:
        assert database.execute("SELECT count(*) FROM meta WHERE name = 'seal'").fetchone() == (0,)
    assert len(on_disk(tmp_path)) >= len(before) - 64 * 1024
