"""Trusted clusters as a resource: ``tctl get``, ``create`` and ``rm`` (docs/trusted-clusters.md)."""

from __future__ import annotations

from collections.abc import Mapping

from tinyport.auth.refusals import not_found
from tinyport.auth.store import Tables, WriteTables
from tinyport.auth.store_trusted import TrustedRow
from tinyport.auth.trusting import check, record
from tinyport.auth.web import Answer, Call
from tinyport.core.errors import PeerError
from tinyport.core.trust import TrustedCluster, parse_trusted_cluster

Document = Mapping[str, object]


def _document(row: TrustedRow) -> Document:
    return {"kind": "trusted_cluster", **row.cluster.document}


async def read_all(call: Call, tables: Tables) -> list[Document]:
    return [_document(row) for row in await tables.trusted.all()]


async def put(call: Call, tables: WriteTables, name: str, held: Document | None) -> Document:
    """Trust, or trust otherwise. What the new map or key does not allow ends at once, everywhere."""
    given = {key: value for key, value in call.fields.body.items() if key != "kind"}
    cluster = parse_trusted_cluster({**given, "name": name})
    await _check_not_of_the_file(tables, name)
    service = call.service
    await check(tables, service.authority, cluster)
    await tables.trusted.put(TrustedRow(cluster, from_file=False))
    await service.issuer.refresh(tables)
    await record(service.audit, tables, "create" if held is None else "update", cluster, call.caller.actor)
    return _document(TrustedRow(cluster, from_file=False))


async def remove(call: Call, tables: WriteTables, name: str) -> None:
    """The policy is without it within this transaction, so sessions of its users end when nodes hear that."""
    await _check_not_of_the_file(tables, name)
    if not await tables.trusted.delete(name):
        raise not_found("trusted cluster", name)
    await call.service.issuer.refresh(tables)
    await call.service.audit.record(tables, "trusted_cluster.delete", cluster_name=name, by=call.caller.actor)


async def _check_not_of_the_file(tables: Tables, name: str) -> None:
    if any(row.from_file and row.cluster.name == name for row in await tables.trusted.all()):
        raise PeerError(
            f"{name} is trusted by auth's configuration file",
            hint="change [[trusted_clusters]] there and restart auth",
            code="in_use",
        )


async def clusters_to_go_to(call: Call) -> Answer:
    """``GET /v1/clusters``, for all our people: where else they may try, and how to know that it is there. Whether they
    get in is for the other cluster to say."""
    service = call.service
    found = [row.cluster for row in await service.store.read.trusted.all()]
    return {
        "clusters": [
            {
                "name": cluster.name,
                "host_ca": cluster.document["host_ca"],
                **({"public_addr": cluster.public_addr} if cluster.public_addr else {"online": _online(call, cluster)}),
            }
            for cluster in found
            if cluster.enabled and cluster.host_cas
        ]
    }


def _online(call: Call, cluster: TrustedCluster) -> bool:
    return call.service.presence.cluster_online(cluster.name, call.service.settings.monotonic())
