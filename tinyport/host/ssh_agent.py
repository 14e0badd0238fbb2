"""What is said with an ssh-agent, message by message (draft-ietf-sshm-ssh-agent, PROTOCOL.agent)."""

from __future__ import annotations

import socket

from tinyport.core.errors import PeerError, Unavailable
from tinyport.core.sshwire import Reader, byte, string, uint32

_IDENTITIES, _IDENTITIES_ANSWER = 11, 12
_SIGN, _SIGN_ANSWER = 13, 14
#: SSH_AGENT_RSA_SHA2_512; other kinds of keys have no choice
_RSA_SHA2_512 = 4

#: OpenSSH's own bound on an agent's message (authfd.c).
MAX_MESSAGE = 256 * 1024
MAX_KEYS = 256
# An agent that wants a person's word for an addition does not exist; one that hangs must not hang a login.
_TIMEOUT = 3.0


class AgentLine:
    """A connection to the agent at ``path``. Unavailable when there is none, or when it does not answer as one."""

    def __init__(self, path: str, *, timeout: float = _TIMEOUT, called: str = "") -> None:
        self._called = called or f"the ssh-agent at {path}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise Unavailable(f"{self._called} does not answer", detail=str(error)) from None

    def __enter__(self) -> AgentLine:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def ask(self, message: bytes) -> bytes:
        """One message, and the answer to it."""
        try:
            self._socket.sendall(string(message))
            length = int.from_bytes(self._read(4), "big")
            if not 1 <= length <= MAX_MESSAGE:
                raise Unavailable(f"{self._called} does not speak the agent's protocol")
            return self._read(length)
        except OSError as error:
            raise Unavailable(f"{self._called} does not answer", detail=str(error)) from None

    def keys(self) -> list[bytes]:
        """The public keys (blobs) that it has, certificates among them."""
        answer = self.ask(byte(_IDENTITIES))
        try:
            if answer[0] == _IDENTITIES_ANSWER:
                return _key_blobs(answer[1:])
        except PeerError as error:
            raise Unavailable(f"{self._called} does not speak the agent's protocol", detail=str(error)) from None
        raise Unavailable(f"{self._called} does not say which keys it has")

    def sign(self, key: bytes, data: bytes) -> bytes:
        """An SSH signature blob. Unavailable when it refuses."""
        flags = _RSA_SHA2_512 if key.startswith(string(b"ssh-rsa")) else 0
        answer = self.ask(byte(_SIGN) + string(key) + string(data) + uint32(flags))
        if answer[0] != _SIGN_ANSWER:
            raise Unavailable(f"{self._called} does not sign")
        try:
            return Reader(answer[1:], "agent's answer").string(MAX_MESSAGE)
        except PeerError as error:
            raise Unavailable(f"{self._called} does not speak the agent's protocol", detail=str(error)) from None

    def _read(self, count: int) -> bytes:
        held = b""
        while len(held) < count:
            piece = self._socket.recv(count - len(held))
            if not piece:
                raise Unavailable(f"{self._called} closed the connection")
            held += piece
        return held


def _key_blobs(data: bytes) -> list[bytes]:
    reader = Reader(data, "agent's answer")
    count = reader.uint32()
    if count > MAX_KEYS:
        raise PeerError(f"an agent with {count} keys")
    blobs = []
    for _ in range(count):
        blobs.append(reader.string(MAX_MESSAGE))
        reader.string(MAX_MESSAGE)
    return blobs
