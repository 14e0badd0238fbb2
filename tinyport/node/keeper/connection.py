"""One connection as the keeper knows it, and the table of what a worker may ask for it and when.

A worker talks with strangers and may be one. It asks; each answer here depends only on what the keeper itself has seen
of this connection: its nonce, the exchange hash it computed, the signature it checked, the grant that followed. What
the table does not unlock, or what makes no sense, is a PeerError, and that is the end of the worker.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from tinyport.core import certificate as c
from tinyport.core.access import Grant
from tinyport.core.break_glass import is_break_glass
from tinyport.core.certificate import Certificate
from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.core.names import printable
from tinyport.core.signatures import verify
from tinyport.core.sshwire import Reader, string
from tinyport.core.transcript import exchange_hash, parse_transcript
from tinyport.core.userauth import parse_publickey_request, signed_data
from tinyport.core.verified import VerifiedCertificates
from tinyport.host.accounts import Account
from tinyport.node.keeper import fields
from tinyport.node.keeper.audit import Audit
from tinyport.node.keeper.documents import Documents, HostIdentity
from tinyport.node.keeper.judgement import judge
from tinyport.node.keeper.linger import let_go
from tinyport.node.session.bounds import SIGNALS
from tinyport.node.session.plan import Asked

# sshd_config(5): MaxAuthTries 6.
MAX_FAILURES = 6
# An agent offers all its plain keys before the certificate; refusing one costs nothing.
MAX_EXCUSED = 20
# sshd_config(5) has 10; here one costs 60 kB, and memory has a bound of its own.
MAX_SESSIONS = 512
# RFC 4253 section 9 recommends new keys each gigabyte or hour. Whoever set a small RekeyLimit gets them more often, and
# a flood of them costs a worker a hundredth of its time. A stranger gets one exchange and one more.
REKEYS_AT_ONCE, REKEYS_A_SECOND = 32.0, 10.0
STRANGERS_KEYS = 2
# A client asks once.
MAX_SHOWN_KEYS = 4
# A refusal is a text for a person.
MAX_REFUSAL = 400

SERVED, KEYED, PROVED, GONE = "served", "keyed", "proved", "gone"

#: requests of keeper_forward
FORWARDS = ("connect", "listen", "unlisten", "taken", "agent", "x11", "still")

#: (state, request) → state after it succeeded. What is not here is not unlocked. docs/protocol/node.md
TABLE: Mapping[tuple[str, str], str] = {
    (SERVED, "kex"): KEYED,
    (KEYED, "kex"): KEYED,
    (PROVED, "kex"): PROVED,
    (KEYED, "query"): KEYED,
    (KEYED, "prove"): PROVED,
    (PROVED, "open"): PROVED,
    (PROVED, "signal"): PROVED,
    (PROVED, "hangup"): PROVED,
    (PROVED, "hostkey"): PROVED,
    (PROVED, "quiet"): PROVED,
    (PROVED, "dropped"): PROVED,
    (PROVED, "recorded"): PROVED,
    (PROVED, "unrecorded"): PROVED,
    (SERVED, "gone"): GONE,
    (KEYED, "gone"): GONE,
    (PROVED, "gone"): GONE,
    **dict.fromkeys(((PROVED, request) for request in FORWARDS), PROVED),
}

Answer = tuple[dict[str, object], Sequence[int]]
#: no answer now: whoever was asked gives it when it has one
LATER: Answer = ({}, ())


class RunningSession(Protocol):
    """What a connection needs of a session that runs."""

    def signal(self, name: str) -> None: ...

    def hang_up(self) -> None: ...


class SessionStarter(Protocol):
    """What a connection needs to start one: ``(session, answer for the worker)``, or a TinyportError. The answer is
    LATER when somebody else is asked first; it then goes to ``request``. ``account`` raises NotFoundYet when it has to
    be asked again; ``check_usable`` says whether one may still be used."""

    def account(self, grant: Grant) -> Account: ...

    def check_usable(self, account: Account) -> None: ...

    def start(
        self, connection: Connection, number: int, grant: Grant, asked: Asked, request: int
    ) -> tuple[RunningSession, Answer]: ...

    def party_dropped(self, connection: Connection, message: Mapping[str, object]) -> None: ...

    def recording_over(self, connection: Connection, message: Mapping[str, object]) -> None: ...

    def recording_failed(self, connection: Connection, message: Mapping[str, object]) -> None: ...


class TimeAndNumber(Protocol):
    """What a connection needs of the limits on how long and how many."""

    def check_connection(self, connection: Connection, grant: Grant) -> None: ...

    def check_session(self, grant: Grant) -> None: ...

    def watch(self, connection: Connection) -> None: ...

    def quiet(self, connection: Connection, message: Mapping[str, object]) -> None: ...


class Forwarding(Protocol):
    """What a connection needs of its forwardings."""

    def handle(self, request: str, message: Mapping[str, object], grant: Grant, account: Account) -> Answer: ...

    def environment(self, message: Mapping[str, object]) -> dict[str, str]: ...

    def judge_again(self, grant: Grant) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Endpoint:
    """How the connection came: ``kind`` direct or dial; addresses are (ip, port)."""

    kind: str
    peer: tuple[str, int]
    local: tuple[str, int]


class Connection:
    """``stream`` is the keeper's own duplicate of the TCP socket, closed by ``close``. ``version`` is what stands after
    ``SSH-2.0-`` in the server's identification, with the nonce of this connection alone.
    """

    def __init__(
        self,
        number: int,
        stream: socket.socket,
        endpoint: Endpoint,
        version: str,
        identity: HostIdentity,
        documents: Documents,
        starter: SessionStarter,
        audit: Audit,
        monotonic: Callable[[], float],
        forwards: Forwarding | None = None,
        limits: TimeAndNumber | None = None,
    ) -> None:
        self.number = number
        self.endpoint = endpoint
        self.version = version
        self.identity = identity
        self.state = SERVED
        self.grant: Grant | None = None
        #: whom it signed in as, looked up once, as sshd does
        self.account: Account | None = None
        self.sessions: dict[int, RunningSession] = {}
        self.max_sessions = MAX_SESSIONS
        #: set once too many proofs failed
        self.exhausted = False
        #: why we ended it, for the audit log
        self.ended_because: str | None = None
        #: its worker fell over it
        self.crashed = False
        #: the client was sent our reason for ending it; nothing is done for it any more
        self.told_why = False
        #: requests that wait until its login has been looked up
        self.waiting = 0
        self._stream = stream
        self._documents = documents
        self._starter = starter
        self._audit = audit
        self._monotonic = monotonic
        self._forwards = forwards
        self._limits = limits
        self._session_id: bytes | None = None
        self._last_kex = monotonic()
        self._rekeys = REKEYS_AT_ONCE
        self._exchanges = 0
        self._shown_keys = 0
        self._certificate: Certificate | None = None
        self._failures = 0
        self._excused = 0
        self._told: set[tuple[str, str]] = set()
        self._last_session = -1
        self._handlers: Mapping[str, Callable[[Mapping[str, object]], Answer]] = {
            "kex": self._kex,
            "query": self._query,
            "prove": self._prove,
            "open": self._open,
            "signal": self._signal,
            "hangup": self._hangup,
            "hostkey": self._hostkey,
            "quiet": self._quiet,
            "dropped": self._dropped,
            "recorded": self._recorded,
            "unrecorded": self._unrecorded,
            "gone": self._gone,
            **{request: partial(self._forward, request) for request in FORWARDS},
        }

    @property
    def failed(self) -> bool:
        """Did it offer a certificate or a proof that was not good? Plain keys are offered by mistake."""
        return self._failures > 0

    # ------------------------------------------------------------------ the door

    def handle(self, request: str, message: Mapping[str, object]) -> Answer:
        """One request of the worker → its answer and descriptors for it (to be closed after sending).

        AccessDenied and Unavailable are refusals: the answer to give is in them. PeerError: the worker broke the rules.
        NotFoundYet: nothing happened; ask once more when the login has been looked up.
        """
        after = TABLE.get((self.state, request))
        if after is None:
            raise PeerError(f"request {printable(request, 20)!r} is not unlocked", detail=f"state {self.state}")
        # An honest worker may ask before it hears that we are ending the connection; another one would go on asking.
        if request not in ("gone", "hangup", "recorded") and (self.told_why or not self.alive()):
            raise Unavailable("the connection is gone")
        answer = self._handlers[request](message)
        self.state = after
        return answer

    def alive(self) -> bool:
        """Does the kernel say that the client is still there? A worker cannot act for people who have left."""
        poll = select.poll()
        poll.register(self._stream, select.POLLRDHUP)
        return not poll.poll(0)

    def close(self) -> None:
        """The connection is over: sessions hear SIGHUP, the client's socket is let go."""
        self.state = GONE
        for session in list(self.sessions.values()):
            session.hang_up()
        if self._forwards is not None:
            self._forwards.close()
        let_go(self._stream)

    def duplicate(self) -> socket.socket:
        """The client's socket for a worker; ours stays, so that the kernel can be asked about it."""
        return self._stream.dup()

    def say_before_ssh(self, line: bytes) -> None:
        """A line to a client that no worker has spoken with."""
        self.told_why = say_before_ssh(self._stream, line) or self.told_why

    def cut(self) -> None:
        """End the TCP connection whatever the worker does with its copy of the socket."""
        try:
            self._stream.shutdown(socket.SHUT_RDWR)
        except OSError:
            # It was over already.
            return

    # ------------------------------------------------------------------ key exchange

    def _kex(self, message: Mapping[str, object]) -> Answer:
        """Sign the exchange hash that we compute ourselves, over a transcript with our key and our nonce."""
        now = self._monotonic()
        self._rekeys = min(REKEYS_AT_ONCE, self._rekeys + (now - self._last_kex) * REKEYS_A_SECOND)
        self._last_kex = now
        self._exchanges += 1
        if self._rekeys < 1 or (self.state != PROVED and self._exchanges > STRANGERS_KEYS):
            raise Unavailable("keys are exchanged too often")
        self._rekeys -= 1
        transcript = fields.data(message, "transcript")
        parsed = parse_transcript(transcript)
        if parsed.server_version != f"SSH-2.0-{self.version}".encode():
            raise PeerError("the transcript is another connection's")
        if parsed.host_key not in self.identity.host_keys:
            raise PeerError("the transcript is for another host key")
        hashed = exchange_hash(fields.text(message, "hash", 16), transcript)
        if self._session_id is None:
            # RFC 4253 section 7.2: the first exchange hash is the session identifier, for good.
            self._session_id = hashed
        return {"signature": self.identity.key.sign(hashed)}, ()

    def _hostkey(self, message: Mapping[str, object]) -> Answer:
        """Show that the key is ours (OpenSSH's PROTOCOL, section 2.5). What is signed begins with the request's name,
        which no exchange hash does, and is good for this connection alone."""
        if fields.data(message, "key") != self.identity.key.public_blob:
            raise PeerError("that is not the host key")
        if self._shown_keys >= MAX_SHOWN_KEYS:
            raise Unavailable("the host key was shown often enough")
        self._shown_keys += 1
        assert self._session_id is not None
        parts = (b"hostkeys-prove-00@openssh.com", self._session_id, self.identity.key.public_blob)
        return {"signature": self.identity.key.sign(b"".join(map(string, parts)))}, ()

    # ------------------------------------------------------------------ authentication

    def _query(self, message: Mapping[str, object]) -> Answer:
        """Would this key do? (RFC 4252 section 7, a request without a signature.)"""
        login = fields.text(message, "user")
        blob = fields.data(message, "certificate")
        cert: Certificate | None = None
        try:
            self._check_tries()
            cert = _certificate(blob, self._documents.verified)
            self._judge(cert, login)
        except TinyportError as error:
            raise self._refusal(cert, login, error) from None
        return {}, ()

    def _prove(self, message: Mapping[str, object]) -> Answer:
        """A signed request: checked against this connection's own exchange hash, then judged, once."""
        login = fields.text(message, "user")
        request_bytes = fields.data(message, "message")
        signature = fields.data(message, "signature", 16 * 1024)
        assert self._session_id is not None
        cert: Certificate | None = None
        try:
            self._check_tries()
            request = parse_publickey_request(request_bytes)
            if request.user != login or request.service != "ssh-connection":
                raise PeerError("the signed request is not for this login", code="proof")
            cert = _certificate(request.key_blob, self._documents.verified)
            algorithm = _signature_algorithm(cert, request.algorithm)
            verify(cert.public_key, signed_data(self._session_id, request_bytes), signature, algorithm)
            grant, account = self._judge(cert, login)
            if self._limits is not None:
                self._limits.check_connection(self, grant)
            if is_break_glass(cert):
                self._documents.used_once.use(cert.serial)
        except TinyportError as error:
            raise self._refusal(cert, login, error, proof=True) from None
        self.grant, self.account, self._certificate = grant, account, cert
        self._audit.accepted(cert, grant, self.endpoint.peer)
        return {"login": grant.login, "user": grant.user, "permits": dict.fromkeys(sorted(grant.permits), True)}, ()

    def _check_tries(self) -> None:
        if self.exhausted:
            raise AccessDenied("too many authentication failures", code="tries")

    def _judge(self, cert: Certificate, login: str) -> tuple[Grant, Account]:
        grant = judge(self._documents, cert, login, self.endpoint.peer[0])
        # Nobody makes this machine ask others who somebody is but by a certificate that is good for that login.
        return grant, self._starter.account(grant)

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
                self._audit.failed(login, self.endpoint.peer, error)
            else:
                self._audit.refused(cert, login, self.endpoint.peer, error, self._documents.policy)
        if isinstance(error, AccessDenied):
            return error
        if isinstance(error, Unavailable):
            return AccessDenied(error.message, detail=error.detail, code=error.code)
        # What was malformed or wrongly signed is nobody's business but our log's.
        return AccessDenied("access denied", detail=str(error), code="proof")

    def judge_again(self) -> None:
        """After a new document: is the person still allowed to be here? AccessDenied when not.

        The end of the certificate's life ends no session that runs (as with sshd), unless a role says so, which is
        ``limits``'s; locks, roles and revocation do.
        """
        if self.grant is None or self.account is None or self._certificate is None:
            return
        lasting = replace(self._certificate, valid_before=c.FOREVER)
        try:
            grant = judge(self._documents, lasting, self.grant.login, self.endpoint.peer[0], again=True)
            self._check_still_usable(self.account)
            self.grant = replace(grant, expires=self.grant.expires)
        except TinyportError:
            if self._forwards is not None:
                self._forwards.close()
            raise
        if self._forwards is not None:
            self._forwards.judge_again(self.grant)

    def _check_still_usable(self, account: Account) -> None:
        try:
            self._starter.check_usable(account)
        except Unavailable:
            # It was usable before; that a file cannot be opened now revokes nothing.
            return

    # ------------------------------------------------------------------ sessions

    def _open(self, message: Mapping[str, object]) -> Answer:
        number = fields.number(message, "session", 2**53)
        asked = fields.asked(message)
        # Numbers only rise, so a late request can never mean a later session.
        if number <= self._last_session:
            raise PeerError("the number of a session was used before")
        self._last_session = number
        assert self.grant is not None
        if self._forwards is not None:
            asked = replace(asked, forwarded=self._forwards.environment(message))
        if self._limits is not None:
            self._limits.check_session(self.grant)
        if len(self.sessions) >= self.max_sessions:
            raise AccessDenied(f"too many sessions on this connection, {self.max_sessions} are allowed", code="limit")
        request = fields.number({"id": 0, **message}, "id", 2**53)
        session, answer = self._starter.start(self, number, self.grant, asked, request)
        self.sessions[number] = session
        return answer

    def _session(self, message: Mapping[str, object]) -> RunningSession | None:
        number = fields.number(message, "session", 2**53)
        if number > self._last_session:
            raise PeerError("no such session")
        # None: it ended while the request was on its way.
        return self.sessions.get(number)

    def _signal(self, message: Mapping[str, object]) -> Answer:
        name = fields.text(message, "signal", 16)
        session = self._session(message)
        if name not in SIGNALS:
            raise AccessDenied(f"there is no signal {printable(name, 16)}", code="signal")
        if self.grant is not None and self.grant.force_command is not None:
            # As sshd: what somebody is made to run is not theirs to stop or to end.
            raise AccessDenied("a forced command takes no signals", code="signal")
        if session is not None:
            session.signal(name)
        return {}, ()

    def _hangup(self, message: Mapping[str, object]) -> Answer:
        session = self._session(message)
        if session is not None:
            session.hang_up()
        return {}, ()

    def _quiet(self, message: Mapping[str, object]) -> Answer:
        if self._limits is not None:
            self._limits.quiet(self, message)
        return {}, ()

    def _dropped(self, message: Mapping[str, object]) -> Answer:
        self._starter.party_dropped(self, message)
        return {}, ()

    def _recorded(self, message: Mapping[str, object]) -> Answer:
        self._starter.recording_over(self, message)
        return {}, ()

    def _unrecorded(self, message: Mapping[str, object]) -> Answer:
        self._starter.recording_failed(self, message)
        return {}, ()

    def _forward(self, request: str, message: Mapping[str, object]) -> Answer:
        assert self.grant is not None
        assert self.account is not None
        if self._forwards is None:
            raise Unavailable("forwarding is not available on this node")
        return self._forwards.handle(request, message, self.grant, self.account)

    def _gone(self, message: Mapping[str, object]) -> Answer:
        del message
        return {}, ()


def say_before_ssh(stream: socket.socket, line: bytes) -> bool:
    """A line to a client that has not heard our identification (RFC 4253 section 4.2). Could it be said?"""
    try:
        stream.send(line, socket.MSG_DONTWAIT)
    except OSError:
        # It does not listen, which is its loss.
        return False
    return True


def refusal_text(error: TinyportError) -> str:
    """What a refusal reads like at the other end."""
    hint = f" ({error.hint})" if error.hint else ""
    return printable(f"{error.message}{hint}", MAX_REFUSAL)


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
