"""Signed documents: the policy, and one about each node (docs/protocol/policy.md).

Both are built from the store within the transaction that changed it. Only when what they say has changed do they get
the next serial and a signature, in that same transaction: a serial that anybody has seen is on disk, with its content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tinyport.auth.authority import Authority
from tinyport.auth.store import Store, Tables, WriteTables
from tinyport.auth.store_cluster import PolicyRow
from tinyport.auth.store_rows import pack, unpack
from tinyport.auth.watchers import Watchers
from tinyport.core.cluster_config import ClusterConfig, parse_cluster_config
from tinyport.core.errors import OperatorError
from tinyport.core.policy import NodeDocument, Policy
from tinyport.core.restored_trust import trust_body

FIRST_EPOCH = 1
#: as far as readers count (core.policy)
LAST = 2**63 - 1
#: sessions that one document may end: the oldest first, and when those have ended the next
MOST_ENDED = 256
#: user CAs whose sessions may still run; a session that outlived so many rotations may be ended by the next
MOST_RETIRED = 8


class PolicyIssuer:
    """Made by ``open_issuer``. ``policy`` and ``signed`` are what is on disk, never what is about to be."""

    def __init__(self, authority: Authority, watchers: Watchers, clock: Callable[[], float]) -> None:
        self._authority = authority
        self._watchers = watchers
        self._clock = clock
        self._policy: Policy | None = None
        self._signed: dict[str, str] = {}
        self._trust: dict[str, str] | None = None

    @property
    def policy(self) -> Policy:
        if self._policy is None:
            raise OperatorError("there is no policy yet")
        return self._policy

    @property
    def config(self) -> ClusterConfig:
        """The cluster's configuration."""
        return parse_cluster_config(self.policy.config)

    @property
    def signed(self) -> dict[str, str]:
        """The signed policy document."""
        return self._signed

    @property
    def trust(self) -> dict[str, str] | None:
        """The signed statement by which machines follow a restored auth (core.restored_trust); None when this cluster
        never was: machines are then never behind what its policy names."""
        return self._trust

    async def load(self, store: Store) -> None:
        """Take up what the store has, and bring it up to date (a new version may say more in it)."""
        row = await store.read.cluster.policy()
        if row is not None:
            self._published(row)
        async with store.write() as tables:
            begun = row is not None and row.epoch != await self._epoch(tables)
            await self.refresh(tables)
            if begun:
                # Restored from a backup: what nodes hold may be newer, and they take only what is above it.
                for node in await tables.nodes.all("node"):
                    await self.refresh_node(tables, node.uuid, again=True)

    async def _content(self, tables: Tables) -> dict[str, Any]:
        config: Mapping[str, Any] = (await tables.cluster.config()).get("cluster", {})
        proxies = await tables.nodes.all("proxy")
        claims = [(address, proxy.uuid) for proxy in proxies for address in proxy.addresses]
        # What an administrator says comes first.
        addresses = dict.fromkeys([*config.get("proxy_addresses", ()), *(address for address, _ in claims)])
        # An address that several share, such as a load balancer's, says nothing about who answers.
        owners = {
            address: uuid for address, uuid in claims if {other for at, other in claims if at == address} == {uuid}
        }
        content: dict[str, Any] = {
            "kind": "policy",
            "cluster": self._authority.cluster,
            "user_cas": list(self._authority.user_cas),
            "host_cas": list(self._authority.host_cas),
            "tls_cas": self._authority.tls_cas,
            "roles": await tables.cluster.roles(),
            "locks": [lock.document() for lock in await tables.cluster.locks()],
            "refuse_before": await tables.users.refuse_before(),
            "config": config,
            "proxies": list(addresses),
        }
        if owners:
            content["proxy_uuids"] = owners
        # Left out where there is nothing to say: a cluster that was never rotated has the document that it always had.
        retired = await tables.authorities.retired("user", MOST_RETIRED)
        if retired:
            content["retired_user_cas"] = retired
        trusted = [row.cluster for row in await tables.trusted.all()]
        if any(cluster.enabled for cluster in trusted):
            content["trusted_clusters"] = [cluster.document for cluster in trusted if cluster.enabled]
        if self._authority.renew_before:
            within = float(await tables.cluster.meta("renew_within") or 0)
            content["renew"] = {"before": self._authority.renew_before, "within": within}
        return content

    async def refresh(self, tables: WriteTables) -> None:
        """To be called in every transaction that may have changed roles, locks, users, configuration or proxies."""
        content = await self._content(tables)
        text = pack(content)
        row = await tables.cluster.policy()
        epoch = await self._epoch(tables)
        if row is not None and row.content == text and row.epoch == epoch:
            return
        serial = 1 if row is None or row.epoch != epoch else row.serial + 1
        body = {**content, "epoch": epoch, "serial": serial, "issued_at": int(self._clock())}
        # Whatever we sign we can read ourselves: a document that its readers would refuse never goes out.
        Policy.parse(body)
        new = PolicyRow(epoch, serial, text, self._authority.sign(body))
        await tables.cluster.put_policy(new)
        tables.after_commit(lambda: self._published(new))

    def _published(self, row: PolicyRow) -> None:
        policy = Policy.parse(unpack(row.signed["document"]))
        self._policy, self._signed, self._trust = policy, row.signed, None
        if row.epoch != FIRST_EPOCH:
            body = trust_body(policy.cluster, policy.epoch, policy.serial, policy.tls_cas)
            self._trust = self._authority.sign(body)
        self._watchers.tell("policy", {"policy": row.signed})

    async def refresh_node(self, tables: WriteTables, uuid: str, *, again: bool = False) -> dict[str, str] | None:
        """To be called in every transaction that may have changed a node; its signed document, None for a proxy.
        ``again``: though nothing has changed."""
        node = await tables.nodes.get(uuid)
        if node is None or node.kind != "node":
            return None
        content: dict[str, object] = {
            "kind": "node",
            "cluster": self._authority.cluster,
            "uuid": node.uuid,
            "name": node.name,
            "labels": dict(node.labels),
            "state": node.state,
        }
        if node.since:
            content["since"] = node.since
        copies = await tables.copies.of(uuid)
        if copies:
            # Those that have their own identity by now, too: their last tunnel with this one may still be there.
            content["copies"] = sorted(one.instance for one in copies)
            split = sorted(one.instance for one in copies if one.split is not None and not one.became)
            if split:
                content["split"] = split
        ended = [one for one in await tables.audit.live_sessions(uuid) if one.ended_by is not None]
        if ended:
            content["ended"] = [{"id": one.sid, "by": one.ended_by} for one in ended[:MOST_ENDED]]
        text = pack(content)
        if node.content == text and not again:
            return await tables.nodes.document(uuid)
        serial = node.document_serial + 1
        body = {**content, "epoch": await self._epoch(tables), "serial": serial}
        NodeDocument.parse(body)
        signed = self._authority.sign(body)
        await tables.nodes.put_document(uuid, serial, text, signed)
        message: Mapping[str, object] = {"node": signed}
        tables.after_commit(lambda: self._watchers.tell(uuid, message))
        return signed

    async def _epoch(self, tables: Tables) -> int:
        """A restore raises it (``auth.restore``)."""
        stated = await tables.cluster.meta("epoch")
        return FIRST_EPOCH if stated is None else int(stated)

    async def last_word(self, tables: WriteTables, keys: Mapping[str, list[str]]) -> None:
        """The policy of today with other CAs (``keys``), signed by the policy key of today, above which nothing can
        come: whoever stole that key cannot take it back. For the moment before that key is given up."""
        content = {**await self._content(tables), **keys, "retired_user_cas": []}
        body = {**content, "epoch": LAST, "serial": LAST, "issued_at": int(self._clock())}
        Policy.parse(body)
        signed = self._authority.sign(body)
        tables.after_commit(lambda: self._watchers.tell("last word", {"policy": signed}))

    def removed(self, tables: WriteTables, uuid: str) -> None:
        """To be called in the transaction that removes a node."""
        message: Mapping[str, object] = {"removed": uuid}
        tables.after_commit(lambda: self._watchers.tell(uuid, message))


def node_document(node_content: str, epoch: int, serial: int) -> NodeDocument:
    """The document of a node as the access decision wants it, from the store's columns."""
    return NodeDocument.parse({**unpack(node_content), "epoch": epoch, "serial": serial})
