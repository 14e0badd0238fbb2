"""The key exchanges of one connection: their hash is computed here, over what both sides said, and signed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tinyport.core.errors import PeerError, Unavailable
from tinyport.core.sshwire import string
from tinyport.core.transcript import exchange_hash, parse_transcript
from tinyport.node.keeper import fields
from tinyport.node.keeper.documents import HostIdentity

# RFC 4253 section 9 recommends new keys each gigabyte or hour. Whoever set a small RekeyLimit gets them more often, and
# a flood of them costs a worker a hundredth of its time. A stranger gets one exchange and one more.
REKEYS_AT_ONCE, REKEYS_A_SECOND = 32.0, 10.0
STRANGERS_KEYS = 2
# A client asks once.
MAX_SHOWN_KEYS = 4


class KeyExchange:
    """``version`` is what stands after ``SSH-2.0-`` in the server's identification, with this connection's nonce."""

    def __init__(self, version: str, identity: HostIdentity, monotonic: Callable[[], float]) -> None:
        #: the first exchange hash, for good (RFC 4253 section 7.2); None before it
        self.session_id: bytes | None = None
        self._version = version
        self._identity = identity
        self._monotonic = monotonic
        self._last = monotonic()
        self._left = REKEYS_AT_ONCE
        self._exchanges = 0
        self._shown = 0

    def sign(self, message: Mapping[str, object], *, rekeying: bool) -> bytes:
        """The signature over the exchange hash that we compute ourselves from a transcript with our key and our nonce.

        ``rekeying``: who asks has signed in. Unavailable when keys are exchanged too often; PeerError when the
        transcript is not this connection's.
        """
        now = self._monotonic()
        self._left = min(REKEYS_AT_ONCE, self._left + (now - self._last) * REKEYS_A_SECOND)
        self._last = now
        self._exchanges += 1
        if self._left < 1 or (not rekeying and self._exchanges > STRANGERS_KEYS):
            raise Unavailable("keys are exchanged too often")
        self._left -= 1
        transcript = fields.data(message, "transcript")
        parsed = parse_transcript(transcript)
        if parsed.server_version != f"SSH-2.0-{self._version}".encode():
            raise PeerError("the transcript is another connection's")
        if parsed.host_key not in self._identity.host_keys:
            raise PeerError("the transcript is for another host key")
        hashed = exchange_hash(fields.text(message, "hash", 16), transcript)
        if self.session_id is None:
            self.session_id = hashed
        return self._identity.key.sign(hashed)

    def show_key(self, message: Mapping[str, object]) -> bytes:
        """Show that the host key is ours (OpenSSH's PROTOCOL, section 2.5): a signature. What is signed begins with the
        request's name, which no exchange hash does, and is good for this connection alone."""
        ours = self._identity.key.public_blob
        if fields.data(message, "key") != ours:
            raise PeerError("that is not the host key")
        if self._shown >= MAX_SHOWN_KEYS:
            raise Unavailable("the host key was shown often enough")
        self._shown += 1
        assert self.session_id is not None
        return self._identity.key.sign(b"".join(map(string, (b"hostkeys-prove-00@openssh.com", self.session_id, ours))))
