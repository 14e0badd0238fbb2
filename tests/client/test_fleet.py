"""``tsh run``: its display, and where output goes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tinyport.client.fleet_display import Display
from tinyport.client.fleet_output import MAX_KEPT, MAX_LINE, Files, Kept, Lines, output_folder
from tinyport.client.fleet_run import Result, summary
from tinyport.core.errors import OperatorError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_display_counts_and_shows_who_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    now = [0.0]
    stream = Terminal()
    display = Display(12, stream=stream, clock=lambda: now[0])
    for number in range(10):
        display.running(f"pi-{number}")
        now[0] += 1
    display.ended("pi-0", "ok")
    display.ended("pi-1", "failed")
    display.ended("barn", "away")
    assert display.rows() == [
        "3 of 12 done, 1 ok, 1 failed, 1 away",
        *(f"  pi-{number}  {10 - number:4.0f} s" for number in range(2, 10)),
    ]
    display.hide()
    # What was drawn is taken away before anything else is printed.
    assert stream.getvalue().endswith("\x1b[9A\r\x1b[J")


def test_a_pipe_gets_no_display() -> None:
    stream = io.StringIO()
    display = Display(1, stream=stream)
    display.running("a")
    display.ended("a", "ok")
    display.close()
    assert stream.getvalue() == ""


def test_lines_are_whole_and_bounded(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    lines = Lines("pi")
    lines.write(b"one\ntw", errors=False)
    lines.write(b"o\n\xff\x1b[2J\n", errors=False)
    lines.write(b"x" * (MAX_LINE + 5), errors=True)
    lines.write(b"end", errors=False)
    lines.close()
    found = capsysbinary.readouterr()
    assert found.out == b"pi: one\npi: two\npi: \xff\x1b[2J\npi: end\n"
    assert found.err == b"pi: " + b"x" * MAX_LINE + b"\npi: xxxxx\n"


def test_a_terminal_shows_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    lines = Lines("pi")
    lines.write(b"\x1b]0;owned\x07\tx\r\n", errors=False)
    assert stream.getvalue() == "pi: \\x1b]0;owned\\x07    x\n"


def test_files_of_an_earlier_run_go(tmp_path: Path) -> None:
    (tmp_path / "pi.err").write_text("of yesterday")
    files = Files(tmp_path, "pi")
    files.write(b"out", errors=False)
    assert files.close() == {"output": str(tmp_path / "pi.out")}
    assert [path.name for path in tmp_path.iterdir()] == ["pi.out"]
    with pytest.raises(OperatorError, match="--output-dir"):
        output_folder(str(tmp_path / "pi.out"))


def test_what_json_keeps_is_bounded() -> None:
    kept = Kept()
    kept.write(b"x" * (MAX_KEPT - 1), errors=False)
    kept.write(b"yz", errors=False)
    kept.write(b"\xff", errors=True)
    assert kept.close() == {"stdout": "x" * (MAX_KEPT - 1) + "y", "stderr": "\ufffd", "truncated": True}


def test_the_summary_has_trouble_first() -> None:
    results = [
        Result("a", "1", "ok", "ok", 0, seconds=1),
        Result("b", "2", "failed", "status 3", 3, seconds=2),
        Result("c", "3", "away", "offline"),
    ]
    assert [line.split()[0] for line in summary(results)] == ["NODE", "c", "b", "a", "1"]
    assert summary(results)[-1] == "1 ok, 1 failed, 1 away"
