"""Which clusters may be trusted, and those of the configuration file (docs/trusted-clusters.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinyport.auth.audit import Audit
from tinyport.auth.authority import Authority
from tinyport.auth.policy_issuer import PolicyIssuer
from tinyport.auth.store import Store, Tables, WriteTables
from tinyport.auth.store_trusted import TrustedRow
from tinyport.core.certificate import parse_public_line
from tinyport.core.errors import ConfigError
from tinyport.core.trust import MOST_CLUSTERS, TrustedCluster

if TYPE_CHECKING:
    from tinyport.auth.service import Service


async def check(tables: Tables, authority: Authority, cluster: TrustedCluster) -> None:
    """ConfigError unless the cluster can be told from ours and from every other one by its name and by each key."""
    problems = []
    if cluster.name == authority.cluster:
        problems.append(f"name: {cluster.name} is this cluster's own name; its users could not be told from ours")
    ours = [*authority.user_cas, *authority.host_cas, *await tables.authorities.retired("user", MOST_CLUSTERS)]
    keys = {*cluster.user_cas, *cluster.host_cas}
    if keys & {parse_public_line(line) for line in ours}:
        problems.append("user_ca, host_ca: that is a CA of this cluster; take the other cluster's")
    for row in await tables.trusted.all():
        other = row.cluster
        if other.name != cluster.name and keys & {*other.user_cas, *other.host_cas}:
            problems.append(f"user_ca, host_ca: a key of {other.name}; a cluster is known by its key")
    known = await tables.cluster.roles()
    for mapping in cluster.role_map:
        for role in mapping.local:
            if "$" not in role and role not in known:
                problems.append(f"role_map: there is no role {role} here")
    if problems:
        raise ConfigError(problems)


async def state(service: Service) -> list[dict[str, object]]:
    """For ``tctl status``: each trusted cluster, and whether its tunnel to us (``online``) and ours to it (``dialled``)
    stand; None where none is wanted."""
    presence, now = service.presence, service.settings.monotonic()
    return [
        {
            "name": cluster.name,
            "enabled": cluster.enabled,
            "online": presence.cluster_online(cluster.name, now) if cluster.by_tunnel else None,
            "dialled": presence.partner_up(cluster.name, now) if cluster.enabled and cluster.servers else None,
        }
        for cluster in (row.cluster for row in await service.store.read.trusted.all())
    ]


async def record(audit: Audit, tables: WriteTables, what: str, cluster: TrustedCluster, by: str) -> None:
    await audit.record(
        tables,
        f"trusted_cluster.{what}",
        cluster_name=cluster.name,
        by=by,
        enabled=cluster.enabled,
        keys=cluster.fingerprints,
        role_map=cluster.document["role_map"],
    )


async def follow_file(
    store: Store, wanted: Sequence[TrustedCluster], authority: Authority, issuer: PolicyIssuer, audit: Audit
) -> None:
    """At auth's start: what the file names is trusted as it says, what it does not name any more is not.

    ConfigError when one of them cannot be.
    """
    by = "configuration file"
    async with store.write() as tables:
        held = {row.cluster.name: row for row in await tables.trusted.all()}
        names = {cluster.name for cluster in wanted}
        for name, row in held.items():
            if row.from_file and name not in names:
                await tables.trusted.delete(name)
                await audit.record(tables, "trusted_cluster.delete", cluster_name=name, by=by)
        for cluster in wanted:
            row = TrustedRow(cluster, from_file=True)
            if held.get(cluster.name) == row:
                continue
            await check(tables, authority, cluster)
            await tables.trusted.put(row)
            await record(audit, tables, "update" if cluster.name in held else "create", cluster, by)
        await issuer.refresh(tables)
