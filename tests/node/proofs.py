"""What an SSH client and server say on the way in, as bytes: for tests that play one that lies."""

from __future__ import annotations

import base64
import os
from typing import Any

from tests.node.session_harness import LOGIN
from tinyport.core.signatures import Ed25519Key
from tinyport.core.sshwire import boolean, string
from tinyport.core.userauth import signed_data

CERT = "ssh-ed25519-cert-v01@openssh.com"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def transcript(version: str, host_key: bytes, **changes: bytes) -> bytes:
    """The preimage of an exchange hash (RFC 4253 section 8) of a server that calls itself ``version``."""
    parts = {
        "client": b"SSH-2.0-x",
        "server": f"SSH-2.0-{version}".encode(),
        "client_kexinit": b"\x14" + os.urandom(20),
        "server_kexinit": b"\x14" + os.urandom(20),
        "host_key": host_key,
        **changes,
    }
    return b"".join(string(part) for part in parts.values()) + string(os.urandom(32))


def request(certificate: bytes, **changes: Any) -> bytes:
    """A signed request for authentication (RFC 4252 section 7), without the session identifier before it."""
    values: dict[str, Any] = {
        "user": LOGIN,
        "service": "ssh-connection",
        "method": "publickey",
        "signed": True,
        "algorithm": CERT,
        "key": certificate,
        **changes,
    }
    return (
        b"\x32"
        + string(values["user"].encode())
        + string(values["service"].encode())
        + string(values["method"].encode())
        + boolean(values["signed"])
        + string(values["algorithm"].encode())
        + string(values["key"])
    )


def proof(session_id: bytes, asked: bytes, key: Ed25519Key, user: str = LOGIN) -> dict[str, object]:
    """The fields of a worker's ``prove``."""
    signature = key.sign(signed_data(session_id, asked))
    return {"user": user, "message": b64(asked), "signature": b64(signature)}
