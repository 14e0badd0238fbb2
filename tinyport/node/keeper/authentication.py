"""Signing in on one connection: certificates and proofs are judged, counted when they are not good, and told once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tinyport.core import certificate as c
from tinyport.core.access import Grant
from tinyport.core.break_glass import is_break_glass
from tinyport.core.certificate import Certificate
from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.core.signatures import verify
from tinyport.core.sshwire import Reader
from tinyport.core.userauth import parse_publickey_request, signed_data
from tinyport.core.verified import VerifiedCertificates
from tinyport.host.accounts import Account
from tinyport.node.keeper import fields
from tinyport.node.keeper.audit import Audit
from tinyport.node.keeper.documents import Documents
from tinyport.node.keeper.judgement import judge

# sshd_config(5): MaxAuthTries 6.
MAX_FAILURES = 6
# An agent offers all its plain keys before the certificate; refusing one costs nothing.
MAX_EXCUSED = 20


class Authentication:
    """``account``: the account of whom a grant makes somebody; it raises NotFoundYet when it has to be asked again.
    ``peer``: the client's (ip, port)."""

    def __init__(
        self, documents: Documents, audit: Audit, account: Callable[[Grant], Account], peer: tuple[str, int]
    ) -> None:
        #: set once too many proofs failed
        self.exhausted = False
        self._documents = documents
        self._audit = audit
        self._account = account
        self._peer = peer
        self._failures = 0
        self._excused = 0
        self._told: set[tuple[str, str]] = set()

    @property
    def failed(self) -> bool:
        """Was a certificate or a proof offered that was not good? Plain keys are offered by mistake."""
        return self._failures > 0

    def query(self, message: Mapping[str, object]) -> None:
        """Would this key do? (RFC 4252 section 7, a request without a signature.) AccessDenied when not."""
        login = fields.text(message, "user")
        blob = fields.data(message, "certificate")
        cert: Certificate | None = None
        try:
            self._check_tries()
            cert = _certificate(blob, self._documents.verified)
            self._judge(cert, login)
        except TinyportError as error:
            raise self._refusal(cert, login, error) from None

    def prove(
        self, message: Mapping[str, object], session_id: bytes, check: Callable[[Grant], None]
    ) -> tuple[Grant, Account, Certificate]:
        """A signed request: checked against this connection's own exchange hash, then judged, once. AccessDenied when
        it is not good, or when ``check`` has something against the grant."""
        login = fields.text(message, "user")
        request_bytes = fields.data(message, "message")
        signature = fields.data(message, "signature", 16 * 1024)
        cert: Certificate | None = None
        try:
            self._check_tries()
            request = parse_publickey_request(request_bytes)
            if request.user != login or request.service != "ssh-connection":
                raise PeerError("the signed request is not for this login", code="proof")
            cert = _certificate(request.key_blob, self._documents.verified)
            algorithm = _signature_algorithm(cert, request.algorithm)
            verify(cert.public_key, signed_data(session_id, request_bytes), signature, algorithm)
            grant, account = self._judge(cert, login)
            check(grant)
            if is_break_glass(cert):
                self._documents.used_once.use(cert.serial)
        except TinyportError as error:
            raise self._refusal(cert, login, error, proof=True) from None
        self._audit.accepted(cert, grant, self._peer)
        return grant, account, cert

    def _check_tries(self) -> None:
        if self.exhausted:
            raise AccessDenied("too many authentication failures", code="tries")

    def _judge(self, cert: Certificate, login: str) -> tuple[Grant, Account]:
        grant = judge(self._documents, cert, login, self._peer[0])
        # Nobody makes this machine ask others who somebody is but by a certificate that is good for that login.
        return grant, self._account(grant)

    def _refusal(
        self, cert: Certificate | None, login: str, error: TinyportError, *, proof: bool = False
    ) -> AccessDenied:
        """Count, log once, and say it in words that the stranger may read."""
        if error.code == "plain" or isinstance(error, Unavailable):
            # The one is offered by mistake, the other is this machine's fault.
            self._excused += 1
        else:
            self._failures += 1
        self.exhausted = self._failures >= MAX_FAILURES or self._excused >= MAX_EXCUSED
        if (login, error.message) not in self._told and len(self._told) < MAX_FAILURES:
            self._told.add((login, error.message))
            if proof and isinstance(error, PeerError):
                self._audit.failed(login, self._peer, error)
            else:
                self._audit.refused(cert, login, self._peer, error, self._documents.policy)
        if isinstance(error, AccessDenied):
            return error
        if isinstance(error, Unavailable):
            return AccessDenied(error.message, detail=error.detail, code=error.code)
        # What was malformed or wrongly signed is nobody's business but our log's.
        return AccessDenied("access denied", detail=str(error), code="proof")


def _certificate(blob: bytes, verified: VerifiedCertificates) -> Certificate:
    """A key blob as a certificate; AccessDenied for a plain key, PeerError when it is malformed."""
    if not c.is_certificate_type(Reader(blob, "public key").text(64)):
        raise AccessDenied("only certificates of the cluster are accepted here", code="plain")
    return verified.decode(blob)


def _signature_algorithm(cert: Certificate, algorithm: str) -> str:
    """The signature algorithm that a certificate's algorithm name stands for; PeerError when it does not fit the key.

    RFC 8332 section 3, and PROTOCOL.certkeys: RSA certificates name the hash, too.
    """
    plain = c.plain_type(cert.key_type)
    if plain == "ssh-rsa":
        for name in ("rsa-sha2-256", "rsa-sha2-512"):
            if algorithm == c.certificate_type(name):
                return name
    elif algorithm == cert.key_type:
        return plain
    raise PeerError("the signed request names another algorithm", detail=f"{algorithm!r:.60} for {cert.key_type}")
