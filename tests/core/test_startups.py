"""Who makes room for whom: a flood must not keep the honest out, nor one source another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.sources import source_of
from tinyport.core.startups import Startups


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8:0:0::/64"),
        ("2001:DB8::ffff%eth0", "2001:db8:0:0::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("::1", "0:0:0:0::/64"),
        ("fe80::", "fe80:0:0:0::/64"),
        ("a unix socket", "a unix socket"),
    ],
)
def test_a_source(address: str, source: str) -> None:
    assert source_of(address) == source


def filled(most: int = 4, per_source: int = 4, places: int = 4, patience: float = 1.0) -> Startups[str]:
    return Startups(most, per_source, places, patience)


def enter(startups: Startups[str], key: str, source: str, now: float = 0) -> str | None:
    """As callers do: who is turned away leaves, and everybody wants a place."""
    loser = startups.enter(key, source, now)
    if loser is not None:
        startups.leave(loser)
    startups.ask(key)
    return loser


def test_the_newcomer_gets_in_and_the_oldest_goes() -> None:
    startups = filled()
    for number in range(4):
        assert enter(startups, f"silent{number}", f"192.0.2.{number}") is None
    startups.serve(0)
    assert enter(startups, "person", "198.51.100.1") == "silent0"
    assert len(startups) == 4


def test_the_source_that_has_the_most_pays() -> None:
    startups = filled()
    enter(startups, "old", "198.51.100.9")
    for number in range(3):
        enter(startups, f"flood{number}", "192.0.2.1")
    assert enter(startups, "person", "198.51.100.1") == "flood0"
    # Who floods pays for it alone, though "old" is older.
    assert enter(startups, "flood3", "192.0.2.1") == "flood1"


def test_who_got_a_place_just_now_has_its_time() -> None:
    startups = filled(most=3, places=2)
    for number in range(3):
        enter(startups, f"a{number}", f"192.0.2.{number}")
    assert startups.serve(0) == (["a2", "a1"], [])
    assert enter(startups, "b", "192.0.2.8", 0.5) == "a0"
    assert enter(startups, "c", "192.0.2.9", 1.5) == "a1"


def test_a_source_has_a_limit_of_its_own() -> None:
    startups = filled(most=10, per_source=2)
    enter(startups, "a", "192.0.2.1")
    enter(startups, "b", "192.0.2.1")
    assert enter(startups, "c", "192.0.2.1") == "a"
    assert len(startups) == 2


def test_who_has_exchanged_keys_stays_longest() -> None:
    startups = filled(most=2)
    enter(startups, "a", "192.0.2.1")
    enter(startups, "b", "192.0.2.2")
    startups.serve(0)
    startups.keyed("a")
    assert enter(startups, "c", "192.0.2.3") == "b"


def test_places_go_to_the_newest_and_to_each_source_in_turn() -> None:
    startups = filled(most=10, per_source=10, places=3)
    for key, source in (("a1", "192.0.2.1"), ("b1", "192.0.2.2"), ("a2", "192.0.2.1"), ("a3", "192.0.2.1")):
        enter(startups, key, source)
    assert startups.serve(0) == (["a3", "b1", "a2"], [])
    assert startups.waiting
    startups.keyed("b1")
    assert startups.serve(0) == (["a1"], [])
    assert not startups.waiting


def test_a_place_is_lost_only_after_its_time_and_to_somebody() -> None:
    startups = filled(places=1)
    enter(startups, "a", "192.0.2.1")
    startups.serve(0)
    assert startups.serve(5) == ([], [])
    enter(startups, "b", "192.0.2.2")
    assert startups.serve(0.9) == ([], [])
    assert startups.serve(1.0) == (["b"], ["a"])
    startups.leave("a")
    startups.leave("a")
    assert len(startups) == 1


EVENTS = st.lists(
    st.tuples(st.sampled_from(["enter", "keyed", "leave", "serve"]), st.integers(0, 30), st.integers(0, 3))
)


@given(EVENTS)
def test_no_order_of_events_breaks_the_limits(events: list[tuple[str, int, int]]) -> None:
    startups: Startups[str] = Startups(5, 3, 2, 1.0)
    keyed: set[str] = set()
    served: set[str] = set()
    for now, (what, number, source) in enumerate(events):
        key = f"{number}"
        if what == "enter" and key not in startups:
            keyed.discard(key)
            served.discard(key)
            enter(startups, key, f"192.0.2.{source}", now)
        elif what == "keyed" and key in served:
            startups.keyed(key)
            keyed.add(key)
        elif what == "leave":
            startups.leave(key)
        else:
            chosen, losers = startups.serve(now)
            assert not set(chosen) & set(losers)
            for loser in losers:
                startups.leave(loser)
            served.update(chosen)
        assert len(startups) <= 5
        assert sum(key in startups for key in served - keyed) <= 2
