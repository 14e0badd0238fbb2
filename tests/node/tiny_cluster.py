"""A cluster's keys and certificates for tests of link, monitor and enrolment, and blocking ends to talk with them."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import socket
import ssl
import time
import uuid as uuids
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tinyport.core.certificate import certificate_line, public_line
from tinyport.core.issue import issue_host_certificate
from tinyport.core.policy import sign_document
from tinyport.core.signatures import Ed25519Key
from tinyport.core.succession import key_blob, make_succession
from tinyport.host import identity_file
from tinyport.host.files import private_folder
from tinyport.host.tls import server_context
from tinyport.link import websocket as ws
from tinyport.link.httphead import parse_head

SLOWNESS = float(os.environ.get("TINYPORT_TEST_SLOWNESS", "1"))
#: how long a test waits for something that must happen
LIMIT = 20 * SLOWNESS
NAME = "farm"
DAY = 86400


class Cluster:
    """Every authority of a cluster of one proxy."""

    def __init__(self) -> None:
        self.host_ca = Ed25519Key.generate()
        self.user_ca = Ed25519Key.generate()
        self.policy_key = Ed25519Key.generate()
        self._tls_key = Ed25519PrivateKey.generate()
        self.tls_ca = self._x509("ca", self._tls_key.public_key(), None, False)
        self.proxy_uuid = str(uuids.uuid4())

    @property
    def pin(self) -> str:
        der = self._tls_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"sha256:{hashlib.sha256(der).hexdigest()}"

    def succeeded_by(self, new: Cluster) -> dict[str, str]:
        """The statement that the other's TLS CA comes after this one's, signed by this one's keys."""
        point = self._tls_key.public_key().public_bytes_raw()
        return make_succession(self.policy_key, NAME, key_blob(point), new.tls_ca, time.time(), self._tls_key.sign)

    def _x509(self, name: str, key: Ed25519PublicKey, uri: str | None, server: bool) -> str:
        now = datetime.datetime.fromtimestamp(int(time.time()), datetime.timezone.utc)
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=uri is None, path_length=None), critical=True)
        )
        if uri is not None:
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
            builder = builder.add_extension(names, critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=True)
        return builder.sign(self._tls_key, None).public_bytes(Encoding.PEM).decode()

    def certify(self, kind: str, id: str, key: Ed25519PublicKey) -> str:
        """A leaf certificate for somebody's key."""
        return self._x509(kind, key, f"tinyport://{NAME}/{kind}/{id}", kind in ("proxy", "auth"))

    def leaf(self, kind: str, id: str) -> tuple[str, str]:
        """Certificate and key (PEM)."""
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return self.certify(kind, id, key.public_key()), pem

    def server(self, kind: str, alpn: str, *, id: str | None = None, client: str = "required") -> ssl.SSLContext:
        certificate, key = self.leaf(kind, id or (self.proxy_uuid if kind == "proxy" else str(uuids.uuid4())))
        return server_context([self.tls_ca], alpn=[alpn], cert_pem=certificate, key_pem=key, client=client)

    def host_certificate(self, public_key: bytes, uuid: str, name: str, *, role: str = "node", **changes: Any) -> str:
        values = {"serial": 1, "nonce": os.urandom(32), "cluster": NAME, "generation": 1, "now": int(time.time())}
        blob = issue_host_certificate(
            self.host_ca, public_key=public_key, uuid=uuid, name=name, role=role, ttl=7 * DAY, **{**values, **changes}
        )
        return certificate_line(blob)

    def policy(self, serial: int = 1, **changes: object) -> dict[str, str]:
        body: dict[str, object] = {
            "kind": "policy",
            "cluster": NAME,
            "epoch": 1,
            "serial": serial,
            "issued_at": time.time(),
            "user_cas": [public_line(self.user_ca.public_blob)],
            "host_cas": [public_line(self.host_ca.public_blob)],
            "tls_cas": [self.tls_ca],
            "roles": {},
            "locks": [],
            "refuse_before": {},
            "config": {},
            "proxies": [],
        }
        return sign_document(self.policy_key, {**body, **changes})

    def node_document(self, uuid: str, name: str, serial: int = 1, **changes: object) -> dict[str, str]:
        body = {"kind": "node", "cluster": NAME, "epoch": 1, "serial": serial, "uuid": uuid, "name": name}
        return sign_document(self.policy_key, {**body, "labels": {}, "state": "active", **changes})

    def identity(self, server: tuple[str, int], *, name: str = "shed", kind: str = "node") -> dict[str, object]:
        """What identity.json of somebody who has joined holds."""
        uuid, key, now = str(uuids.uuid4()), Ed25519Key.generate(), int(time.time())
        certificate, tls_key = self.leaf(kind, uuid)
        return {
            "version": identity_file.VERSION,
            "kind": kind,
            "cluster": NAME,
            "uuid": uuid,
            "name": name,
            "generation": 1,
            "ssh_key": key.to_openssh().decode(),
            "ssh_certificate": self.host_certificate(key.public_blob, uuid, name, role=kind),
            "tls_key": tls_key,
            "tls_certificate": certificate,
            "tls_cas": [self.tls_ca],
            "policy_key": public_line(self.policy_key.public_blob),
            "server": f"{server[0]}:{server[1]}",
            "proxies": [],
            "ca_pins": [self.pin],
            "valid_after": now - 60,
            "valid_before": now + 7 * DAY,
        }

    def joined(self, data_dir: Path, server: tuple[str, int]) -> dict[str, object]:
        """Make ``data_dir`` that of a node that has joined."""
        folder = data_dir / "node"
        private_folder(folder)
        identity = self.identity(server)
        identity_file.save(folder / "identity.json", identity)
        (folder / "policy.json").write_text(json.dumps(self.policy()))
        (folder / "node.json").write_text(json.dumps(self.node_document(str(identity["uuid"]), "shed")))
        return identity


class TunnelEnd:
    """The proxy's end of a tunnel, on a blocking socket."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        listener.settimeout(LIMIT)
        self.stream = self._secured(listener, context)
        self._decoder = ws.Decoder("server", 64 * 1024)
        self._messages: list[tuple[int, bytes]] = []

    @classmethod
    def over(cls, stream: ssl.SSLSocket) -> TunnelEnd:
        """On a connection whose TLS is done."""
        made = cls.__new__(cls)
        made.stream, made._decoder, made._messages = stream, ws.Decoder("server", 64 * 1024), []
        return made

    @staticmethod
    def _secured(listener: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        while True:
            plain, _ = listener.accept()
            plain.settimeout(LIMIT)
            try:
                return context.wrap_socket(plain, server_side=True)
            except ssl.SSLError as error:
                plain.close()
                # A node of another test's cluster of this name, whose proxy had this port before.
                if error.reason != "TLSV1_ALERT_DECRYPT_ERROR":
                    raise

    def upgrade(self) -> None:
        data = b""
        while (head := parse_head(data)) is None:
            piece = self.stream.recv(4096)
            assert piece, "link ended the connection"
            data += piece
        self.stream.sendall(ws.server_handshake(ws.check_request(head, "/v1/tunnel")))

    def greet(self, cluster: Cluster, *, proxy: object = "", **fields: object) -> dict[str, Any]:
        """Upgrade, hear the hello, say welcome; returns the hello. ``proxy``: its UUID, if not the cluster's first."""
        self.upgrade()
        hello = self.hear("hello")
        self.say({"op": "welcome", "beat": 50.0, "proxy": proxy or cluster.proxy_uuid, **fields})
        return hello

    def say(self, message: Mapping[str, object]) -> None:
        self.frame(ws.OP_TEXT, json.dumps(message).encode())

    def frame(self, opcode: int, payload: bytes = b"") -> None:
        self.stream.sendall(ws.encode(opcode, payload))

    def next(self) -> tuple[int, bytes] | None:
        """The next message; None at the end."""
        while not self._messages:
            try:
                data = self.stream.recv(65536)
            except (ConnectionError, ssl.SSLError):
                return None
            if not data:
                return None
            self._messages += self._decoder.feed(data)
        return self._messages.pop(0)

    def hear(self, op: str) -> dict[str, Any]:
        """The next JSON message of this kind."""
        while True:
            found = self.next()
            assert found is not None, f"the tunnel ended before {op}"
            if found[0] == ws.OP_TEXT:
                message: dict[str, Any] = json.loads(found[1])
                if message["op"] == op:
                    return message

    def ended(self) -> bool:
        """Read until the other end closes."""
        while self.next() is not None:
            pass
        return True

    def close(self) -> None:
        self.stream.close()
