"""Limits on sessions: what roles and the configuration say, and what must hold whatever they say."""

from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.errors import AccessDenied, ConfigError
from tinyport.core.roles import parse_role
from tinyport.core.session_terms import (
    CONFIG,
    NO_TERMS,
    RECORDINGS,
    SessionTerms,
    describe,
    in_emergency,
    of_config,
    of_roles,
    record_of_config,
)

ADDRESSES = [ipaddress.ip_address(text) for text in ("10.1.2.3", "192.168.0.9", "2001:db8::7", "203.0.113.5")]

counts = st.integers(1, 9)
limits = {
    "client_idle_timeout": st.sampled_from(["10s", "15m", "900s", "2h"]),
    "max_sessions": counts,
    "max_connections": counts,
    "disconnect_expired_cert": st.booleans(),
}
recordings = st.sampled_from(RECORDINGS)
networks = st.lists(
    st.sampled_from(["10.0.0.0/8", "192.168.0.0/16", "2001:db8::/32", "0.0.0.0/0"]), min_size=1, max_size=3
)
options = st.fixed_dictionaries({}, optional={**limits, "source_networks": networks, "record": recordings})
roles = st.lists(st.tuples(st.sampled_from(["role a", "role b", "c"]), options), max_size=5)
configs = st.fixed_dictionaries({}, optional={**limits, "session_recording": recordings})


def as_tight(one: SessionTerms, other: SessionTerms) -> bool:
    """Does ``one`` let through nothing that ``other`` does not?"""
    for mine, theirs in (
        (one.idle, other.idle),
        (one.sessions, other.sessions),
        (one.connections, other.connections),
    ):
        if theirs is not None and (mine is None or mine.value > theirs.value):
            return False
    if RECORDINGS.index(one.recording) < RECORDINGS.index(other.recording):
        return False
    if other.ends_with_certificate is not None and one.ends_with_certificate is None:
        return False
    return all(lets_in(other, address) or not lets_in(one, address) for address in [*ADDRESSES, None])


def lets_in(terms: SessionTerms, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    try:
        terms.check_source(address)
    except AccessDenied:
        return False
    return True


@given(found=roles, config=configs, seed=st.integers())
def test_the_order_never_matters(
    found: list[tuple[str, dict[str, object]]], config: dict[str, object], seed: int
) -> None:
    shuffled = list(found)
    random.Random(seed).shuffle(shuffled)
    assert of_roles(found).and_also(of_config(config)) == of_config(config).and_also(of_roles(shuffled))


@given(found=roles, more=options, config=configs)
def test_one_more_role_never_loosens_a_limit(
    found: list[tuple[str, dict[str, object]]], more: dict[str, object], config: dict[str, object]
) -> None:
    before = of_roles(found)
    assert as_tight(of_roles([*found, ("more", more)]), before)
    assert as_tight(before.and_also(of_config(config)), before)
    assert as_tight(before.and_also(of_config(config)), of_config(config))


@given(found=roles)
def test_every_limit_is_one_that_somebody_said(found: list[tuple[str, dict[str, object]]]) -> None:
    terms = of_roles(found)
    said = {f"role {name}" for name, _ in found}
    for limit in (terms.idle, terms.sessions, terms.connections, terms.record):
        assert limit is None or limit.by in said
    assert {by for by, _ in terms.sources} <= said


def test_nobody_says_anything() -> None:
    assert of_roles([("a", {}), ("b", {"pty": False})]) == of_config({"second_factor": "off"}) == NO_TERMS
    assert lets_in(NO_TERMS, None)


def test_an_address_that_is_not_known_is_in_no_network() -> None:
    assert not lets_in(of_roles([("a", {"source_networks": ["0.0.0.0/0", "::/0"]})]), None)


def test_what_explain_says() -> None:
    found = of_roles([("night", {"client_idle_timeout": "15m", "source_networks": "10.0.0.0/8"})])
    config = {"max_sessions": 3, "disconnect_expired_cert": True, "session_recording": "strict"}
    whole = found.and_also(of_config(config))
    assert describe(whole) == [
        "closed when idle for 15m (role night)",
        f"at most 3 sessions at a time on a node ({CONFIG})",
        f"closed when the certificate expires ({CONFIG})",
        "only from 10.0.0.0/8 (role night)",
        f"recorded, or refused ({CONFIG})",
    ]


def test_recording_on_odd_days() -> None:
    # A word of a later version counts as the strictest of ours, also beside others that cannot be read.
    assert of_config({"session_recording": "notarized"}).recording == "strict"
    assert record_of_config({"max_sessions": "many", "session_recording": "node"}).recording == "node"
    assert in_emergency(of_config({"session_recording": "strict", "max_sessions": 1})) == of_config(
        {"session_recording": "node"}
    )
    assert in_emergency(NO_TERMS) == NO_TERMS


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("client_idle_timeout", "0s"),
        ("client_idle_timeout", 15),
        ("client_idle_timeout", True),
        ("max_sessions", 0),
        ("max_sessions", True),
        ("max_sessions", "3"),
        ("max_connections", 70_000),
        ("disconnect_expired_cert", "yes"),
        ("record", "sometimes"),
        ("record", True),
        ("source_networks", []),
        ("source_networks", ["10.0.0.7/8"]),
        ("source_networks", [8]),
        ("source_networks", "office"),
    ],
)
def test_a_role_that_says_nonsense_is_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_role({"name": "a", "options": {option: value}})
    assert f"options.{option}" in refused.value.problems[0]
