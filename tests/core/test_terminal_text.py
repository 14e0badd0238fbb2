"""What is text and what is for the terminal; and what of the latter somebody else's terminal may be given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.terminal_text import MAX_SEQUENCE, Harmless, Plain

pieces = st.lists(st.text(alphabet="ab1;?$\x1b[]P\\\x07\x84\x9b\x9c\x05mnc ", max_size=8), max_size=12)

SHOWS = [
    "\x1b[31;1m",
    "\x1b[2J",
    "\x1b[?1049h",
    "\x1b[?25l",
    "\x1b[1 q",
    "\x1b[!p",
    "\x1b(B",
    "\x1b7",
    "\x1b]0;title\x07",
]
SHOWS += ["\x1b]8;;https://example.com\x1b\\", "\x1b]4;1;rgb:1/2/3\x07", "\x1b]104\x07", "\x1b[3;7r", "\x9b1m"]
ACTS = [
    "\x1b[6n",
    "\x1b[c",
    "\x1b[>c",
    "\x1b[0x",
    "\x1b[18t",
    "\x1b[5i",
    "\x1b[?1$p",
    "\x1b[>q",
    "\x1bZ",
    "\x05",
    "\x1b[?u",
]
# Kept in mind of terminals that take C1 characters anywhere, of leading zeros, and of the Linux console.
ACTS += [
    "\x9a",
    "\x1b%@",
    "\x1b F",
    "\x1b[2h",
    "\x1b[4;02h",
    "\x1b[?02004h",
    "\x1b[?1;01003h",
    "\x1b[?2;1S",
    "\x1b[12;3]",
]
ACTS += [
    "\x1b]52;c;aGk=\x07",
    "\x1b]4;1;?\x07",
    "\x1b]10;?\x1b\\",
    "\x1bP$qm\x1b\\",
    "\x1b_x\x1b\\",
    "\x1b]1337;File=:\x07",
]
ACTS += [
    "\x1b[?1000h",
    "\x1b[?1h",
    "\x1b=",
    "\x1b[?25;1006h",
    "\x1b[?2004h",
    "\x1b[>4;1m",
    "\x1b[>1u",
    "\x9b6n",
    "\x90q\x9c",
    "\x1b]777;x\x07",
]


@pytest.mark.parametrize("sequence", SHOWS)
def test_what_shows_is_shown(sequence: str) -> None:
    assert Harmless().feed(f"a{sequence}b") == f"a{sequence}b"
    assert Plain().feed(f"a{sequence}b") == "ab"


@pytest.mark.parametrize("sequence", ACTS)
def test_what_acts_or_asks_is_not(sequence: str) -> None:
    assert Harmless().feed(f"a{sequence}b") == "ab"
    assert Plain().feed(f"a{sequence}b") == "ab"


@pytest.mark.parametrize("sequence", SHOWS + ACTS)
def test_nor_when_it_comes_in_pieces(sequence: str) -> None:
    for make in (Harmless, Plain):
        whole = make().feed(sequence + "z")
        one = make()
        assert "".join(one.feed(char) for char in sequence + "z") == whole


@given(found=pieces)
def test_pieces_never_matter(found: list[str]) -> None:
    text = "".join(found)
    for make in (Harmless, Plain):
        one, other = make(), make()
        assert "".join(one.feed(piece) for piece in found) == other.feed(text)


@given(found=pieces)
def test_what_is_let_through_is_harmless_again(found: list[str]) -> None:
    once = Harmless().feed("".join(found) + "\x18zz")
    assert Harmless().feed(once + "zz").rstrip("z") == once.rstrip("z")


def test_a_sequence_without_end_holds_nothing_back_for_ever() -> None:
    plain = Plain()
    said = "".join(plain.feed("x" * 1000) for _ in range(3)) + plain.feed("\x1b]0;")
    said += "".join(plain.feed("x" * 1000) for _ in range(MAX_SEQUENCE // 1000 + 1))
    assert said.count("x") > MAX_SEQUENCE


@pytest.mark.parametrize("inner", ["\x9b6n", "\x9d52;c;aGk=\x07", "\x90$qm\x9c"])
def test_nothing_hides_in_a_title(inner: str) -> None:
    shown = Harmless().feed(f"\x1b]0;a{inner}\x07b")
    assert not set(shown) & set("\x1b\x90\x9b\x9d")
    assert shown.endswith("b")
