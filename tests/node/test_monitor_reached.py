"""Where tunnels stood is remembered, and where certificates are renewed follows from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tinyport.core.errors import AccessDenied, TinyportError, Unavailable
from tinyport.host.identity_file import Kept
from tinyport.host.logging_line import Log
from tinyport.link import enrolment
from tinyport.node import enrol
from tinyport.node.monitor.reached import FILE, MAX_REACHED, Reached

SERVER = ("port.example", 443)
PLACE = Kept("identity.json")
LOG = Log("test", "error", descriptor=-1)


def reached(folder: Path, server: tuple[str, int] = SERVER) -> Reached:
    return Reached(str(folder), server, LOG)


def test_it_outlives_a_reboot_and_the_newest_comes_first(tmp_path: Path) -> None:
    first = reached(tmp_path)
    assert first.servers() == ["port.example:443"]
    first.note([{"server": "old.example:443"}])
    first.note([{"server": "new.example:443"}])
    again = reached(tmp_path)
    assert again.servers() == ["new.example:443", "old.example:443", "port.example:443"]
    assert again.servers("here.example:443")[0] == "here.example:443"
    # Somebody has configured another server: what was true of the one before is forgotten.
    assert reached(tmp_path, ("other.example", 443)).places == []


def test_the_same_again_writes_nothing(tmp_path: Path) -> None:
    one = reached(tmp_path)
    one.note([{"server": "a.example:443"}, {"server": "b.example:443"}])
    before = os.stat(tmp_path / FILE).st_ino
    one.note([{"server": "b.example:443"}])
    one.note([])
    assert os.stat(tmp_path / FILE).st_ino == before


def test_there_are_few_of_them(tmp_path: Path) -> None:
    one = reached(tmp_path)
    for number in range(20):
        one.note([{"server": f"host-{number}.example:443"}])
    assert len(reached(tmp_path).places) == MAX_REACHED


@pytest.mark.parametrize("text", ["", "{", "[]", '{"server": "port.example:443", "reached": 5}'])
def test_a_damaged_file_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert reached(tmp_path).places == []


@pytest.mark.parametrize("said", [None, 5, [5], [{}], [{"server": 7}], [{"server": "no port:x"}]])
def test_link_may_say_anything(tmp_path: Path, said: Any) -> None:
    one = reached(tmp_path)
    one.note(said)
    assert one.servers()[-1] == "port.example:443"


def test_a_certificate_is_renewed_at_the_first_server_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def renew(place: Kept, *, server: str, log: Log, instance: str, device: object) -> dict[str, object]:
        tried.append(server)
        if server != "c:1":
            raise Unavailable("nobody is there")
        return {"name": "x"}

    monkeypatch.setattr(enrolment, "renew_or_return", renew)
    task = {"mode": "renew", "identity": "identity.json", "servers": ["a:1", "b:1", "c:1", "d:1"]}
    assert enrol.perform(task, PLACE, LOG) == {"name": "x"}
    assert tried == ["a:1", "b:1", "c:1"]
    with pytest.raises(Unavailable):
        enrol.perform({**task, "servers": ["a:1"]}, PLACE, LOG)


def test_auths_no_is_not_asked_for_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def renew(place: Kept, *, server: str, log: Log, instance: str, device: object) -> dict[str, object]:
        raise AccessDenied("removed", detail=server, code="removed")

    monkeypatch.setattr(enrolment, "renew_or_return", renew)
    with pytest.raises(TinyportError) as refused:
        enrol.perform({"mode": "renew", "identity": "identity.json", "servers": ["a:1", "b:1"]}, PLACE, LOG)
    assert refused.value.detail == "a:1"
