"""``tsh run``: its display, and where output goes."""

from __future__ import annotations

import asyncio
import io
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tinyport.client.engine import Wish
from tinyport.client.fleet import Fleet
from tinyport.client.fleet_display import Display
from tinyport.client.fleet_output import MAX_KEPT, MAX_LINE, Files, Kept, Lines, output_folder, without_earlier
from tinyport.client.fleet_results import Result, summary
from tinyport.client.fleet_session import Ran
from tinyport.core.errors import AccessDenied, OperatorError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal without colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.usefixtures("plain")
def test_the_display_counts_and_shows_who_is_at_work() -> None:
    now = [0.0]
    stream = Terminal()
    display = Display(13, stream=stream, clock=lambda: now[0])
    for number in range(10):
        display.running(f"pi-{number}")
        now[0] += 1
    display.ended("pi-0", "ok")
    display.ended("pi-1", "failed")
    display.ended("barn", "away")
    assert display.rows() == [
        "3 of 13 done, 1 ok, 1 failed, 1 away, 2 waiting",
        *(f"  pi-{number}  {10 - number:>5}s" for number in range(2, 10)),
    ]
    display.draw(now=True)
    display.hide()
    # What was drawn is taken away before anything else is printed.
    assert stream.getvalue().endswith("\x1b[9A\r\x1b[J")


def drawn(text: str, columns: int, rows: int = 24) -> list[str]:
    """What a terminal that is so wide shows, of text with our escapes: up, back to the first column, erase."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[0-9]*[A-Z]|.|\n", text, re.S):
        if piece == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\r":
            column = 0
        elif piece == "\x1b[K":
            lines[row] = lines[row][:column]
        elif piece == "\x1b[J":
            lines[row:] = [lines[row][:column]]
        elif piece.startswith("\x1b"):
            assert piece.endswith("A")
            row -= int(piece[2:-1])
            assert row >= 0, "the cursor would leave the screen"
        else:
            if column == columns:
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row][:column] + piece + lines[row][column + 1 :]
            column += 1
    assert len(lines) <= rows
    return lines


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (30, 24), (20, 6), (120, 40), (10, 2)])
def test_no_row_is_broken_and_output_has_room(columns: int, lines: int) -> None:
    stream = Terminal()
    now = [0.0]
    display = Display(40, stream=stream, clock=lambda: now[0], size=lambda: os.terminal_size((columns, lines)))
    for number in range(30):
        display.running(f"a-device-with-a-rather-long-name-{number}")
        now[0] += 1
        display.said(f"a-device-with-a-rather-long-name-{number}", "große Zeile ".encode() * 20)
    display.draw(now=True)
    shown = drawn(stream.getvalue(), columns)
    assert shown[-1] == ""
    assert shown[0].startswith("0 of 40 "[: columns - 2])
    assert len(shown) - 1 <= max(1, lines - 2)
    display.close()
    assert drawn(stream.getvalue(), columns) == [""]


@pytest.mark.usefixtures("plain")
def test_a_terminal_that_was_made_narrower_keeps_no_rests() -> None:
    stream = Terminal()
    columns = 80
    display = Display(9, stream=stream, clock=lambda: 0.0, size=lambda: os.terminal_size((columns, 24)))
    display.running("greenhouse-on-the-long-road")
    before = drawn(stream.getvalue(), 80)
    columns = 20
    at = len(stream.getvalue())
    # The terminal breaks the two rows into 2 lines each.
    assert [len(row) for row in before] == [28, 37, 0]
    display.hide()
    assert stream.getvalue()[at:] == "\x1b[4A\r\x1b[J"


@pytest.mark.usefixtures("plain")
def test_the_last_line_of_what_goes_into_files_is_shown() -> None:
    display = Display(1, stream=Terminal(), clock=lambda: 0.0)
    display.running("pi")
    display.said("pi", b"Get:1 a\nProgress 10%\rProgress 20%\x1b[2J\r\n")
    assert display.rows() == ["0 of 1 done, 0 ok", "  pi      0s  Progress 20%\\x1b[2J"]
    display.said("pi", b"\n")
    assert "Progress" in display.rows()[1]


def test_a_terminal_that_cannot_be_drawn_on_gets_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    display = Display(1, stream=stream)
    display.running("a")
    display.close()
    assert stream.getvalue() == ""


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
    monkeypatch.setenv("NO_COLOR", "1")
    lines = Lines("pi")
    lines.write(b"\x1b]0;owned\x07\tx\r\n10%\r20%\r\n", errors=False)
    assert stream.getvalue() == "pi: \\x1b]0;owned\\x07    x\npi: 20%\n"


def test_files_of_an_earlier_run_go(tmp_path: Path) -> None:
    (tmp_path / "pi.err").write_text("of yesterday")
    without_earlier(tmp_path, ["pi", "shed"])
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


def test_the_summary_has_trouble_above_the_prompt() -> None:
    results = [
        Result("a", "1", "failed", "status 3", "status", 3, seconds=2),
        Result("b", "2", "ok", "ok", "", 0, seconds=12.3),
        Result("c", "3", "away", "offline", "offline"),
    ]
    assert summary(results) == [
        "NODE  TIME  RESULT",
        "b     12s   ok",
        "c           away: offline",
        "a     2.0s  failed: status 3",
        "1 ok, 1 failed, 1 away",
    ]


class Asked:
    """A proxy that asks for a code for each node; a certificate of it is good for ``good_for`` dials."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, good_for: int = 1000) -> None:
        self.groups: list[list[str]] = []
        self.left = 0
        self._good_for = good_for
        monkeypatch.setattr("tinyport.client.fleet.stepped_up", self._stepped_up)

    def _stepped_up(self, identity: Any, refusal: AccessDenied, targets: list[str], why: str) -> Any:
        self.groups.append(targets)
        self.left = self._good_for
        return identity

    @asynccontextmanager
    async def way(self, wish: Wish) -> AsyncIterator[Any]:
        if not self.groups:
            raise AccessDenied("a code is needed", code="mfa_required")
        if wish.target not in self.groups[-1] or not self.left:
            raise AccessDenied("the certificate has expired", code="expired")
        self.left -= 1
        yield self

    async def create_session(self, factory: Callable[[], Ran], command: str, **options: object) -> tuple[Any, None]:
        session = factory()
        session.exit_status_received(0)
        session.connection_lost(None)
        return self, None

    def write_eof(self) -> None:
        return


def run_where_codes_are_asked(asked: Asked, count: int) -> list[Result]:
    nodes = [{"name": f"pi-{number}", "uuid": f"uuid-{number}", "status": "online"} for number in range(count)]
    display = Display(count, stream=io.StringIO())
    identity: Any = None
    fleet = Fleet(identity, "pi", "true", 20, None, display, Lines, way=asked.way)
    return fleet.run(nodes)


def test_one_code_is_for_as_many_nodes_as_auth_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    results = run_where_codes_are_asked(asked, 70)
    assert {one.kind for one in results} == {"ok"}
    assert [len(group) for group in asked.groups] == [64, 6]


def test_those_for_whom_a_code_came_too_late_get_another(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, good_for=7)
    results = run_where_codes_are_asked(asked, 20)
    assert {one.kind for one in results} == {"ok"}
    assert [len(group) for group in asked.groups] == [20, 13, 6]


def test_a_code_that_helps_nowhere_is_not_asked_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, good_for=0)
    results = run_where_codes_are_asked(asked, 3)
    assert [(one.kind, one.code, one.began) for one in results] == [("failed", "mfa_required", False)] * 3
    assert len(asked.groups) == 1


def test_without_a_code_there_are_results_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Asked(monkeypatch)

    def refused(*words: object) -> None:
        raise AccessDenied("user, password or one-time code is wrong", code="bad_credentials")

    monkeypatch.setattr("tinyport.client.fleet.stepped_up", refused)
    results = run_where_codes_are_asked(asked, 2)
    assert [one.text for one in results] == ["it needs a one-time code"] * 2
    assert "one-time code is wrong" in capsys.readouterr().err


class Stubborn:
    """A command that ends by ``heeds`` alone."""

    def __init__(self, heeds: str) -> None:
        self.ran: Ran | None = None
        self.heard: list[str] = []
        self._heeds = heeds

    def send_signal(self, name: str) -> None:
        self.heard.append(name)
        if name == self._heeds:
            assert self.ran is not None
            self.ran.connection_lost(None)


@pytest.mark.parametrize(("heeds", "heard"), [("TERM", ["TERM"]), ("KILL", ["TERM", "KILL"])])
def test_what_takes_too_long_is_told_and_then_killed(heeds: str, heard: list[str]) -> None:
    channel = Stubborn(heeds)

    async def stopped() -> None:
        channel.ran = Ran(lambda data, errors: None)
        channel.ran.connection_made(channel)
        await channel.ran.stop(grace=0.01)

    asyncio.run(stopped())
    assert channel.heard == heard
