"""Who is refused at the door, for how long, and who never is."""

from __future__ import annotations

import pytest

from tinyport.host.logging_line import Log
from tinyport.node.link import penalties as link_penalties
from tinyport.node.link.penalties import KNOWN_FOR, MOST, Penalties

LOOPBACK = (4, 127 << 24, 8)


class Watch:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def penalties(watch: Watch) -> Penalties:
    return Penalties([LOOPBACK, (16, 0x20010DB8_00000001 << 64, 64)], Log("test"), monotonic=watch)


def fail(penalties: Penalties, address: str, how: str, times: int) -> None:
    for _ in range(times):
        penalties.ended(address, how)


def test_failures_add_up_and_time_takes_them_away(penalties: Penalties, watch: Watch) -> None:
    fail(penalties, "192.0.2.1", "authfail", 2)
    assert not penalties.refuses("192.0.2.1")
    fail(penalties, "192.0.2.1", "authfail", 1)
    assert penalties.refuses("192.0.2.1")
    assert not penalties.refuses("192.0.2.2")
    watch.now += 14.9
    assert penalties.refuses("192.0.2.1")
    watch.now += 0.2
    assert not penalties.refuses("192.0.2.1")
    # From nothing again.
    fail(penalties, "192.0.2.1", "authfail", 2)
    assert not penalties.refuses("192.0.2.1")


def test_rare_failures_are_forgotten_between(penalties: Penalties, watch: Watch) -> None:
    for _ in range(100):
        fail(penalties, "192.0.2.1", "authfail", 1)
        watch.now += 5
        assert not penalties.refuses("192.0.2.1")


@pytest.mark.parametrize(("how", "times"), [("noauth", 15), ("grace", 2), ("crash", 1)])
def test_what_weighs_how_much(penalties: Penalties, how: str, times: int) -> None:
    fail(penalties, "192.0.2.1", how, times - 1)
    assert not penalties.refuses("192.0.2.1")
    fail(penalties, "192.0.2.1", how, 1)
    assert penalties.refuses("192.0.2.1")


def test_there_is_a_most(penalties: Penalties, watch: Watch) -> None:
    fail(penalties, "192.0.2.1", "crash", 1000)
    watch.now += MOST
    assert not penalties.refuses("192.0.2.1")


def test_one_64_is_one_source(penalties: Penalties) -> None:
    for number in range(15):
        penalties.ended(f"2001:db8::{number:x}", "noauth")
    assert penalties.refuses("2001:db8::ffff")
    assert not penalties.refuses("2001:db8:0:2::1")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.3.2.1", "::ffff:127.0.0.1", "2001:db8:0:1::5"])
def test_the_exempt(penalties: Penalties, address: str) -> None:
    fail(penalties, address, "crash", 10)
    assert not penalties.refuses(address)


@pytest.mark.parametrize("address", ["", "not an address", "%", "::%eth0%", "1.2.3", "127.0.0.1:5"])
def test_any_text_is_a_source(penalties: Penalties, address: str) -> None:
    fail(penalties, address, "crash", 1)
    assert penalties.refuses(address)


def test_where_somebody_signed_in_neighbours_are_spared(penalties: Penalties, watch: Watch) -> None:
    fail(penalties, "192.0.2.1", "authfail", 3)
    penalties.ended("192.0.2.1", "proved")
    assert not penalties.refuses("192.0.2.1")
    fail(penalties, "192.0.2.1", "authfail", 100)
    assert not penalties.refuses("192.0.2.1")
    # Who makes workers fall over is not spared; and nobody is for ever.
    fail(penalties, "192.0.2.1", "crash", 1)
    assert penalties.refuses("192.0.2.1")
    watch.now += KNOWN_FOR
    fail(penalties, "192.0.2.1", "authfail", 3)
    assert penalties.refuses("192.0.2.1")


def test_the_tables_are_bounded(penalties: Penalties, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_penalties, "MAX_SOURCES", 10)
    monkeypatch.setattr(link_penalties, "MAX_KNOWN", 10)
    fail(penalties, "192.0.2.1", "crash", 1)
    for number in range(100):
        penalties.ended(f"198.51.100.{number}", "authfail")
        penalties.ended(f"203.0.113.{number}", "proved")
    assert len(penalties._until) == len(penalties._known) == 10
    # What weighs most stays.
    assert penalties.refuses("192.0.2.1")


def test_switched_off() -> None:
    penalties = Penalties([], Log("test"), enabled=False)
    fail(penalties, "192.0.2.1", "crash", 10)
    assert not penalties.refuses("192.0.2.1")


def test_unknown_words_count_for_nothing(penalties: Penalties) -> None:
    fail(penalties, "192.0.2.1", "from the future", 1000)
    assert not penalties.refuses("192.0.2.1")
