"""A fleet in auth's store without ten thousand joins: registered and certified by auth's code while auth is down."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tinyport.admin.quickstart import CLUSTER_NAME
from tinyport.auth.service import Service, open_service
from tinyport.auth.settings import AuthSettings
from tinyport.auth.store_nodes import NodeRow
from tinyport.auth.tls_certificates import Request
from tinyport.core.signatures import Ed25519Key

SITES = 100
_PER_TRANSACTION = 500


def make(data: Path, file: Path, first: int, last: int) -> None:
    """Add nodes ``first`` to ``last`` to the store of the quickstart in ``data`` and to ``file``, which
    ``simulated_nodes`` reads."""
    asyncio.run(_make(data, file, first, last))


async def _make(data: Path, file: Path, first: int, last: int) -> None:
    service = await open_service(AuthSettings(data_dir=data, cluster_name=CLUSTER_NAME))
    try:
        nodes = json.loads(file.read_text())["nodes"] if file.exists() else []
        for begin in range(first, last, _PER_TRANSACTION):
            nodes += await _some(service, range(begin, min(begin + _PER_TRANSACTION, last)))
        told = {"cluster": service.cluster, "tls_cas": service.authority.tls_cas, "nodes": nodes}
    finally:
        await service.close()
    file.touch(0o600)
    file.write_text(json.dumps(told))


async def _some(service: Service, numbers: range) -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    # One key for all: what it costs to make one is the device's affair, and here nothing depends on it.
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    async with service.store.write() as tables:
        for number in numbers:
            labels = {"site": f"site{number % SITES}", "model": "pi4"}
            ssh_key = Ed25519Key.generate().public_blob
            node = NodeRow(
                str(uuid.uuid4()), "node", f"shelf-{number}", ssh_key, "active", labels, "bench", service.now()
            )
            await tables.nodes.add(node)
            pair = await service.authority.issue_host(tables, node, Request(key.public_key(), b""))
            await service.issuer.refresh_node(tables, node.uuid)
            made.append({"number": number, "uuid": node.uuid, "certificate": pair.tls_certificate, "key": pem})
    return made
