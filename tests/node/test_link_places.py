"""Which addresses a tunnel may try: pure."""

from __future__ import annotations

import pytest

from tinyport.node.link.places import MAX_PLACES, Places, parse_places

A, B = "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b", "1b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"
HOME, ONE, TWO, THREE = ("home.example", 443), ("one.example", 443), ("two.example", 443), ("three.example", 443)


def places(**said: object) -> Places:
    made = Places([HOME])
    made.sign({"addresses": ["one.example:443", "two.example:443"], **said})
    return made


def test_a_proxy_of_two_addresses_is_one_proxy() -> None:
    found = places(uuids={"one.example:443": A, "two.example:443": A})
    assert found.open(held=set(), settled=set(), busy=set()) == [ONE, TWO]
    assert found.open(held={A}, settled={A}, busy={ONE}) == []
    assert found.of(A, busy={ONE}) == [TWO]


def test_what_is_not_known_is_tried_until_it_is() -> None:
    found = places()
    assert found.open(held={A}, settled={A}, busy={HOME}) == [ONE, TWO]
    found.found(ONE, A)
    found.found(TWO, B)
    assert found.open(held={A}, settled={A}, busy={HOME}) == [TWO]


def test_a_node_without_any_tunnel_tries_everything_that_it_was_ever_told() -> None:
    assert places().all(busy=set()) == [HOME, ONE, TWO]


def test_a_preferred_address_is_open_for_a_proxy_that_stands_elsewhere() -> None:
    found = places(preferred=["two.example:443"], uuids={"one.example:443": A, "two.example:443": A})
    assert found.open(held={A}, settled=set(), busy={ONE}) == [TWO]
    assert found.open(held={A}, settled={A}, busy={TWO}) == []


def test_only_what_is_new_is_news() -> None:
    found = places()
    assert not found.sign({"addresses": ["one.example:443", "two.example:443"]})
    assert found.sign({"addresses": ["three.example"]})
    assert found.open(set(), set(), set()) == [THREE]


@pytest.mark.parametrize("said", [None, 7, [], {}, {"addresses": 7, "uuids": 7, "preferred": "x"}, {"uuids": {"x": 1}}])
def test_nonsense_is_nothing(said: object) -> None:
    found = Places([HOME])
    assert not found.sign(said)
    assert found.all(set()) == [HOME]


def test_a_list_has_its_end_and_what_is_no_address_is_left_out() -> None:
    assert parse_places(["a:1", "no port:x", 5, "a:1"]) == [("a", 1), ("5", 443)]
    assert len(parse_places([f"host-{number}:1" for number in range(100)])) == MAX_PLACES
