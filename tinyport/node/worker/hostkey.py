"""A host key that is not here: asyncssh's idea of a key, whose signatures the keeper makes over the whole transcript.

The keeper does not sign hashes; it wants to see what was hashed. asyncssh feeds a hash object piece by piece and hands
only the digest on, so the hash function of the connection's key exchange is replaced by one that keeps its input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

MAX_TRANSCRIPT = 128 * 1024
# RFC 4253 section 4.2: the identification string, without its line end.
MAX_VERSION = 253


class TranscriptTooLarge(Exception):
    """The client's half is longer than any real client's: nothing that the keeper should be asked."""


class RecordedHash:
    """Of a hashlib object, what asyncssh's key exchange uses."""

    __slots__ = ("_inner", "data")

    def __init__(self, inner: Any, data: bytes) -> None:
        self._inner = inner
        self.data = bytearray(data)

    def update(self, data: bytes) -> None:
        if len(self.data) + len(data) > MAX_TRANSCRIPT:
            raise TranscriptTooLarge("the key exchange is too large")
        self.data += data
        self._inner.update(data)

    def digest(self) -> bytes:
        digest: bytes = self._inner.digest()
        return digest


class RecordingHash:
    """A hash function that remembers what it was given. mlkem768x25519 hashes its secret with it, too (and key
    derivation does later), so which of them is the transcript is told by its digest.
    """

    def __init__(self, original: Callable[..., Any]) -> None:
        self._original = original
        self.name: str = original().name
        self._made: list[RecordedHash] = []

    def __call__(self, data: bytes = b"") -> RecordedHash:
        made = RecordedHash(self._original(data), data)
        # The last two: the shared secret's, and the exchange hash's.
        self._made = [*self._made[-1:], made]
        return made

    def transcript_of(self, digest: bytes) -> bytes | None:
        """The input that had this digest; None when it was not made here."""
        for made in self._made:
            if hashlib.new(self.name, made.data).digest() == digest:
                return bytes(made.data)
        return None


class KeeperKey:
    """As much of asyncssh's SSHKeyPair as a server's host key needs. ``ask(hash name, transcript)`` is the keeper."""

    def __init__(
        self, algorithm: bytes, public_data: bytes, recording: RecordingHash, ask: Callable[[str, bytes], bytes]
    ) -> None:
        self.algorithm = algorithm
        self.sig_algorithm = b"ssh-ed25519"
        self.public_data = public_data
        self._recording = recording
        self._ask = ask

    def sign(self, data: bytes) -> bytes:
        """The SSH signature of an exchange hash. The keeper's refusal when there is none."""
        transcript = self._recording.transcript_of(data)
        if transcript is None:
            raise ValueError("asked to sign something that is no exchange hash")
        return self._ask(self._recording.name, transcript)
