"""Tables for people: columns that line up, whatever is in them and however narrow the terminal."""

from __future__ import annotations

import pytest

from tinyport.host import console_table, console_wrap
from tinyport.host.console_table import table


def test_tables_line_up_with_wide_letters_and_escapes() -> None:
    lines = table([("温室", "x"), ("a\x1b", "y")], ("NAME", "S"))
    assert lines == ["NAME   S", "温室   x", "a\\x1b  y"]


def test_on_a_narrow_terminal_the_last_column_goes_on_beneath_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_table, "terminal_columns", lambda stream: 26)
    rows = [("pi", "site=berlin place=東京都渋谷区 " + "x" * 20, "-"), ("pi-2", "short", "-")]
    assert table([row[:2] for row in rows], ("NAME", "LABELS")) == [
        "NAME  LABELS",
        "pi    site=berlin",
        "      place=東京都渋谷区",
        "      xxxxxxxxxxxxxxxxxxxx",
        "pi-2  short",
    ]
    monkeypatch.setattr(console_table, "terminal_columns", lambda stream: 20)
    assert table([row[:2] for row in rows], ("NAME", "LABELS")) == [
        "NAME",
        "    LABELS",
        "pi",
        "    site=berlin",
        "    place=東京都渋谷区",
        "    xxxxxxxxxxxxxxxxxxxx",
        "pi-2",
        "    short",
    ]


NODES = [
    (
        "greenhouse-at-the-end-of-the-long-road",
        "online",
        "3a7f1b2c-93f1-4f0e-8a52-0d7e5a1d2c3b",
        "",
        "0.1.0",
        "a=b c=d",
    ),
    ("pi", "offline", "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b", "10.0.0.7:3022", "", ""),
    ("東京", "\x1b[31m", "", "", "", ""),
]
HEADERS = ("NODE", "STATUS", "UUID", "ADDRESSES", "VERSION", "LABELS")


def test_what_has_no_room_beside_goes_beneath(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_table, "terminal_columns", lambda stream: 80)
    assert table(NODES, HEADERS) == [
        "NODE                                    STATUS",
        "    UUID                                  ADDRESSES      VERSION  LABELS",
        "greenhouse-at-the-end-of-the-long-road  online",
        "    3a7f1b2c-93f1-4f0e-8a52-0d7e5a1d2c3b                 0.1.0    a=b c=d",
        "pi                                      offline",
        "    0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b  10.0.0.7:3022",
        "東京                                    \\x1b[31m",
    ]
    monkeypatch.setattr(console_table, "terminal_columns", lambda stream: None)
    assert len(table(NODES, HEADERS)) == 4, "a pipe gets a line for each"


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_nothing_is_broken_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr(console_table, "terminal_columns", lambda stream: columns)
    lines = table(NODES, HEADERS, paint_cell=lambda header, text: text)
    assert max(map(console_wrap.width, lines)) <= max(columns, 44)
    shown = " ".join(lines)
    assert all(word in shown for row in NODES for cell in row for word in cell.split() if cell.isprintable())
