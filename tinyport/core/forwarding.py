"""What a user may forward: the rule in a role's ``port_forwarding``, how several merge, and who is let through.

A pattern is ``HOST:PORT`` or the path of a unix socket, where

- HOST is ``*`` (everything), an address or a network (``10.0.0.0/8``, ``[fd00::]/8``: only addresses given as such),
  or a glob of names (``*.db.internal``: only names). A name is judged as the client wrote it, never as it resolves: a
  pattern of names means no address, and a pattern of addresses no name that happens to resolve to one.
- PORT is a number, a range ``8000-8099``, or ``*``. Port 0 of a listener ("any free one") needs ``*``.
- in a path, ``*`` stands for any characters.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tinyport.core.errors import PeerError
from tinyport.core.labels import glob_matches
from tinyport.core.names import printable

MAX_PATTERNS = 64
MAX_PATTERN = 256
#: everything, of one direction
ALL = ("*",)
_DIRECTIONS = ("local", "remote")


@dataclass(frozen=True)
class ForwardRule:
    """What ``-L`` and ``-D`` may reach (``local``), where ``-R`` may listen (``remote``): patterns. Empty: nothing."""

    local: tuple[str, ...] = ()
    remote: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.local or self.remote)

    def may_connect(self, host: str, port: int) -> bool:
        """May a connection to ``host`` (a name or address, as the client wrote it) be opened?"""
        return any(_matches(pattern, host, port) for pattern in self.local)

    def may_listen(self, host: str, port: int) -> bool:
        """May there be a listener on ``host`` (empty and ``*``: every interface), ``port`` (0: any free one)?"""
        return any(_matches(pattern, host or "*", port) for pattern in self.remote)

    def may_connect_path(self, path: str) -> bool:
        return any(_path_matches(pattern, path) for pattern in self.local)

    def may_listen_path(self, path: str) -> bool:
        return any(_path_matches(pattern, path) for pattern in self.remote)


NOTHING = ForwardRule()
EVERYTHING = ForwardRule(ALL, ALL)


def parse_forwarding(value: object) -> ForwardRule:
    """``true``, ``false``, ``"local"``, ``"remote"`` or ``{local = [...], remote = [...]}`` → a rule. PeerError with
    words for the administrator when it is none of these.
    """
    if isinstance(value, bool):
        return EVERYTHING if value else NOTHING
    if isinstance(value, str) and value in _DIRECTIONS:
        return ForwardRule(**{value: ALL})
    if not isinstance(value, Mapping) or not value or not set(value) <= set(_DIRECTIONS):
        raise PeerError('must be true, false, "local", "remote", or a table with lists "local" and "remote"')
    return ForwardRule(**{direction: _patterns(value[direction], direction) for direction in value})


def _patterns(value: object, direction: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise PeerError(f'{direction}: must be a list of texts like "host:port"')
    if len(value) > MAX_PATTERNS:
        raise PeerError(f"{direction}: at most {MAX_PATTERNS} patterns")
    for pattern in value:
        _check(pattern)
    return tuple(value)


def merge(rules: Iterable[ForwardRule | None]) -> ForwardRule:
    """What several roles come to; None stands for a role that says nothing.

    A role that says nothing gives way to those that do. Of these, ``false`` forbids everything whatever others say;
    otherwise the union counts. Nobody says anything: everything is permitted, as sshd does.
    """
    said = [rule for rule in rules if rule is not None]
    if not said:
        return EVERYTHING
    if not all(said):
        return NOTHING
    return ForwardRule(
        local=tuple(dict.fromkeys(pattern for rule in said for pattern in rule.local)),
        remote=tuple(dict.fromkeys(pattern for rule in said for pattern in rule.remote)),
    )


# ---------------------------------------------------------------------------- patterns


def _check(pattern: str) -> None:
    shown = printable(pattern, 80)
    if not pattern or len(pattern) > MAX_PATTERN or not pattern.isprintable():
        raise PeerError(f"{shown!r} is not a pattern of a forwarding")
    if pattern == "*" or pattern.startswith("/"):
        return
    host, ports = _split(pattern)
    if _ports(ports) is None:
        raise PeerError(f"{shown!r}: write a port, a range like 8000-8099, or * after the last colon")
    if not host:
        raise PeerError(f"{shown!r}: a host is missing; * is every one")
    if host == "*" or _network(host) is not None:
        return
    if any(char in host for char in "[]/: "):
        raise PeerError(f"{shown!r}: write an IPv6 address or network in brackets, [fd00::]/8:443")
    if "*" in host and not host.replace("*", "").strip("0123456789."):
        # It would look like a network and be a glob that 10.evil.example matches.
        raise PeerError(f"{shown!r}: write a network, 10.0.0.0/8:22, to mean addresses")


def _split(pattern: str) -> tuple[str, str]:
    host, _, ports = pattern.rpartition(":")
    return host, ports


def _ports(text: str) -> tuple[int, int] | None:
    """The first and last port; None when it is malformed. ``*`` has 0 in it, too: any free port."""
    if text == "*":
        return 0, 65535
    first, dash, last = text.partition("-")
    if not all(part.isascii() and part.isdigit() and len(part) <= 5 for part in ([first, last] if dash else [first])):
        return None
    low, high = int(first), int(last or first)
    return (low, high) if 1 <= low <= high <= 65535 else None


def _network(host: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if host.startswith("["):
        address, bracket, length = host[1:].partition("]")
        host = f"{address}{length}" if bracket and ":" in address else ""
    elif ":" in host:
        return None
    try:
        return ipaddress.ip_network(host, strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_name(host: str) -> bool:
    """Not one of the spellings of addresses that resolvers take ("127.1", "0x7f000001"): no domain ends in a number."""
    last = host.rstrip(".").rpartition(".")[2].lower()
    return bool(last) and not last.isdigit() and not last.startswith("0x") and ":" not in host and host != "*"


def _matches(pattern: str, host: str, port: int) -> bool:
    if pattern == "*":
        return True
    if pattern.startswith("/"):
        return False
    wanted, ports = _split(pattern)
    bounds = _ports(ports)
    if bounds is None or not bounds[0] <= port <= bounds[1]:
        return False
    if wanted == "*":
        return True
    network, address = _network(wanted), _address(host)
    if network is not None or address is not None:
        return network is not None and address is not None and address.version == network.version and address in network
    return _is_name(host) and glob_matches(wanted.lower().rstrip("."), host.lower().rstrip("."))


def _path_matches(pattern: str, path: str) -> bool:
    if pattern == "*":
        return True
    # Nobody gets around a folder by ".." in what a "*" stands for.
    parts = path.split("/")
    return pattern.startswith("/") and ".." not in parts and "." not in parts and glob_matches(pattern, path)
