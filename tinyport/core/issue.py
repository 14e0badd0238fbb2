"""Making certificates: what auth signs, laid out in one place. See docs/protocol/certificate.md."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from tinyport.core import certificate as c
from tinyport.core.errors import OperatorError
from tinyport.core.signatures import Ed25519Key
from tinyport.core.sshwire import string

# Clocks of clients and devices differ; a certificate that begins a minute early is accepted by those that are behind.
BACKDATE = 60

#: permit → extension of PROTOCOL.certkeys that OpenSSH, too, understands
PERMIT_EXTENSIONS = {
    "pty": "permit-pty",
    "port_forwarding": "permit-port-forwarding",
    "agent": "permit-agent-forwarding",
    "x11": "permit-X11-forwarding",
}


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sign(ca: Ed25519Key, tbs: bytes) -> bytes:
    """What is to be signed, and the CA's signature after it: a certificate's blob."""
    return tbs + string(ca.sign(tbs))


def issue_user_certificate(
    ca: Ed25519Key,
    *,
    public_key: bytes,
    serial: int,
    nonce: bytes,
    cluster: str,
    user: str,
    logins: Sequence[str],
    roles: Sequence[str],
    traits: Mapping[str, Sequence[str]],
    permits: Collection[str],
    now: int,
    ttl: int,
    critical_options: Mapping[str, str] | None = None,
    second_factor: Mapping[str, object] | None = None,
    device: str = "",
) -> bytes:
    """A user certificate blob.

    ``public_key``: plain SSH key blob of the user; ``nonce``: 32 random bytes; ``now`` and ``ttl``: seconds.
    ``second_factor``: {"nodes": [UUIDs], "login_ends": Unix seconds}, where a code was shown for sessions there.
    ``device``: fingerprint of the key that the login was made for, when it is another one.
    OperatorError when there is no login: OpenSSH and tinyport refuse such a certificate, asyncssh would let it in
    anywhere.
    """
    if not logins:
        raise OperatorError(
            f"user {user} has no login on any machine",
            hint="give the user logins with tctl users update",
            code="denied",
        )
    if ttl <= 0:
        raise OperatorError("a certificate needs a life of at least a second")
    extensions: dict[str, str | None] = {
        c.EXT_CLUSTER: cluster,
        c.EXT_USER: user,
        c.EXT_ROLES: _json(list(roles)),
        c.EXT_TRAITS: _json({name: list(values) for name, values in traits.items()}),
        c.EXT_ROUTE: cluster,
        c.EXT_ISSUED_AT: str(now),
    }
    if second_factor is not None:
        extensions[c.EXT_SECOND_FACTOR] = _json(dict(second_factor))
    if device:
        extensions[c.EXT_DEVICE] = device
    for permit in permits:
        if permit in PERMIT_EXTENSIONS:
            extensions[PERMIT_EXTENSIONS[permit]] = None
    return sign(
        ca,
        c.to_be_signed(
            public_key=public_key,
            nonce=nonce,
            serial=serial,
            cert_type=c.USER,
            key_id=user,
            principals=list(logins),
            valid_after=max(0, now - BACKDATE),
            valid_before=now + ttl,
            critical_options=dict(critical_options or {}),
            extensions=extensions,
            ca_key=ca.public_blob,
        ),
    )


def host_principals(name: str, uuid: str, cluster: str) -> list[str]:
    """Exactly the names under which a node may be reached; never what it claims."""
    return [name, f"{name}.{cluster}", uuid, f"{uuid}.{cluster}"]


def issue_host_certificate(
    ca: Ed25519Key,
    *,
    public_key: bytes,
    serial: int,
    nonce: bytes,
    cluster: str,
    uuid: str,
    name: str,
    role: str,
    generation: int,
    now: int,
    ttl: int,
    extra_principals: Sequence[str] = (),
) -> bytes:
    """A host certificate blob for a node or proxy. ``extra_principals``: a proxy's public host names."""
    if not name or not uuid:
        raise OperatorError("a host certificate needs a name and a UUID")
    principals = [*host_principals(name, uuid, cluster), *extra_principals]
    return sign(
        ca,
        c.to_be_signed(
            public_key=public_key,
            nonce=nonce,
            serial=serial,
            cert_type=c.HOST,
            key_id=f"{name}.{cluster}",
            principals=list(dict.fromkeys(principals)),
            valid_after=max(0, now - BACKDATE),
            valid_before=now + ttl,
            critical_options={},
            extensions={
                c.EXT_CLUSTER: cluster,
                c.EXT_ROLE: role,
                c.EXT_HOST_UUID: uuid,
                c.EXT_NODENAME: name,
                c.EXT_GENERATION: str(generation),
            },
            ca_key=ca.public_blob,
        ),
    )
