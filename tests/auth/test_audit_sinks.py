"""The audit log's copies: in order, nothing missing, held up by trouble and going on after it."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinyport.auth import audit_sinks
from tinyport.auth.audit_sinks import FileSink, syslog_line
from tinyport.auth.settings import AuditSinks

from .conftest import AuthServer


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(check: Callable[[], Any]) -> Any:
    end = time.monotonic() + 20
    while not (found := check()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def lock(auth: AuthServer, name: str) -> None:
    assert auth.local().post("/v1/locks", {"target": {"user": name}}).status == 200


def test_a_file_goes_on_where_it_was(start: Callable[..., AuthServer], tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    first = start(audit_sinks=AuditSinks(file=path))
    until(lambda: (tmp_path / "auth" / "audit-file.position").exists())
    lock(first, "a")
    until(lambda: read(path))
    assert path.stat().st_mode & 0o777 == 0o600
    first.stop()
    between = start()
    lock(between, "b")
    between.stop()
    again = start(audit_sinks=AuditSinks(file=path))
    lock(again, "c")
    until(lambda: len(read(path)) == 3)
    events = again.local().get("/v1/audit", after=0, limit=1000).body["events"]
    assert read(path) == [event for event in events if event["id"] >= read(path)[0]["id"]]
    # logrotate moves it away; what comes next is in a new one.
    path.rename(tmp_path / "audit.jsonl.1")
    lock(again, "d")
    assert until(lambda: read(path))[0]["target"] == {"user": "d"}


def test_held_up_and_going_on(start: Callable[..., AuthServer], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(audit_sinks, "_RETRY", 0.02)
    folder = tmp_path / "absent"
    auth = start(audit_sinks=AuditSinks(file=folder / "audit.jsonl"))
    until(lambda: (tmp_path / "auth" / "audit-file.position").exists())
    for name in "abc":
        lock(auth, name)
    folder.mkdir()
    until(lambda: len(read(folder / "audit.jsonl")) == 3)
    assert [event["target"]["user"] for event in read(folder / "audit.jsonl")] == ["a", "b", "c"]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    sink = FileSink(path)
    sink.write([{"event": "a"}])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            sink.write([{"event": "b" * 100}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    sink.write([{"event": "c"}])
    assert [event["event"] for event in read(path)] == ["a", "c"]


def test_syslog(start: Callable[..., AuthServer], tmp_path: Path) -> None:
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(path))
        log.settimeout(20)
        auth = start(audit_sinks=AuditSinks(syslog=True, syslog_socket=str(path)))
        until(lambda: (tmp_path / "auth" / "audit-syslog.position").exists())
        lock(auth, "a")
        head, _, body = log.recv(65536).partition(b": ")
        assert head == b"<86>tinyport-audit"
        assert json.loads(body)["target"] == {"user": "a"}


def test_a_line_fits_a_datagram() -> None:
    line = syslog_line({"event": "exec", "code": "T3002E", "id": 7, "command": "x" * 10_000, "user": "a\nb"})
    assert line.startswith(b"<83>tinyport-audit: {")
    assert len(line) < 8192
    assert b"\n" not in line
    assert json.loads(line.partition(b": ")[2]) == {
        "id": 7,
        "event": "exec",
        "code": "T3002E",
        "user": "a\nb",
        "cut": True,
    }


def test_positions_outlive_a_restore(start: Callable[..., AuthServer], tmp_path: Path) -> None:
    (tmp_path / "auth").mkdir(mode=0o700)
    position = tmp_path / "auth" / "audit-file.position"
    position.write_text("999999             \n")
    os.chmod(position, 0o600)
    auth = start(audit_sinks=AuditSinks(file=tmp_path / "audit.jsonl"))
    until(lambda: position.read_text().strip() != "999999")
    lock(auth, "a")
    assert until(lambda: read(tmp_path / "audit.jsonl"))[0]["target"] == {"user": "a"}
