"""Which processes are two devices, and which are one that started again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.errors import PeerError
from tinyport.core.instances import MOST, Lived, check_instance, meet

A, B, C = "a" * 32, "b" * 32, "c" * 32


def test_a_device_that_starts_again_is_one() -> None:
    history: tuple[Lived, ...] = ()
    for number in range(3 * MOST):
        meeting = meet(history, f"{number:032x}", float(number))
        assert meeting.copies == ()
        history = meeting.history
    assert len(history) == MOST


def test_whoever_lives_before_and_after_another_is_beside_it() -> None:
    history = ((A, 1.0), (B, 5.0))
    # A word that was on its way since before B began.
    assert meet(history, A, 4.0).copies == ()
    assert meet(history, A, 5.0).copies == ()
    sure = meet(history, A, 9.0)
    assert (sure.copies, sure.history) == ((B,), ((A, 1.0),))


def test_all_that_came_in_between_are_copies() -> None:
    history = ((A, 1.0), (B, 5.0), (C, 6.0))
    assert meet(history, A, 9.0).copies == (B, C)
    assert meet(history, B, 9.0).copies == (C,)
    assert meet(history, C, 9.0).copies == ()
    # C began after the moment that this is about.
    assert meet(history, A, 5.5).copies == (B,)


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(0, 9), st.floats(0, 100)), max_size=30))
def test_one_device_is_never_two_however_late_its_words_come(words: list[tuple[int, float, float]]) -> None:
    """Process N lives from 10 N to 10 N + 9; words are (process, moment of its life, delay)."""
    history: tuple[Lived, ...] = ()
    for process, moment, _ in sorted(words, key=lambda word: 10 * word[0] + word[1] + word[2]):
        meeting = meet(history, f"{process:032x}", 10 * process + moment)
        assert meeting.copies == ()
        history = meeting.history


@given(st.lists(st.sampled_from((A, B)), min_size=1, max_size=20))
def test_two_devices_that_take_turns_are_found_and_the_first_stays(turns: list[str]) -> None:
    history: tuple[Lived, ...] = ()
    first, other = turns[0], B if turns[0] == A else A
    copies: tuple[str, ...] = ()
    for moment, who in enumerate([first, *turns, other, first]):
        meeting = meet(history, who, float(moment))
        history, copies = meeting.history, (*copies, *meeting.copies)
        if copies:
            break
    assert copies == (other,)
    assert history == ((first, 0.0),)


@pytest.mark.parametrize("value", [None, 7, "", "a" * 31, "A" * 32, "g" * 32, "a" * 33, ["a" * 32]])
def test_what_is_no_instance(value: object) -> None:
    with pytest.raises(PeerError):
        check_instance(value)
