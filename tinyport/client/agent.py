"""A running ssh-agent: put a login's key and certificate there for as long as they are good, take them out again.

Speaks the agent's protocol directly (draft-ietf-sshm-ssh-agent, PROTOCOL.agent): three messages are all we need.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping

from tinyport.core.certificate import Certificate, parse_public_line
from tinyport.core.errors import PeerError, Unavailable
from tinyport.core.sshwire import Reader, byte, string, uint32
from tinyport.host.ssh_agent import AgentLine
from tinyport.host.user_identity import UserIdentity

_SUCCESS = 6
_REMOVE_IDENTITY = 18
_ADD_ID_CONSTRAINED = 25
_CONSTRAIN_LIFETIME = 1

_PEM_BEGIN = "-----BEGIN OPENSSH PRIVATE KEY-----"
_PEM_END = "-----END OPENSSH PRIVATE KEY-----"
_MAGIC = b"openssh-key-v1\0"


class Agent:
    """A connection to the agent at ``path``. Unavailable when there is none, or when it refuses."""

    def __init__(self, path: str) -> None:
        self._line = AgentLine(path, called="the ssh-agent of SSH_AUTH_SOCK")

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *exc: object) -> None:
        self._line.__exit__(*exc)

    def add(self, identity: UserIdentity, *, lifetime: int) -> None:
        """Add the key with its certificate; the agent forgets them after ``lifetime`` seconds."""
        blob = parse_public_line(identity.ssh_certificate)
        public, private = _ed25519_halves(identity.ssh_key)
        message = (
            byte(_ADD_ID_CONSTRAINED)
            + string(Certificate.decode(blob).key_type.encode())
            + string(blob)
            + string(public)
            + string(private)
            + string(f"tinyport {identity.user}@{identity.cluster}".encode())
            + byte(_CONSTRAIN_LIFETIME)
            + uint32(min(max(lifetime, 1), 2**32 - 1))
        )
        if not self._succeeds(message):
            raise Unavailable("the ssh-agent does not take certificates")

    def remove(self, certificate_line: str) -> bool:
        """Take a certificate out; False when the agent did not have it."""
        return self._succeeds(byte(_REMOVE_IDENTITY) + string(parse_public_line(certificate_line)))

    def _succeeds(self, message: bytes) -> bool:
        return self._line.ask(message)[0] == _SUCCESS


def _ed25519_halves(pem: str) -> tuple[bytes, bytes]:
    """An unencrypted OpenSSH key file (PROTOCOL.key) → the 32 public and 64 private bytes that an agent wants."""
    begin, end = pem.find(_PEM_BEGIN), pem.find(_PEM_END)
    if begin < 0 or end < begin:
        raise PeerError("the private key is not in OpenSSH's format")
    try:
        data = base64.b64decode("".join(pem[begin + len(_PEM_BEGIN) : end].split()), validate=True)
    except (binascii.Error, ValueError):
        raise PeerError("the private key is damaged") from None
    if not data.startswith(_MAGIC):
        raise PeerError("the private key is not in OpenSSH's format")
    outer = Reader(data[len(_MAGIC) :], "private key")
    if (outer.text(64), outer.text(64), outer.string(), outer.uint32()) != ("none", "none", b"", 1):
        raise PeerError("the private key has a passphrase")
    outer.string()
    inner = Reader(outer.string(), "private key")
    if inner.uint32() != inner.uint32() or inner.text(64) != "ssh-ed25519":
        raise PeerError("the private key is not an Ed25519 key")
    public, private = inner.string(64), inner.string(128)
    if len(public) != 32 or len(private) != 64:
        raise PeerError("the private key is damaged")
    return public, private


def offer(identity: UserIdentity, now: float, environment: Mapping[str, str] | None = None) -> str:
    """Add a login to the agent of SSH_AUTH_SOCK until it expires. → "" when done or when there is no agent, else why
    not: a login is good without an agent.
    """
    path = (os.environ if environment is None else environment).get("SSH_AUTH_SOCK")
    if not path:
        return ""
    try:
        with Agent(path) as agent:
            agent.add(identity, lifetime=int(identity.valid_before - now))
    except (Unavailable, PeerError) as error:
        return error.message
    return ""


def withdraw(certificate_line: str, environment: Mapping[str, str] | None = None) -> bool:
    """Take a login out of the agent of SSH_AUTH_SOCK; False when there is no agent, or when it did not have it."""
    path = (os.environ if environment is None else environment).get("SSH_AUTH_SOCK")
    if not path:
        return False
    try:
        with Agent(path) as agent:
            return agent.remove(certificate_line)
    except (Unavailable, PeerError):
        return False
