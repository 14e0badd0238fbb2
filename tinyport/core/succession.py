"""The chain by which a machine that was away for the whole of a planned rotation knows the TLS CA of today.

When the servers begin to show certificates of a new TLS CA, auth makes a *succession*: "after this CA comes that one",
signed by the CA that goes and by the policy key. Whoever trusts the old CA follows the first signature: a machine that
only has a pin, a person's login of last year. Who also holds the policy key (nodes and proxies) wants the second, too.
A stolen old CA key alone therefore leads no machine anywhere that it could not be led without the chain.

A compromise leaves no succession, and the ones before are withdrawn. See docs/rotation.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from tinyport.core.certificate import parse_public_line, public_line
from tinyport.core.errors import PeerError
from tinyport.core.policy import open_document, sign_document
from tinyport.core.signatures import Ed25519Key, verify_raw
from tinyport.core.sshwire import Reader, string

KIND = "succession"
#: what the CA that goes signs, before the document's text
CA_PREFIX = b"tinyport-succession-v1\0"
#: rotations that may be followed at once; the oldest are forgotten
MOST = 32
MAX_STATEMENT = 8 * 1024
# RFC 8410 section 4: the SubjectPublicKeyInfo of an Ed25519 key is these bytes and the key.
_SPKI = bytes.fromhex("302a300506032b6570032100")


def pin_of_key(blob: bytes) -> str:
    """The CA pin of a TLS CA whose Ed25519 key has this SSH blob. PeerError for another kind of key."""
    reader = Reader(blob, "public key")
    kind, point = reader.text(64), reader.string(64)
    reader.end()
    if kind != "ssh-ed25519" or len(point) != 32:
        raise PeerError("malformed succession: the TLS CA's key is not Ed25519")
    return "sha256:" + hashlib.sha256(_SPKI + point).hexdigest()


def key_blob(point: bytes) -> bytes:
    """The SSH blob of a bare Ed25519 public key (32 bytes)."""
    return string(b"ssh-ed25519") + string(point)


def make_succession(
    policy_key: Ed25519Key, cluster: str, old_key: bytes, new_pem: str, made: float, sign_raw: Callable[[bytes], bytes]
) -> dict[str, str]:
    """The statement that the CA ``new_pem`` comes after the one whose key has the SSH blob ``old_key``, whose private
    half ``sign_raw`` uses. ``made``: Unix seconds."""
    body = {"kind": KIND, "cluster": cluster, "old": public_line(old_key), "new": new_pem, "made": int(made)}
    signed = sign_document(policy_key, body)
    endorsed = sign_raw(CA_PREFIX + signed["document"].encode())
    return {**signed, "ca_signature": base64.b64encode(endorsed).decode("ascii")}


def follow(
    statements: object,
    trusted: Iterable[str],
    *,
    cluster: str,
    pin_of: Callable[[str], str],
    policy_key: bytes | None = None,
) -> str | None:
    """The TLS CA (PEM) that comes last after the ``trusted`` ones (pins), by the statements of a hello, oldest first.

    None when no statement leads on from there. ``policy_key``: the SSH blob of the policy key, for who holds it: then
    it must have signed, too. ``pin_of``: a certificate (PEM) → its pin, PeerError when it is none. What is malformed or
    signed by somebody else leads nowhere; it raises nothing, for it was said by a server that is not known yet.
    """
    pins = set(trusted)
    found: str | None = None
    for statement in list(statements)[:MOST] if isinstance(statements, list) else ():
        try:
            pin, pem = _read(statement, cluster, policy_key)
            if pin not in pins:
                continue
            reached = pin_of(pem)
        except PeerError:
            continue
        pins.add(reached)
        found = pem
    return found


def _read(statement: object, cluster: str, policy_key: bytes | None) -> tuple[str, str]:
    """A statement, checked → (pin of the CA that goes, the one that comes as PEM). PeerError."""
    text = statement.get("document") if isinstance(statement, dict) else None
    encoded = statement.get("ca_signature") if isinstance(statement, dict) else None
    if not isinstance(text, str) or not isinstance(encoded, str) or len(text) > MAX_STATEMENT or len(encoded) > 128:
        raise PeerError("malformed succession")
    if policy_key is not None:
        open_document(statement, policy_key, KIND, cluster)
    try:
        signature = base64.b64decode(encoded, validate=True)
        body = json.loads(text)
        data = text.encode()
    except (binascii.Error, ValueError, RecursionError):
        raise PeerError("malformed succession") from None
    old, pem = _fields(body, cluster)
    # Parsed before it is checked, as the key to check it with is in it; whether that key counts, its pin decides.
    verify_raw(old, CA_PREFIX + data, signature)
    return pin_of_key(old), pem


def _fields(body: object, cluster: str) -> tuple[bytes, str]:
    if not isinstance(body, dict) or body.get("kind") != KIND or body.get("cluster") != cluster:
        raise PeerError(f"a succession of cluster {cluster} was expected")
    old, new = body.get("old"), body.get("new")
    if not isinstance(old, str) or not isinstance(new, str):
        raise PeerError("malformed succession")
    return parse_public_line(old), new


def newest(statements: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """What a hello carries of all of them."""
    return [dict(statement) for statement in statements[-MOST:]]
