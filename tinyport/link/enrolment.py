"""How a node or proxy becomes one: joining with a token, renewing, and coming back after its certificate expired.

Keys are made here and never leave this machine. Nothing secret is sent before the server's TLS CA matched a pin. Runs
in a process of its own, because ``cryptography`` is never given back once it was loaded.

Files, all beside ``identity.json``: ``identity.pending.json`` keeps the keys of a join whose answer has not come, so
that asking again after a lost answer is the same device asking; ``policy.json`` and ``node.json`` are the signed
documents. A node may keep identity and keys in a memory file instead (``identity_file.Kept``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyport.core import tokens
from tinyport.core.certificate import public_line
from tinyport.core.errors import AccessDenied, OperatorError, PeerError
from tinyport.core.names import parse_address
from tinyport.core.signatures import Ed25519Key
from tinyport.core.version import VERSION
from tinyport.host import identity_before, identity_file
from tinyport.host.files import private_folder
from tinyport.host.identity_file import Kept
from tinyport.host.logging_line import Log
from tinyport.link.api import AuthClient, fetch_hello, pin_of
from tinyport.link.device_key import DeviceKey
from tinyport.link.identity_answer import (
    TlsKey,
    checked_identity,
    csr_pem,
    keep_documents,
    mention_skew,
    newer_documents,
    number_of,
    proof,
    text_of,
    texts_of,
)
from tinyport.link.known_auth import believed, meet_again, vouched_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cryptography.x509 import CertificateSigningRequest

JOIN_PREFIX = b"tinyport-join-v1\0"
RETURN_PREFIX = b"tinyport-return-v1\0"
DEVICE_PREFIX = b"tinyport-device-v1\0"
MAX_ANSWER = 8 * 1024 * 1024


@dataclass(frozen=True)
class Applicant:
    """Who wants in. ``kind``: "node" or "proxy"; ``addresses``: a proxy's public ones; ``serial``: the board's, for a
    token's name template; ``device``: the device key of a node that keeps its own in memory."""

    kind: str
    nodename: str
    addresses: Sequence[str] = ()
    serial: str = ""
    device: DeviceKey | None = None


def join(
    server: tuple[str, int],
    token: str,
    ca_pins: Sequence[str],
    insecure: bool,
    kind: str,
    nodename: str,
    addresses: Sequence[str],
    identity_path: Path | Kept,
    *,
    serial: str = "",
    device: DeviceKey | None = None,
    log: Log | None = None,
) -> dict[str, object]:
    """Join a cluster: prove a token, get certificates, write ``identity.json`` and the signed documents.

    ``server``: a proxy, or auth. ``insecure``: without a pin, believe whoever answers. The rest: see ``Applicant``.
    Returns the identity as written. Raises OperatorError (pin, files, name), AccessDenied (token), Unavailable (nobody
    answers: try again), PeerError.
    """
    tokens.split(token)
    who = Applicant(kind, nodename, addresses, serial, device)
    body = {"token": token.strip(), "kind": kind, "addresses": list(addresses)}
    return _enter("/v1/join", body, who, server, ca_pins, insecure, identity_file.kept(identity_path), log)


def boot(
    server: tuple[str, int],
    token: str,
    ca_pins: Sequence[str],
    insecure: bool,
    nodename: str,
    place: Kept,
    *,
    serial: str = "",
    device: DeviceKey | None = None,
    log: Log | None = None,
) -> dict[str, object]:
    """Become, with new keys, the node that this device was before it was switched off: by its device key, else by a
    token that names its serial number. A device key that auth does not know comes in with the token, as in ``join``.

    AccessDenied ``in_use`` while another device is that node. Otherwise as ``join``.
    """
    who = Applicant("node", nodename, (), serial, device)
    body = {} if device is not None else {"token": token.strip()}
    try:
        return _enter("/v1/boot", body, who, server, ca_pins, insecure, place, log)
    except AccessDenied as error:
        if device is None or not token or error.code not in ("unknown_device", "removed"):
            raise
        unknown = error
    try:
        return join(
            server, token, ca_pins, insecure, "node", nodename, (), place, serial=serial, device=device, log=log
        )
    except AccessDenied as error:
        # The device key is what lets it in at each boot; that the token is used up is no news then.
        raise AccessDenied(
            f"{unknown.message}, and {error.message}", detail=error.detail, hint=unknown.hint, code=unknown.code
        ) from None


def _enter(
    route: str,
    body: Mapping[str, object],
    who: Applicant,
    server: tuple[str, int],
    ca_pins: Sequence[str],
    insecure: bool,
    place: Kept,
    log: Log | None,
) -> dict[str, object]:
    """Ask for an identity as a stranger, and keep it."""
    if not ca_pins and not insecure:
        raise OperatorError(
            "there is no CA pin: without one, anybody on the way could pose as the cluster and take the token",
            hint='set ca_pin (tctl status prints it), or accept the risk with "--insecure-no-ca-pin"',
            code="ca_pin",
        )
    word = "proxy" if who.kind == "node" else "auth"
    stranger = fetch_hello(server, server=word)
    cas = believed(stranger, ca_pins) if ca_pins else texts_of(stranger, "tls_cas")
    if place.path is not None:
        private_folder(place.folder)
    ssh_key, tls_key = _pending_keys(place)
    with AuthClient(server, tls_cas=cas, server=word) as auth:
        # Once more, from the server that the pin vouches for: the first answer could have been anybody's.
        hello = auth.request("GET", "/v1/hello")
        mention_skew(hello, log)
        request = tls_key.request()
        challenge = text_of(hello, "challenge")
        answer = auth.request(
            "POST",
            route,
            {
                **body,
                "nodename": who.nodename,
                "ssh_public_key": public_line(ssh_key.public_blob),
                "tls_csr": csr_pem(request),
                "challenge": challenge,
                "proof": proof(JOIN_PREFIX, challenge, request, ssh_key),
                "version": VERSION,
                **({"serial": who.serial} if who.serial else {}),
                **_device_proof(who.device, challenge, request, ssh_key),
            },
            limit=MAX_ANSWER,
        )
    pins = [pin.strip().lower() for pin in ca_pins] or [pin_of(pem) for pem in cas]
    identity = checked_identity(
        answer,
        kind=who.kind,
        cluster=text_of(hello, "cluster"),
        ssh_key=ssh_key,
        tls_key=tls_key,
        server=server,
        pins=pins,
    )
    if "token" in body:
        identity[identity_file.CAME_BY] = tokens.split(str(body["token"]))[0]
    documents = newer_documents(place.folder, answer, identity)
    # Whose identity it is before what is known of it: a keeper of the one before leaves the documents alone then.
    place.save(identity)
    # Whose this is was another's, or a compromise is behind it: there is no way back.
    _forget_before(place)
    keep_documents(documents, may_fail=place.path is None, log=log)
    place.forget_pending()
    if log is not None and _is_pending(answer):
        log.warning("an administrator has to let this device in", hint=f"tctl nodes accept {identity['name']}")
    return identity


def _is_pending(answer: Mapping[str, object]) -> bool:
    """By the node's document in a checked answer."""
    signed = answer.get("node")
    text = signed.get("document") if isinstance(signed, dict) else None
    body = json.loads(text) if isinstance(text, str) else None
    return isinstance(body, dict) and body.get("state") == "pending"


def _device_proof(
    device: DeviceKey | None, challenge: str, request: CertificateSigningRequest, ssh_key: Ed25519Key
) -> dict[str, object]:
    """docs/protocol/api.md, join: the device key vouches for both keys, at this challenge."""
    from cryptography.hazmat.primitives.serialization import Encoding

    if device is None:
        return {}
    digest = hashlib.sha256(request.public_bytes(Encoding.DER)).digest()
    digest += hashlib.sha256(ssh_key.public_blob).digest()
    signature = device.sign(DEVICE_PREFIX + challenge.encode() + b"\0" + digest)
    return {
        "device_key": public_line(device.public_blob),
        "device_proof": base64.b64encode(signature).decode("ascii"),
    }


def renew(
    identity_path: Path | Kept, *, server: str = "", log: Log | None = None, instance: str = ""
) -> dict[str, object]:
    """New certificates for an identity that is still good, with a new TLS key. Writes and returns the identity.
    ``server``: where, "" for where the identity was made. ``instance``: the node's process (core.instances).

    AccessDenied with code "expired" when it is too late for that: ``return_home`` then.
    """
    place = identity_file.kept(identity_path)
    held = _held(place, server)
    request_key = TlsKey.generate()
    ssh_key = Ed25519Key.from_openssh(text_of(held, "ssh_key").encode())
    body = {
        "generation": held["generation"],
        "ssh_public_key": public_line(ssh_key.public_blob),
        "tls_csr": csr_pem(request_key.request()),
        **({"instance": instance} if instance else {}),
    }
    cas, hello = meet_again(held, place.folder)
    mention_skew(hello, log)
    if not vouched_for(text_of(held, "tls_certificate"), hello):
        raise AccessDenied("the CA of this machine's certificate was replaced while it was away", code="expired")
    with _known_auth(held, cas, certified=True) as auth:
        answer = auth.request("POST", "/v1/renew", body, limit=MAX_ANSWER)
    return _replace(place, held, answer, ssh_key, request_key, log)


def return_home(
    identity_path: Path | Kept, *, server: str = "", log: Log | None = None, instance: str = ""
) -> dict[str, object]:
    """New certificates for an identity whose own have expired: proves the registered SSH host key."""
    place = identity_file.kept(identity_path)
    held = _held(place, server)
    request_key = TlsKey.generate()
    ssh_key = Ed25519Key.from_openssh(text_of(held, "ssh_key").encode())
    request = request_key.request()
    cas, hello = meet_again(held, place.folder)
    mention_skew(hello, log)
    with _known_auth(held, cas, certified=False) as auth:
        challenge = text_of(hello, "challenge")
        body = {
            "uuid": held["uuid"],
            "ssh_public_key": public_line(ssh_key.public_blob),
            "tls_csr": csr_pem(request),
            "challenge": challenge,
            "proof": proof(RETURN_PREFIX, challenge, request, ssh_key),
            **({"instance": instance, "generation": held["generation"]} if instance else {}),
        }
        answer = auth.request("POST", "/v1/return", body, limit=MAX_ANSWER)
    return _replace(place, held, answer, ssh_key, request_key, log)


def renew_or_return(
    identity_path: Path | Kept,
    *,
    server: str = "",
    log: Log | None = None,
    instance: str = "",
    device: DeviceKey | None = None,
) -> dict[str, object]:
    """Renew, or return when auth says that the certificate has expired. A copy of another device joins as itself when
    auth gives it a token for that."""
    try:
        try:
            return renew(identity_path, server=server, log=log, instance=instance)
        except AccessDenied as error:
            if error.code not in ("expired", "login_required"):
                raise
        return return_home(identity_path, server=server, log=log, instance=instance)
    except AccessDenied as error:
        token = error.extra.get("token")
        if error.code != "split" or not isinstance(token, str):
            raise
        place = identity_file.kept(identity_path)
        return _become_another(place, _held(place, server), token, device, log)


def put_out(place: Kept, token: str) -> bool:
    """There is another token in the configuration than the one that this machine came by. Does auth say that it has
    been removed, or its place taken? Then it may join by that token. If not, the token is of no interest any more.

    Only asked: whoever renewed here, and were a copy of another device, would push that one aside.
    """
    held = place.load()
    cas, hello = meet_again(held, place.folder)
    if not vouched_for(text_of(held, "tls_certificate"), hello):
        # Nobody takes it any more, were it to say that we are out: the key says it, as it does at each such start.
        return _does_not_return(place, token)
    try:
        with _known_auth(held, cas, certified=True) as auth:
            auth.request("GET", "/v1/policy", limit=MAX_ANSWER)
    except AccessDenied as error:
        if error.code in ("removed", "replaced"):
            return True
        raise
    place.save({**held, identity_file.CAME_BY: tokens.split(token)[0]})
    return False


def _does_not_return(place: Kept, token: str) -> bool:
    """Is the key that this machine was known by nobody's any more? It is back when not; as a process that nobody has
    seen, so that it waits for who is connected as this node."""
    try:
        back = return_home(place, instance=secrets.token_hex(16))
    except AccessDenied as error:
        if error.code == AccessDenied.default_code:
            return True
        raise
    place.save({**back, identity_file.CAME_BY: tokens.split(token)[0]})
    return False


def _become_another(
    place: Kept, held: Mapping[str, object], token: str, device: DeviceKey | None, log: Log | None
) -> dict[str, object]:
    """Join with a key of its own, and forget whose identity this device had: its file is replaced by the new one."""
    return join(
        parse_address(text_of(held, "server")),
        token,
        texts_of(held, "ca_pins"),
        False,
        text_of(held, "kind"),
        text_of(held, "name"),
        (),
        place,
        device=device,
        log=log,
    )


def _held(place: Kept, server: str) -> dict[str, object]:
    held = place.load()
    if server:
        held["server"] = server
    return held


def _known_auth(held: Mapping[str, object], cas: Sequence[str], *, certified: bool) -> AuthClient:
    kind = held["kind"]
    return AuthClient(
        parse_address(text_of(held, "server")),
        tls_cas=cas,
        cert_pem=text_of(held, "tls_certificate") if certified else None,
        key_pem=text_of(held, "tls_key") if certified else None,
        cluster=text_of(held, "cluster"),
        server="proxy" if kind == "node" else "auth",
    )


def _replace(
    place: Kept,
    held: Mapping[str, object],
    answer: Mapping[str, object],
    ssh_key: Ed25519Key,
    tls_key: TlsKey,
    log: Log | None,
) -> dict[str, object]:
    identity = checked_identity(
        answer,
        kind=text_of(held, "kind"),
        cluster=text_of(held, "cluster"),
        ssh_key=ssh_key,
        tls_key=tls_key,
        server=parse_address(text_of(held, "server")),
        pins=texts_of(held, "ca_pins"),
    )
    if identity["uuid"] != held["uuid"] or identity["policy_key"] != held["policy_key"]:
        # Inside TLS that ends at auth, so it is auth itself that is another one now.
        raise PeerError(
            "auth answered for another device or another cluster of the same name",
            hint="if the cluster was made anew, move the identity away and join again",
        )
    if identity_file.CAME_BY in held:
        identity[identity_file.CAME_BY] = held[identity_file.CAME_BY]
    # A disk that takes nothing keeps neither a lock away nor a certificate.
    keep_documents(newer_documents(place.folder, answer, identity), may_fail=place.memory is not None, log=log)
    if identity["kind"] == "node":
        _put_aside(place, held, number_of(answer, "time"))
    place.save(identity)
    return identity


def _put_aside(place: Kept, held: Mapping[str, object], now: float) -> None:
    """What is replaced is kept until a tunnel stands with the new one (host.identity_before). Beside the file that it
    was in, and nowhere else: what is secret of one in memory the monitor has there."""
    try:
        identity_before.keep(place.folder, held, now, secret=place.path is not None)
    except OSError:
        # Without it there is no way back; that must not keep anybody from going on.
        return


def _forget_before(place: Kept) -> None:
    try:
        identity_before.drop(place.folder)
    except OSError:
        if place.path is not None:
            raise
        # A disk that takes nothing: without what is in memory it is none.
        return


def renew_if_stale(identity_path: Path) -> dict[str, object] | None:
    """Renew an identity whose CA was replaced while this machine was away; None when auth still takes it."""
    held = identity_file.load(identity_path)
    _, hello = meet_again(held, identity_path.parent)
    if vouched_for(text_of(held, "tls_certificate"), hello):
        return None
    return return_home(identity_path)


def _pending_keys(place: Kept) -> tuple[Ed25519Key, TlsKey]:
    """The keys of an earlier try, or new ones that are kept before anybody hears of them."""
    try:
        data = place.pending()
        if data:
            found = json.loads(data)
            return Ed25519Key.from_openssh(found["ssh_key"].encode()), TlsKey.from_pem(found["tls_key"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OperatorError):
        # Damaged: whatever it was, nobody can have joined with it from here any more.
        place.damaged_pending()
    ssh_key, tls_key = Ed25519Key.generate(), TlsKey.generate()
    keys = {"ssh_key": ssh_key.to_openssh().decode("ascii"), "tls_key": tls_key.pem()}
    place.keep_pending(json.dumps(keys).encode())
    return ssh_key, tls_key
