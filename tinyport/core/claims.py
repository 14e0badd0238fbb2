"""What a user certificate says in extensions and options of ours, read once; ``core.access`` judges it.

A certificate does not change, so neither does this. What cannot be read is None, which is not the same as absent.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tinyport.core import certificate as c
from tinyport.core.issue import PERMIT_EXTENSIONS

FORCE_COMMAND = "force-command"
SOURCE_ADDRESS = "source-address"
#: critical options that we obey (PROTOCOL.certkeys); any other one is a refusal
_KNOWN_OPTIONS = frozenset((FORCE_COMMAND, SOURCE_ADDRESS))

_TEXT = frozenset((str,))
_NONE: frozenset[str] = frozenset()

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Claims:
    """``issued_at`` in Unix seconds; ``sources``: None for any address, () for none."""

    user: str | None
    cluster: str | None
    route: str | None
    issued_at: int | None
    role_names: tuple[str, ...] | None
    traits: Mapping[str, tuple[str, ...]] | None
    unknown_options: tuple[str, ...]
    sources: tuple[Network, ...] | None
    source_text: str
    force_command: str | None
    #: UUIDs of nodes for which a one-time code was shown when the certificate was made
    second_factor: frozenset[str]
    #: when the login ends for which such a certificate of minutes was made (Unix seconds)
    login_ends: int | None
    certificate: c.Certificate = field(repr=False)

    @cached_property
    def withheld(self) -> frozenset[str]:
        """Permits that PROTOCOL.certkeys has a flag for, which the certificate does not have."""
        has = self.certificate.extensions
        return frozenset(permit for permit, flag in PERMIT_EXTENSIONS.items() if flag not in has)

    @cached_property
    def fingerprint(self) -> str:
        """Of the key that was certified."""
        return c.fingerprint(self.certificate.public_key)

    @cached_property
    def devices(self) -> tuple[str, ...]:
        """The fingerprints by which it may be locked: of this key, and of the one that the login was made for."""
        first = self.certificate.text_extension(c.EXT_DEVICE)
        return (self.fingerprint,) if first is None else (self.fingerprint, first)


def read_claims(cert: c.Certificate) -> Claims:
    """PeerError when an extension or option of ours is malformed."""
    issued = cert.text_extension(c.EXT_ISSUED_AT)
    nodes, login_ends = _second_factor(cert.json_extension(c.EXT_SECOND_FACTOR))
    source_text = cert.text_option(SOURCE_ADDRESS) if cert.critical_options else None
    made = object.__new__(Claims)
    # As a frozen dataclass's own initialiser would, which pays for each field.
    made.__dict__.update(
        user=cert.text_extension(c.EXT_USER),
        cluster=cert.text_extension(c.EXT_CLUSTER),
        route=cert.text_extension(c.EXT_ROUTE),
        issued_at=int(issued[:19]) if issued is not None and issued.isascii() and issued.isdigit() else None,
        role_names=_texts(cert.json_extension(c.EXT_ROLES)),
        traits=_traits(cert.json_extension(c.EXT_TRAITS)),
        unknown_options=tuple([name for name in cert.critical_options if name not in _KNOWN_OPTIONS]),
        sources=None if source_text is None else _networks(source_text),
        source_text=source_text or "",
        force_command=cert.text_option(FORCE_COMMAND) if cert.critical_options else None,
        second_factor=nodes,
        login_ends=login_ends,
        certificate=cert,
    )
    return made


def _texts(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not _TEXT.issuperset(map(type, value)):
        return None
    return tuple(value)


def _traits(value: object) -> Mapping[str, tuple[str, ...]] | None:
    if value is None:
        return {}
    if not isinstance(value, dict):
        return None
    found: dict[str, tuple[str, ...]] = {}
    for name, values in value.items():
        texts = _texts(values)
        if texts is None:
            return None
        found[name] = texts
    return found


def _networks(text: str) -> tuple[Network, ...]:
    """PROTOCOL.certkeys: a comma-separated list of addresses in CIDR form. What cannot be read allows nothing."""
    try:
        return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(","))
    except ValueError:
        return ()


def _second_factor(value: object) -> tuple[frozenset[str], int | None]:
    """Nodes and the login's end. What cannot be read is none."""
    if not isinstance(value, dict):
        return _NONE, None
    nodes, ends = value.get("nodes"), value.get("login_ends")
    return (
        frozenset(node for node in nodes if isinstance(node, str)) if isinstance(nodes, list) else _NONE,
        ends if type(ends) is int else None,
    )
