"""Whose request it is that came through load balancers which speak HTTP: X-Forwarded-For, or Forwarded (RFC 7239).

Each of them appends whom it heard the request from. So from the right: what our own ones say is so; the first address
that is none of ours is the client's; what stands further left is what that client has made up. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from tinyport.core.proxy_protocol import plain

Address = tuple[str, int]
#: (bytes of an address: 4 or 16, the network as a number, length of its prefix)
Network = tuple[int, int, int]

X_FORWARDED_FOR, FORWARDED = "X-Forwarded-For", "Forwarded"
# Nobody stands behind more of his own.
MAX_HOPS = 16


def is_in(address: str, networks: Sequence[Network]) -> bool:
    """Is the address in one of them? An address of IPv4 inside of IPv6 counts as what it is; any other text is not."""
    if not networks:
        return False
    try:
        found = ipaddress.ip_address(plain(ipaddress.ip_address(address.partition("%")[0])))
    except ValueError:
        return False
    number, bits = int(found), found.max_prefixlen
    return any(
        bits == size * 8 and number >> (bits - prefix) == start >> (bits - prefix) for size, start, prefix in networks
    )


def client_of(peer: Address, header: str, value: str, trusted: Sequence[Network]) -> Address:
    """The client's address: of a request whose connection comes from ``peer`` and whose ``header`` (one of the two
    above) has ``value``, all of its lines joined by commas. The port is 0 where nobody told it.

    ``peer`` itself when that is not one of the ``trusted``. An entry that is no address ends the search: the client is
    then the balancer that said so, never somebody further left.
    """
    client = peer
    read = _x_forwarded_for if header == X_FORWARDED_FOR else _forwarded
    for entry in reversed(value.split(",")[-MAX_HOPS:]):
        if not is_in(client[0], trusted):
            break
        found = read(entry.strip(" \t"))
        if found is None:
            break
        client = found
    return client


def _x_forwarded_for(entry: str) -> Address | None:
    """An address as proxies write it: bare, with a port (Azure), in brackets."""
    host, port = entry, ""
    if entry.startswith("["):
        host, bracket, rest = entry[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
    elif entry.count(":") == 1:
        host, _, port = entry.partition(":")
    try:
        address = plain(ipaddress.ip_address(host))
    except ValueError:
        return None
    if "%" in address:
        return None
    good = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
    return address, int(port) if good else 0


def _forwarded(element: str) -> Address | None:
    """RFC 7239 section 4: pairs divided by semicolons; the one called "for" names the client. Its quoted strings hold
    no comma and no semicolon where they name an address, so nothing here needs to know where quotes are."""
    for pair in element.split(";"):
        name, _, value = pair.strip(" \t").partition("=")
        if name.lower() == "for":
            if len(value) >= 2 and value[0] == value[-1] == '"':
                value = value[1:-1]
            elif ":" in value:
                # Section 4: a colon is not of a token.
                return None
            return _x_forwarded_for(value)
    return None
