"""A break-glass certificate at the keeper: let in once, remembered, told; and what a broken disk makes of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node import proofs
from tests.node.session_harness import CLUSTER, LOGIN, UUID
from tests.node.test_keeper_table import OPEN, Desk
from tinyport.core.break_glass import USER, issue_break_glass
from tinyport.core.errors import AccessDenied
from tinyport.core.signatures import Ed25519Key
from tinyport.node.keeper.used_once import MAX_FILE, UsedOnce

NOW = 1_700_000_000


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    for client in desk.clients:
        client.close()


def certificate(desk: Desk, key: Ed25519Key, serial: int = 99, **changes: object) -> bytes:
    values: dict[str, object] = {
        "public_key": key.public_blob,
        "serial": serial,
        "nonce": os.urandom(32),
        "cluster": CLUSTER,
        "node_uuid": UUID,
        "node_name": "shed",
        "logins": [LOGIN],
        "now": NOW,
        "ttl": 100 * 366 * 86400,
        **changes,
    }
    return issue_break_glass(desk.authority.user_ca, **values)  # type: ignore[arg-type]


def enter(desk: Desk, blob: bytes, key: Ed25519Key) -> str:
    """ "in", or the refusal."""
    connection = desk.connect()
    try:
        hashed = desk.kex(connection)
        connection.handle("prove", proofs.proof(hashed, proofs.request(blob), key))
        connection.handle("open", OPEN)
        connection.judge_again()
        return "in"
    except AccessDenied as error:
        return error.message
    finally:
        connection.close()


def test_once_and_told(desk: Desk, tmp_path: Path) -> None:
    key = Ed25519Key.generate()
    blob = certificate(desk, key)
    # To be asked whether it would do is no use of it.
    asked = desk.connect()
    desk.kex(asked)
    asked.handle("query", {"user": LOGIN, "certificate": proofs.b64(blob)})
    asked.close()
    assert enter(desk, blob, key) == "in"
    grant = desk.starter.started[0][0]
    assert (grant.user, grant.login) == (USER, LOGIN)
    used = [event for event in desk.events if event["event"] == "break_glass.use"]
    assert [(event["certificate_serial"], event["login"], event["code"]) for event in used] == [(99, LOGIN, "TC004W")]
    assert "used already" in enter(desk, blob, key)
    assert enter(desk, certificate(desk, key, serial=100), key) == "in"
    assert (tmp_path / "break-glass.used").read_text() == "99\n100\n"
    assert (tmp_path / "break-glass.used").stat().st_mode & 0o777 == 0o600
    denied = [event for event in desk.events if event["event"] == "access.denied"]
    assert [event["code_name"] for event in denied] == ["used"]


def test_a_wrong_proof_uses_nothing(desk: Desk) -> None:
    key = Ed25519Key.generate()
    blob = certificate(desk, key)
    assert enter(desk, blob, Ed25519Key.generate()) == "access denied"
    assert enter(desk, blob, key) == "in"


def test_a_lock_ends_who_is_in(desk: Desk) -> None:
    key = Ed25519Key.generate()
    connection = desk.connect()
    hashed = desk.kex(connection)
    connection.handle("prove", proofs.proof(hashed, proofs.request(certificate(desk, key)), key))
    lock = {"id": "1", "target": {"user": USER}, "expires": None, "message": ""}
    desk.documents.install(desk.authority.policy(locks=[lock]))
    with pytest.raises(AccessDenied, match="locked"):
        connection.judge_again()
    connection.close()


def test_what_cannot_be_noted_lets_nobody_in(desk: Desk, tmp_path: Path) -> None:
    key = Ed25519Key.generate()
    blob = certificate(desk, key)
    (tmp_path / "break-glass.used").mkdir()
    assert "cannot note" in enter(desk, blob, key)
    (tmp_path / "break-glass.used").rmdir()
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "break-glass.used").symlink_to(tmp_path / "elsewhere")
    assert "cannot note" in enter(desk, blob, key)
    (tmp_path / "break-glass.used").unlink()
    assert enter(desk, blob, key) == "in"


def test_half_a_line_of_a_power_cut_is_nobodys_use(tmp_path: Path) -> None:
    path = tmp_path / "used"
    path.write_text("123\n45")
    used = UsedOnce(str(path))
    used.use(456)
    assert path.read_text() == "123\n45\n456\n"
    for serial in (123, 45, 456):
        with pytest.raises(AccessDenied):
            used.use(serial)
    path.write_bytes(b"9" * (MAX_FILE + 1))
    with pytest.raises(AccessDenied, match="cannot note"):
        used.use(7)


def test_of_many_at_once_one_gets_in(tmp_path: Path) -> None:
    won: list[int] = []
    barrier = threading.Barrier(8)

    def use(number: int) -> None:
        mine = UsedOnce(str(tmp_path / "used"))
        barrier.wait(30)
        try:
            mine.use(1)
        except AccessDenied:
            return
        won.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_a_clock_of_any_year_keeps_nobody_out(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    key = Ed25519Key.generate()
    # Valid until a year after NOW, on a board whose clock says 2100, and that last heard from auth in NOW.
    desk.documents.policy = None
    desk.authority.serial = 1
    (Path(desk.documents._paths["policy"])).unlink()
    desk.documents._bodies.clear()
    desk.documents._written_floor = 0.0
    desk.documents.install(desk.authority.policy(issued_at=NOW), write=False)
    monkeypatch.setattr(time, "time", lambda: 4_102_444_800.0)
    assert enter(desk, certificate(desk, key, ttl=366 * 86400), key) == "in"
    desk.documents._written_floor = NOW + 2 * 366 * 86400
    assert "expired" in enter(desk, certificate(desk, key, serial=5, ttl=366 * 86400), key)
