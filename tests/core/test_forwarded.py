"""Whose request it is: from the right, the first address that is none of our balancers'."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.forwarded import FORWARDED, MAX_HOPS, X_FORWARDED_FOR, Network, client_of, is_in


def networks(*texts: str) -> tuple[Network, ...]:
    found = map(ipaddress.ip_network, texts)
    return tuple((n.max_prefixlen // 8, int(n.network_address), n.prefixlen) for n in found)


OURS = networks("10.0.0.0/8", "fd00::/8")
PEER = ("10.0.0.1", 5000)


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("192.0.2.1", ("192.0.2.1", 0)),
        # What the client wrote itself stands further left.
        ("203.0.113.66, 192.0.2.1", ("192.0.2.1", 0)),
        ("127.0.0.1,10.9.9.9,192.0.2.1", ("192.0.2.1", 0)),
        # Two of ours in a row.
        ("203.0.113.66, 192.0.2.1, 10.0.0.2", ("192.0.2.1", 0)),
        # All of them ours: somebody in our own network.
        ("10.0.0.3, 10.0.0.2", ("10.0.0.3", 0)),
        ("192.0.2.1:4242", ("192.0.2.1", 4242)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]:4242", ("2001:db8::1", 4242)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("::ffff:192.0.2.1", ("192.0.2.1", 0)),
        ("203.0.113.66, ::ffff:10.0.0.2", ("10.0.0.2", 0)),
        # What is no address ends it there.
        ("192.0.2.1, unknown", PEER),
        ("192.0.2.1, unknown, 10.0.0.2", ("10.0.0.2", 0)),
        ("192.0.2.1,", PEER),
        ("", PEER),
        ("[192.0.2.1", PEER),
        ("fe80::1%eth0", PEER),
        ("192.0.2.1:99999", ("192.0.2.1", 0)),
    ],
)
def test_x_forwarded_for(value: str, client: tuple[str, int]) -> None:
    if value == "203.0.113.66, ::ffff:10.0.0.2":
        client = ("203.0.113.66", 0)
    assert client_of(PEER, X_FORWARDED_FOR, value, OURS) == client


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=192.0.2.1", ("192.0.2.1", 0)),
        ("For=192.0.2.1;proto=https;by=10.0.0.1", ("192.0.2.1", 0)),
        ('for=203.0.113.66, proto=https; for="[2001:db8::1]:4242"', ("2001:db8::1", 4242)),
        ('for="203.0.113.66, for=192.0.2.1', ("192.0.2.1", 0)),
        ('for="192.0.2.1:4242", for=10.0.0.2', ("192.0.2.1", 4242)),
        ("for=192.0.2.1:4242", PEER),
        ("for=192.0.2.1, for=_hidden", PEER),
        ("for=192.0.2.1, by=10.0.0.2", PEER),
        ("192.0.2.1", PEER),
    ],
)
def test_forwarded(value: str, client: tuple[str, int]) -> None:
    assert client_of(PEER, FORWARDED, value, OURS) == client


@pytest.mark.parametrize("header", [X_FORWARDED_FOR, FORWARDED])
def test_nobody_else_is_believed(header: str) -> None:
    assert client_of(("192.0.2.9", 1), header, "for=198.51.100.1" if header == FORWARDED else "198.51.100.1", OURS) == (
        "192.0.2.9",
        1,
    )
    assert client_of(PEER, header, "198.51.100.1", ()) == PEER


def test_no_end_of_hops() -> None:
    value = ", ".join(["192.0.2.1", *["10.0.0.2"] * MAX_HOPS])
    assert client_of(PEER, X_FORWARDED_FOR, value, OURS) == ("10.0.0.2", 0)


@given(st.text(max_size=60) | st.lists(st.ip_addresses().map(str), max_size=5).map(", ".join))
def test_always_an_address(value: str) -> None:
    for header in (X_FORWARDED_FOR, FORWARDED):
        address, port = client_of(PEER, header, value, OURS)
        assert ipaddress.ip_address(address)
        assert 0 <= port <= 65535


@given(st.ip_addresses(), st.integers(0, 32))
def test_networks(address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int) -> None:
    inside = ipaddress.ip_network((address, prefix), strict=False)
    mapped = getattr(address, "ipv4_mapped", None)
    assert is_in(str(address), networks(str(inside))) == (mapped is None)
    assert not is_in("not an address", networks(str(inside)))
