"""Certificates whose CA signature was found right before: decoding and verifying one again tells nothing new.

A value of its owner's, not of this module's. What is remembered is a fact about bytes, "this CA key signed this blob",
which never changes; and whose it is by one policy, which does not change either. Whether that CA is trusted, whether
the certificate has expired, is revoked or locked is judged each time anew, by ``core.access``.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from tinyport.core.certificate import Certificate
from tinyport.core.claims import Claims, read_claims
from tinyport.core.signatures import verify

if TYPE_CHECKING:
    from tinyport.core.access import Subject
    from tinyport.core.policy import Policy

# A node's people at one time. The largest one that is kept has some 250 principals.
MOST = 256
MOST_BYTES = 16 * 1024


class VerifiedCertificates:
    """The last ``most`` of them. Only what a CA has signed gets in, so strangers can neither fill it nor flush it."""

    __slots__ = ("_claims", "_decoded", "_known", "_most", "_policy", "_subjects")

    def __init__(self, most: int = MOST) -> None:
        # By the blob itself: equal means equal in every byte, and no hash need be argued about.
        self._known: dict[bytes, Certificate] = {}
        self._most = most
        #: what ``decode`` made last; nothing else is ever kept
        self._decoded: Certificate | None = None
        #: both by the blob, of known certificates; subjects as the policy had them
        self._claims: dict[bytes, Claims] = {}
        self._subjects: dict[bytes, Subject] = {}
        self._policy: Policy | None = None

    def __len__(self) -> int:
        return len(self._known)

    def decode(self, blob: bytes) -> Certificate:
        """``Certificate.decode``, or what it gave when this blob was verified. PeerError when it is malformed."""
        known = self._known.get(blob)
        if known is not None:
            return known
        self._decoded = Certificate.decode(blob)
        return self._decoded

    def verify(self, cert: Certificate, trusted: Container[bytes]) -> None:
        """Did ``cert.ca_key`` sign ``cert``? PeerError when not. It is kept only when that key is one of ``trusted``,
        or a stranger's own CA could flush the others.
        """
        known = self._known.get(cert.blob)
        if known is not None and _proof(known) == _proof(cert):
            # Last in line again: the one that was asked for longest ago goes first.
            self._known[cert.blob] = self._known.pop(cert.blob)
            return
        verify(cert.ca_key, cert.signed, cert.signature)
        # A certificate whose fields somebody replaced has the blob of the one that it was.
        if cert is self._decoded and cert.ca_key in trusted and len(cert.blob) <= MOST_BYTES:
            self._known[cert.blob] = cert
            if len(self._known) > self._most:
                oldest = next(iter(self._known))
                del self._known[oldest]
                self._subjects.pop(oldest, None)
                self._claims.pop(oldest, None)

    def claims(self, cert: Certificate) -> Claims:
        """``read_claims``, or what it gave for this very certificate."""
        known = self._known.get(cert.blob) is cert
        found = self._claims.get(cert.blob) if known else None
        if found is None:
            found = read_claims(cert)
            if known:
                self._claims[cert.blob] = found
        return found

    def subject(self, cert: Certificate, policy: Policy) -> Subject | None:
        """What ``keep_subject`` was told of this very certificate and this very policy."""
        found = self._subjects.get(cert.blob) if policy is self._policy else None
        return found if found is not None and found.certificate is cert else None

    def keep_subject(self, cert: Certificate, policy: Policy, subject: Subject) -> None:
        """Remember it, when ``cert`` is among those that were verified."""
        if policy is not self._policy:
            self._policy = policy
            self._subjects.clear()
        if self._known.get(cert.blob) is cert:
            self._subjects[cert.blob] = subject


def _proof(cert: Certificate) -> tuple[bytes, bytes, bytes]:
    return cert.ca_key, cert.signed, cert.signature
