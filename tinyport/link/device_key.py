"""The device key: by which auth knows a device that keeps its other keys in memory. It proves who boots, and does
nothing else: it is no host key, opens no session, and is never sent.

In a file (which may be a credential of systemd's, bound to the machine's TPM), or behind an ssh-agent, which is how
TPMs, PKCS#11 tokens and secure elements are reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tinyport.core.certificate import parse_public_line
from tinyport.core.errors import OperatorError, PeerError, TinyportError
from tinyport.core.signatures import Ed25519Key, verify
from tinyport.host.files import read_limited
from tinyport.host.ssh_agent import AgentLine

MAX_FILE = 64 * 1024
# A chip on a slow bus takes a second to sign.
AGENT_TIMEOUT = 15.0


class DeviceKey(Protocol):
    @property
    def public_blob(self) -> bytes: ...

    def sign(self, data: bytes) -> bytes:
        """An SSH signature blob."""


def from_file(path: str) -> Ed25519Key:
    """An Ed25519 key in OpenSSH's format, or in PEM (PKCS #8). OperatorError when it cannot be read or is another."""
    try:
        data = read_limited(path, MAX_FILE)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OperatorError(f"the device key {path} cannot be read: {reason}", hint=_MAKE) from None
    try:
        if b"OPENSSH PRIVATE KEY" in data:
            return Ed25519Key.from_openssh(data)
        return _from_pem(data)
    except OperatorError as error:
        raise OperatorError(f"the device key {path} cannot be used: {error.message}", hint=_MAKE) from None


_MAKE = 'an Ed25519 key without a passphrase: ssh-keygen -t ed25519 -N "" -f FILE'


def _from_pem(data: bytes) -> Ed25519Key:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise OperatorError("it is no private key, has a passphrase, or is not Ed25519")
    return Ed25519Key(private)


@dataclass(frozen=True)
class AgentKey:
    """A key that an ssh-agent has: of any kind that SSH knows and that signs without a person."""

    path: str
    public_blob: bytes

    def sign(self, data: bytes) -> bytes:
        """Unavailable when the agent does not; OperatorError when what it gives is no signature of this key's."""
        with AgentLine(self.path, timeout=AGENT_TIMEOUT) as line:
            signature = line.sign(self.public_blob, data)
        try:
            verify(self.public_blob, data, signature)
        except PeerError as error:
            raise OperatorError("the ssh-agent's signature is not good", detail=str(error)) from None
        return signature


def from_agent(path: str, public: str = "") -> AgentKey:
    """The key ``public`` (its line) of the agent at the socket ``path``; without it the only one that it has.
    Unavailable when the agent does not answer; OperatorError when it does not have the key, or several.
    """
    with AgentLine(path, timeout=AGENT_TIMEOUT) as line:
        keys = line.keys()
    if public:
        try:
            wanted = parse_public_line(public)
        except TinyportError as error:
            raise OperatorError(f"node.device_key: {error.message}") from None
        if wanted not in keys:
            raise OperatorError(f"the ssh-agent at {path} does not have that key", hint="ssh-add -L shows what it has")
        return AgentKey(path, wanted)
    if len(keys) != 1:
        raise OperatorError(
            f"the ssh-agent at {path} has {len(keys) or 'no'} keys",
            hint='device_key = { agent = "...", key = "ssh-... AAAA..." } says which',
        )
    return AgentKey(path, keys[0])


def open_device_key(said: dict[str, str]) -> DeviceKey:
    """What ``node.device_key`` says: ``path``, or ``agent`` and perhaps ``key``."""
    if "agent" in said:
        return from_agent(said["agent"], said.get("key", ""))
    return from_file(said["path"])
