"""A whole small cluster in memory: its authorities, its people, its machines."""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl
import time
import uuid as uuids
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tinyport.core.certificate import public_line
from tinyport.core.issue import issue_host_certificate, issue_user_certificate
from tinyport.core.policy import sign_document
from tinyport.core.roles import BUILTIN_ROLES
from tinyport.core.signatures import Ed25519Key
from tinyport.host.tls import client_context

Result = TypeVar("Result")

NAME = "farm"
DAY = 86400


def run(main: Coroutine[Any, Any, Result], limit: float = 30.0) -> Result:
    """A test's main coroutine, which must leave nothing running and no future with a forgotten error."""
    complaints: list[Mapping[str, object]] = []

    async def guarded() -> Result:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        result = await asyncio.wait_for(main, limit)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for _ in range(50):
            # What was cancelled a moment ago needs a few turns to end.
            left = [task for task in left if not task.done()]
            if not left:
                break
            await asyncio.sleep(0)
        assert not left, left
        return result

    result = asyncio.run(guarded())
    assert not complaints, complaints
    return result


def pem_of(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class TlsAuthority:
    """A TLS CA."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.pem = self._build("ca", self.key, None, False, DAY)

    def _build(self, name: str, key: Ed25519PrivateKey, uri: str | None, server: bool, life: int) -> str:
        now = datetime.datetime.fromtimestamp(int(time.time()), datetime.timezone.utc)
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(seconds=life))
            .add_extension(x509.BasicConstraints(ca=uri is None, path_length=None), critical=True)
        )
        if uri is not None:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
            ).add_extension(x509.ExtendedKeyUsage(usage), critical=True)
        return builder.sign(self.key, None).public_bytes(Encoding.PEM).decode()

    def leaf(self, kind: str, id: str, cluster: str = NAME, life: int = DAY) -> tuple[str, str]:
        """Certificate and key (PEM)."""
        key = Ed25519PrivateKey.generate()
        uri = f"tinyport://{cluster}/{kind}/{id}"
        return self._build(kind, key, uri, kind in ("proxy", "auth"), life), pem_of(key)


class Cluster:
    """What auth holds, and what it hands out."""

    def __init__(self) -> None:
        self.tls = TlsAuthority()
        self.user_ca = Ed25519Key.generate()
        self.host_ca = Ed25519Key.generate()
        self.policy_key = Ed25519Key.generate()
        self.serial = 0

    def policy(self, *, locks: Sequence[Mapping[str, object]] = (), **changes: object) -> dict[str, str]:
        """The next signed policy."""
        self.serial += 1
        body: dict[str, object] = {
            "kind": "policy",
            "cluster": NAME,
            "epoch": 1,
            "serial": self.serial,
            "issued_at": time.time(),
            "user_cas": [public_line(self.user_ca.public_blob)],
            "host_cas": [public_line(self.host_ca.public_blob)],
            "tls_cas": [self.tls.pem],
            "roles": {
                **BUILTIN_ROLES,
                "berlin": {
                    "name": "berlin",
                    "allow": {"logins": ["{{internal.logins}}"], "node_labels": {"site": ["berlin"]}},
                },
            },
            "locks": list(locks),
            "refuse_before": {},
            "config": {},
            "proxies": [],
        }
        body.update(changes)
        return sign_document(self.policy_key, body)

    def node_document(self, node: NodeFixture, *, serial: int = 1, **changes: object) -> dict[str, str]:
        body: dict[str, object] = {
            "kind": "node",
            "cluster": NAME,
            "epoch": 1,
            "serial": serial,
            "uuid": node.uuid,
            "name": node.name,
            "labels": dict(node.labels),
            "state": "active",
        }
        body.update(changes)
        return sign_document(self.policy_key, body)

    def user(self, name: str = "ada", roles: Sequence[str] = ("access",), **changes: object) -> UserFixture:
        return UserFixture(self, name, roles, **changes)

    def node(self, name: str, **labels: str) -> NodeFixture:
        return NodeFixture(self, name, labels)

    def proxy_identity(self, name: str = "proxy-1", life: int = 7 * DAY) -> dict[str, object]:
        """What identity.json of a joined proxy holds."""
        uuid = str(uuids.uuid4())
        key = Ed25519Key.generate()
        now = int(time.time())
        certificate = issue_host_certificate(
            self.host_ca,
            public_key=key.public_blob,
            serial=1,
            nonce=os.urandom(32),
            cluster=NAME,
            uuid=uuid,
            name=name,
            role="proxy",
            generation=1,
            now=now,
            ttl=life,
            extra_principals=["proxy", f"proxy.{NAME}", "127.0.0.1", "localhost"],
        )
        tls_certificate, tls_key = self.tls.leaf("proxy", uuid)
        return {
            "version": 1,
            "kind": "proxy",
            "cluster": NAME,
            "uuid": uuid,
            "name": name,
            "generation": 1,
            "ssh_key": key.to_openssh().decode(),
            "ssh_certificate": public_line(certificate),
            "tls_key": tls_key,
            "tls_certificate": tls_certificate,
            "tls_cas": [self.tls.pem],
            "policy_key": public_line(self.policy_key.public_blob),
            "server": "127.0.0.1:3025",
            "proxies": [],
            "ca_pins": ["sha256:" + "0" * 64],
            "valid_after": now - 60,
            "valid_before": now + life,
        }


class UserFixture:
    """A user with one fresh login: SSH key and certificate, TLS key and certificate."""

    def __init__(self, cluster: Cluster, name: str, roles: Sequence[str], **changes: Any) -> None:
        self.cluster = cluster
        self.name = name
        self.key = Ed25519Key.generate()
        logins = changes.pop("logins", ["pi", "deploy"])
        tls_life = changes.pop("tls_life", DAY)
        values: dict[str, Any] = {
            "public_key": self.key.public_blob,
            "serial": 7,
            "nonce": os.urandom(32),
            "cluster": NAME,
            "user": name,
            "logins": logins,
            "roles": roles,
            "traits": {"logins": logins},
            "permits": ["pty"],
            "now": int(time.time()),
            "ttl": 3600,
        }
        values.update(changes)
        ca = values.pop("ca", cluster.user_ca)
        self.certificate = issue_user_certificate(ca, **values)
        self.tls_certificate, self.tls_key = cluster.tls.leaf("user", name, life=tls_life)

    def context(self, alpn: str = "tinyport-ssh") -> ssl.SSLContext:
        return client_context([self.cluster.tls.pem], alpn=[alpn], cert_pem=self.tls_certificate, key_pem=self.tls_key)


class NodeFixture:
    """A node's name and identity."""

    def __init__(self, cluster: Cluster, name: str, labels: Mapping[str, str]) -> None:
        self.cluster = cluster
        self.name = name
        self.uuid = str(uuids.uuid4())
        self.labels = labels
        self.tls_certificate, self.tls_key = cluster.tls.leaf("node", self.uuid)

    def context(self, alpn: str = "tinyport-tunnel") -> ssl.SSLContext:
        return client_context([self.cluster.tls.pem], alpn=[alpn], cert_pem=self.tls_certificate, key_pem=self.tls_key)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return Cluster()
