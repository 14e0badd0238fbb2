"""Whose request it is, behind load balancers that speak HTTP (docs/load-balancers.md)."""

from __future__ import annotations

from collections.abc import Callable

from tinyport.core.forwarded import client_of
from tinyport.proxy.settings import Address, ProxySettings


def forwarded_client(settings: ProxySettings, peer: Address, field: Callable[[str], str | None]) -> Address:
    """The client of a request whose connection comes from ``peer``. ``field`` gives a header field by its lower-case
    name, its lines joined by commas."""
    if not settings.forwarded_from:
        return peer
    value = field(settings.forwarded_header.lower())
    return peer if value is None else client_of(peer, settings.forwarded_header, value, settings.forwarded_from)
