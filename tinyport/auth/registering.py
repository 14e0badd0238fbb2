"""Devices that are registered in advance: a token lets them in, the registration says who they are.

With a token whose devices wait for an administrator (``pending``), a registered one need not: somebody has looked at it
before. By its SSH host key, which it proves, or by its board's serial number, which anybody with the token can say; the
first who says it is it. A device that keeps its keys in memory proves its device key instead, at each boot (booting).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from tinyport.auth.service import Service
from tinyport.auth.store import Tables, WriteTables
from tinyport.auth.store_nodes import NodeRow
from tinyport.auth.store_registrations import RegistrationRow
from tinyport.auth.store_tokens import TokenRow
from tinyport.core.certificate import fingerprint, parse_public_line
from tinyport.core.errors import PeerError
from tinyport.core.names import check_label, check_node, printable

MAX_SERIAL = 40
_KEYS = frozenset(("serial", "ssh_key", "name", "labels"))


def parse_registration(item: object, now: float) -> RegistrationRow:
    """``{"serial" or "ssh_key": ..., "name"?: ..., "labels"?: {...}}``. PeerError when it is anything else."""
    if not isinstance(item, Mapping) or not _KEYS.issuperset(item):
        raise PeerError("a device is an object with serial or ssh_key, and name and labels if you like")
    if ("serial" in item) == ("ssh_key" in item):
        raise PeerError("a device has either a serial or an ssh_key")
    if "serial" in item:
        kind, value = "serial", check_serial(item["serial"])
    else:
        line = item["ssh_key"]
        if not isinstance(line, str):
            raise PeerError("ssh_key: a line of a .pub file is needed")
        kind, value = "key", fingerprint(parse_public_line(line))
    labels = item.get("labels") or {}
    if not isinstance(labels, Mapping) or len(labels) > 64:
        raise PeerError("labels: an object of at most 64 is needed")
    name = item.get("name")
    return RegistrationRow(
        id=secrets.token_hex(8),
        kind=kind,
        value=value,
        name="" if name is None else check_node(name),
        labels=dict(check_label(key, text) for key, text in labels.items()),
        created=now,
    )


def check_serial(value: object) -> str:
    """A board's serial number, in lower case. PeerError for what is none."""
    if not isinstance(value, str) or not 4 <= len(value) <= MAX_SERIAL or not value.isprintable() or " " in value:
        raise PeerError(f"serial: 4 to {MAX_SERIAL} characters without spaces are needed")
    return value.lower()


async def register(service: Service, tables: WriteTables, row: RegistrationRow) -> bool:
    """Add one. False when a device has come for it before. PeerError when its name is somebody's."""
    if row.name:
        other = await tables.registrations.named(row.name)
        if other is not None and (other.kind, other.value) != (row.kind, row.value):
            raise PeerError(f"the name {row.name} is registered for {other.kind} {printable(other.value, 60)}")
        mine = await tables.registrations.find(row.kind, row.value)
        if (mine is None or mine.node is None) and await tables.nodes.by_name(row.name) is not None:
            raise PeerError(f"there is a machine called {row.name}", hint="choose another name")
    return await tables.registrations.put(row)


async def recognised(tables: WriteTables, key: bytes, board: str) -> RegistrationRow | None:
    """The registration that waits for this device: by the key that it proves before its serial number."""
    for kind, value in (("key", fingerprint(key)), ("serial", board)):
        found = await tables.registrations.find(kind, value) if value else None
        if found is not None and found.node is None:
            return found
    return None


@dataclass(frozen=True)
class Board:
    """What is known of the board that joins. ``named``: the token names its serial number; ``old``: the node that it
    was before, when an administrator has named it, in the token or in a registration that was used.
    """

    named: bool
    old: NodeRow | None


async def board_of(tables: Tables, token: TokenRow, serial: str) -> Board:
    """``serial`` is a claim, so it counts only where an administrator has named it."""
    named = serial in token.serials
    registered = await tables.registrations.find("serial", serial) if serial else None
    if registered is not None and registered.node is not None:
        return Board(named, await tables.nodes.get(registered.node))
    # Machines that were copied with their machine-id say one number: of these none is known by it.
    said = await tables.nodes.by_serial(serial) if named else []
    return Board(named, said[0] if len(said) == 1 else None)
