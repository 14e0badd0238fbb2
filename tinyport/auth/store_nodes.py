"""Rows about nodes and proxies: what auth gave them, and what was last heard of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinyport.auth.store_rows import Rows, pack, unpack


@dataclass(frozen=True)
class NodeRow:
    """A node (or proxy).

    ``labels`` are the server's, ``declared_labels`` the node's own words. ``generation`` is the highest that was used,
    ``issued_generation`` the highest that was issued. ``addresses`` of a proxy are its public ones.
    """

    uuid: str
    kind: str
    name: str
    ssh_key: bytes
    state: str
    labels: Mapping[str, str]
    token: str
    created: float
    generation: int = 0
    issued_generation: int = 0
    last_seen: float = 0.0
    addresses: tuple[str, ...] = ()
    declared_labels: Mapping[str, str] = field(default_factory=dict)
    peer: str = ""
    version: str = ""
    document_serial: int = 0
    content: str = ""
    #: certificates that began before (Unix seconds) are another device's, whose place this one took
    since: float = 0.0
    #: the board's, as the device said when it joined
    serial: str = ""
    #: of a pending one: UUID of the node that had its serial number before
    twin: str = ""


@dataclass(frozen=True)
class Seen:
    """What a proxy heard of a node; what it did not say is None and stays as it was."""

    uuid: str
    last_seen: float
    online: bool
    addresses: tuple[str, ...] | None = None
    declared_labels: Mapping[str, str] | None = None
    peer: str | None = None
    version: str | None = None


# SQLite's own limit was 999 values in one statement until 3.32.
_AT_ONCE = 500

_COLUMNS = (
    "uuid, kind, name, ssh_key, state, labels, token, created, generation, issued_generation, last_seen, addresses, "
    "declared_labels, peer, version, document_serial, content, since, serial, twin"
)


class NodeRows:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def get(self, uuid: str) -> NodeRow | None:
        return await self._one("uuid = ?", uuid)

    async def by_name(self, name: str) -> NodeRow | None:
        return await self._one("name = ?", name)

    async def by_key(self, ssh_key: bytes) -> NodeRow | None:
        return await self._one("ssh_key = ?", ssh_key)

    async def by_serial(self, serial: str, token: str = "") -> list[NodeRow]:
        """Those that said this serial number when they joined: their word, and machines that were copied share one.
        Two at most, who came by ``token`` first, and none that waits because it said another's.
        """
        order = "ORDER BY token = ? DESC LIMIT 2"
        query = f"SELECT {_COLUMNS} FROM nodes WHERE serial = ? AND twin = '' {order}"  # noqa: S608
        rows = await self._rows.all(query, serial, token)
        return [_node(row) for row in rows]

    async def all(self, kind: str) -> list[NodeRow]:
        rows = await self._rows.all(f"SELECT {_COLUMNS} FROM nodes WHERE kind = ? ORDER BY name", kind)  # noqa: S608
        # Labels and addresses are a few texts that many nodes have: decoding each once is half the time of a list.
        known: dict[str, Any] = {}
        return [_node(row, known) for row in rows]

    async def names(self, uuids: Iterable[str]) -> dict[str, str]:
        """UUID → name of those among ``uuids`` that are nodes."""
        wanted, found = list(uuids), dict[str, str]()
        for at in range(0, len(wanted), _AT_ONCE):
            some = wanted[at : at + _AT_ONCE]
            marks = ", ".join("?" * len(some))
            query = f"SELECT uuid, name FROM nodes WHERE kind = 'node' AND uuid IN ({marks})"  # noqa: S608
            found.update((row["uuid"], row["name"]) for row in await self._rows.all(query, *some))
        return found

    async def _one(self, where: str, value: object) -> NodeRow | None:
        row = await self._rows.one(f"SELECT {_COLUMNS} FROM nodes WHERE {where}", value)  # noqa: S608
        return None if row is None else _node(row)

    async def add(self, node: NodeRow) -> None:
        await self._rows.run(
            "INSERT INTO nodes (uuid, kind, name, ssh_key, state, labels, token, created, addresses, version, serial, "
            "twin) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            node.uuid,
            node.kind,
            node.name,
            node.ssh_key,
            node.state,
            pack(dict(node.labels)),
            node.token,
            node.created,
            pack(list(node.addresses)),
            node.version,
            node.serial,
            node.twin,
        )

    async def set_generations(self, uuid: str, generation: int, issued: int) -> None:
        await self._rows.run(
            "UPDATE nodes SET generation = ?, issued_generation = ? WHERE uuid = ?", generation, issued, uuid
        )

    async def take_over(self, uuid: str, ssh_key: bytes, token: str, serial: str) -> None:
        """Another device is this node from now on."""
        await self._rows.run(
            "UPDATE nodes SET ssh_key = ?, token = ?, generation = issued_generation, instances = '[]', "
            "state = CASE state WHEN 'quarantined' THEN 'active' ELSE state END, "
            "serial = CASE ? WHEN '' THEN serial ELSE ? END WHERE uuid = ?",
            ssh_key,
            token,
            serial,
            serial,
            uuid,
        )

    async def instances(self, uuid: str) -> list[tuple[str, float]]:
        """Its last processes: (instance, when it was first heard), the oldest first (core.instances)."""
        row = await self._rows.one("SELECT instances FROM nodes WHERE uuid = ?", uuid)
        return [] if row is None else [(str(one), float(when)) for one, when in unpack(row["instances"])]

    async def set_instances(self, uuid: str, instances: Iterable[tuple[str, float]]) -> None:
        await self._rows.run(
            "UPDATE nodes SET instances = ? WHERE uuid = ?", pack([list(one) for one in instances]), uuid
        )

    async def set_since(self, uuid: str, since: float) -> None:
        await self._rows.run("UPDATE nodes SET since = ? WHERE uuid = ?", since, uuid)

    async def set_state(self, uuid: str, state: str) -> None:
        await self._rows.run("UPDATE nodes SET state = ? WHERE uuid = ?", state, uuid)

    async def set_name(self, uuid: str, name: str) -> None:
        await self._rows.run("UPDATE nodes SET name = ? WHERE uuid = ?", name, uuid)

    async def set_labels(self, uuid: str, labels: Mapping[str, str]) -> None:
        await self._rows.run("UPDATE nodes SET labels = ? WHERE uuid = ?", pack(dict(labels)), uuid)

    async def set_addresses(self, uuid: str, addresses: Sequence[str]) -> None:
        await self._rows.run("UPDATE nodes SET addresses = ? WHERE uuid = ?", pack(list(addresses)), uuid)

    async def seen(self, news: Iterable[Seen]) -> None:
        """Write down what was heard. Rows of nodes that are gone are not made again."""
        await self._rows.many(
            "UPDATE nodes SET last_seen = max(last_seen, ?), online = ?, addresses = coalesce(?, addresses), "
            "declared_labels = coalesce(?, declared_labels), peer = coalesce(?, peer), "
            "version = coalesce(?, version) WHERE uuid = ?",
            [
                (
                    item.last_seen,
                    item.online,
                    None if item.addresses is None else pack(list(item.addresses)),
                    None if item.declared_labels is None else pack(dict(item.declared_labels)),
                    item.peer,
                    item.version,
                    item.uuid,
                )
                for item in news
            ],
        )

    async def none_online(self, heard: float) -> None:
        """Whoever knew which nodes are online has ended: those that were so were seen ``heard`` (Unix seconds) at
        least."""
        await self._rows.run("UPDATE nodes SET last_seen = max(last_seen, ?), online = 0 WHERE online", heard)

    async def delete(self, uuid: str) -> bool:
        return await self._rows.run("DELETE FROM nodes WHERE uuid = ?", uuid) > 0

    # ---------------------------------------------------------------- signed documents

    async def put_document(self, uuid: str, serial: int, content: str, signed: Mapping[str, str]) -> None:
        await self._rows.run(
            "UPDATE nodes SET document_serial = ?, content = ?, signed = ? WHERE uuid = ?",
            serial,
            content,
            pack(dict(signed)),
            uuid,
        )

    async def document(self, uuid: str) -> dict[str, str] | None:
        row = await self._rows.one("SELECT signed FROM nodes WHERE uuid = ? AND signed <> ''", uuid)
        return None if row is None else dict(unpack(row["signed"]))

    async def documents(self, after: str, limit: int) -> list[tuple[str, dict[str, str]]]:
        """(UUID, signed document) of nodes whose UUID sorts after ``after``: a page, so that all need not be held."""
        rows = await self._rows.all(
            "SELECT uuid, signed FROM nodes WHERE uuid > ? AND signed <> '' ORDER BY uuid LIMIT ?", after, limit
        )
        return [(row["uuid"], unpack(row["signed"])) for row in rows]


def _node(row: sqlite3.Row, known: dict[str, Any] | None = None) -> NodeRow:
    """``known``: what texts of earlier rows were decoded to; nobody changes what a row holds."""
    values = dict(row)
    known = {} if known is None else known
    for name in ("labels", "declared_labels", "addresses"):
        text = values[name]
        found = known.get(text)
        if found is None:
            found = known[text] = unpack(text)
        values[name] = tuple(found) if name == "addresses" else found
    return NodeRow(**values)
