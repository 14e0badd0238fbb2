"""The audit spool: nothing accepted is lost before it is sent, nothing fills the disk, and losses are told."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyport.node.link import spool as spool_module
from tinyport.node.link.spool import MAX_BATCH_EVENTS, MAX_EVENT, MAX_IN_MEMORY, Spool


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def make(folder: int) -> Spool:
    return Spool(folder, Clock(), lambda: str(uuid.uuid4()))


def drain(spool: Spool) -> list[Any]:
    found: list[Any] = []
    while (batch := spool.next_batch()) is not None:
        found += batch[1]
        spool.forget(batch[0])
    return found


def event(number: int, **more: object) -> dict[str, object]:
    return {"event": "exec", "code": "T3002I", "time": float(number), "number": number, **more}


def numbers(events: list[Any]) -> list[int]:
    return [found["number"] for found in events if "number" in found]


def test_events_come_out_in_order_and_a_batch_keeps_its_id(folder: int) -> None:
    spool = make(folder)
    spool.add(event(1))
    spool.add(event(2))
    first = spool.next_batch()
    assert first is not None
    assert numbers(first[1]) == [1, 2]
    # What comes while it is on its way goes into another batch.
    spool.add(event(3))
    assert spool.next_batch() == first
    spool.forget(first[0])
    assert numbers(drain(spool)) == [3]
    assert not spool


def test_events_survive_a_restart(folder: int) -> None:
    spool = make(folder)
    spool.add(event(1))
    before = spool.next_batch()
    assert make(folder).next_batch() == before
    again = make(folder)
    again.add(event(2))
    assert numbers(drain(again)) == [1, 2]
    assert os.listdir(folder) == []


def test_a_batch_is_no_larger_than_auth_takes(folder: int) -> None:
    spool = make(folder)
    for number in range(MAX_BATCH_EVENTS + 1):
        spool.add(event(number))
    batch = spool.next_batch()
    assert batch is not None
    assert len(batch[1]) == MAX_BATCH_EVENTS
    assert len(numbers(drain(spool))) == MAX_BATCH_EVENTS + 1


def test_a_full_spool_loses_its_oldest_and_says_so(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MAX_BYTES", 20_000)
    monkeypatch.setattr(spool_module, "MAX_BATCH_BYTES", 5_000)
    spool = make(folder)
    for number in range(100):
        spool.add(event(number, text="x" * 400))
    on_disk = sum(os.stat(name, dir_fd=folder).st_size for name in os.listdir(folder))
    assert on_disk <= 20_000 + 1_000
    # A restart does not forget.
    found = drain(make(folder))
    kept = numbers(found)
    assert kept == list(range(100 - len(kept), 100))
    (lost,) = (one for one in found if one["event"] == "events.lost")
    assert lost["count"] + len(kept) == 100
    assert lost["bytes"] > 400 * lost["count"]
    assert os.listdir(folder) == []


def test_a_monstrous_event_is_not_kept_but_counted(folder: int) -> None:
    spool = make(folder)
    spool.add(event(1, text="x" * MAX_EVENT))
    spool.add(event(2))
    found = drain(spool)
    assert numbers(found) == [2]
    assert [one["count"] for one in found if one["event"] == "events.lost"] == [1]


def test_a_disk_that_takes_nothing_stops_nobody(folder: int) -> None:
    spool = make(folder)

    def fail(line: bytes) -> None:
        raise OSError(30, "read-only")

    spool._append = fail  # type: ignore[method-assign]
    for number in range(MAX_IN_MEMORY + 5):
        spool.add(event(number))
    lost = spool.next_batch()
    assert lost is not None
    assert lost[1][0]["count"] == 5
    # One more is lost while the loss is being told; it is told afterwards.
    spool.add(event(999))
    spool.forget(lost[0])
    assert [one["count"] for one in drain(spool) if one["event"] == "events.lost"] == [1]
    assert not spool


def test_what_is_not_a_batch_is_cleared_away_and_damage_is_skipped(folder: int, tmp_path: Path) -> None:
    name = "000000000001-0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b.events"
    (tmp_path / name).write_bytes(b'{"event": "exec", "number": 1}\n{"event": "ex')
    (tmp_path / name.replace("0001", "0002")).write_bytes(b"\xff\x00garbage")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "link").symlink_to("/etc/passwd")
    spool = make(folder)
    assert numbers(drain(spool)) == [1]
    assert list(tmp_path.iterdir()) == []


def test_an_event_is_one_line(folder: int, tmp_path: Path) -> None:
    make(folder).add(event(1, text="a\nb"))
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["text"] == "a\nb"
    assert path.read_bytes().count(b"\n") == 1
