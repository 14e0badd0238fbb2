"""What the keeper tells: audit events for auth, and the lines that people who know sshd look for in a log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from tinyport.core.access import Grant, claimed_name
from tinyport.core.break_glass import is_break_glass
from tinyport.core.certificate import Certificate, fingerprint, key_type_of, plain_type
from tinyport.core.errors import PeerError, TinyportError
from tinyport.core.events import event
from tinyport.core.names import printable
from tinyport.core.policy import Policy
from tinyport.host.logging_line import Log

MAX_COMMAND = 4096
# Of one event, link and auth take 16 KiB. A letter that is not ASCII, or that nobody should be shown, is up to twelve.
MAX_COMMAND_BYTES = 8192

_SHORT_TYPES = {
    "ssh-ed25519": "ED25519",
    "ssh-rsa": "RSA",
    "ecdsa-sha2-nistp256": "ECDSA",
    "ecdsa-sha2-nistp384": "ECDSA",
    "ecdsa-sha2-nistp521": "ECDSA",
    "sk-ssh-ed25519@openssh.com": "ED25519-SK",
    "sk-ecdsa-sha2-nistp256@openssh.com": "ECDSA-SK",
}


def describe_certificate(cert: Certificate) -> str:
    """As sshd has it: ``ED25519-CERT SHA256:... ID alice (serial 7) CA ED25519 SHA256:...``."""
    try:
        authority = _SHORT_TYPES.get(key_type_of(cert.ca_key), "unknown")
        kind = _SHORT_TYPES[plain_type(cert.key_type)]
    except PeerError:
        authority = kind = "unknown"
    return (
        f"{kind}-CERT {fingerprint(cert.public_key)} ID {printable(cert.key_id, 60)} (serial {cert.serial}) "
        f"CA {authority} {fingerprint(cert.ca_key)}"
    )


class Audit:
    """``send`` takes complete events; ``now`` is cluster time."""

    def __init__(
        self, send: Callable[[Mapping[str, object]], None], now: Callable[[], float], node: Mapping[str, str], log: Log
    ) -> None:
        self._send = send
        self._now = now
        #: fields of every event: node, node_name, cluster
        self._node = node
        self._log = log

    def accepted(self, cert: Certificate, grant: Grant, peer: tuple[str, int]) -> None:
        login = printable(grant.login, 60)
        self._log.info(
            f"Accepted publickey for {login} from {peer[0]} port {peer[1]} ssh2: {describe_certificate(cert)}"
        )
        if is_break_glass(cert):
            self._log.warning("a break-glass certificate was used", login=login, serial=cert.serial)
            self._event(
                "break_glass.use",
                user=grant.user,
                login=login,
                addr=_address(peer),
                certificate_serial=cert.serial,
                fingerprint=grant.fingerprint,
            )

    def refused(
        self,
        cert: Certificate | None,
        login: str,
        peer: tuple[str, int],
        error: TinyportError,
        policy: Policy | None,
    ) -> None:
        """Somebody may not. An event only when a CA of ours vouches for who it is: strangers must not fill the log."""
        what = describe_certificate(cert) if cert is not None else "a key without a certificate"
        name = printable(login, 60)
        # People have plain keys beside their certificate, and ssh offers all of them.
        tell = self._log.debug if error.code == "plain" else self._log.info
        tell(f"Failed publickey for {name} from {peer[0]} port {peer[1]} ssh2: {what}", reason=error)
        if cert is not None and error.code not in ("foreign", "kind", "bad_request"):
            self._event(
                "access.denied",
                user=printable(cert.key_id if policy is None else claimed_name(cert, policy), 192),
                login=name,
                addr=_address(peer),
                reason=error.message,
                code_name=error.code,
                certificate_serial=cert.serial,
            )

    def failed(self, login: str, peer: tuple[str, int], error: TinyportError) -> None:
        """Somebody offered a proof that is not right: not a mistake that people make."""
        name = printable(login, 60)
        self._log.warning(f"Failed publickey for {name} from {peer[0]} port {peer[1]} ssh2", reason=error)
        self._event("auth.failed", login=name, addr=_address(peer), reason=error.message)

    def session(self, name: str, grant: Grant, peer: tuple[str, int], sid: str, **fields: object) -> None:
        """One of a session's events; ``name`` as in core.events."""
        command = fields.get("command")
        if isinstance(command, str):
            fields["command"] = shown_command(command)
        self._event(
            name,
            user=grant.user,
            login=grant.login,
            sid=sid,
            addr=_address(peer),
            roles=list(grant.role_names),
            certificate_serial=grant.certificate_serial,
            **fields,
        )

    def forwarding(self, name: str, grant: Grant, peer: tuple[str, int], **fields: object) -> None:
        """One of a forwarding's events: ``target`` host:port or path, ``reason`` when it failed."""
        self._event(
            name,
            user=grant.user,
            login=grant.login,
            addr=_address(peer),
            roles=list(grant.role_names),
            certificate_serial=grant.certificate_serial,
            **fields,
        )

    def _event(self, name: str, **fields: object) -> None:
        self._send(event(name, time=self._now(), **self._node, **fields))


def shown_command(command: str) -> str:
    """A command as it is written down: whole, or cut to what fits into an event whatever it consists of."""
    limit = MAX_COMMAND
    while len(json.dumps(shown := printable(command, limit))) > MAX_COMMAND_BYTES:
        limit = limit * 3 // 4
    return shown


def _address(peer: tuple[str, int]) -> str:
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
