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
from tinyport.core.certificate import Certificate
from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.core.names import printable
from tinyport.host.accounts import Account
from tinyport.node.keeper import fields
from tinyport.node.keeper.audit import Audit
from tinyport.node.keeper.authentication import Authentication
from tinyport.node.keeper.documents import Documents, HostIdentity
from tinyport.node.keeper.exchange import KeyExchange
from tinyport.node.keeper.judgement import judge
from tinyport.node.keeper.linger import let_go
from tinyport.node.session.bounds import SIGNALS
from tinyport.node.session.plan import Asked

# sshd_config(5) has 10; here one costs 60 kB, and memory has a bound of its own.
MAX_SESSIONS = 512
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
        self._forwards = forwards
        self._limits = limits
        self._exchange = KeyExchange(version, identity, monotonic)
        self._authentication = Authentication(documents, audit, starter.account, endpoint.peer)
        #: what it signed in with
        self._certificate: Certificate | None = None
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
        """Did it offer a certificate or a proof that was not good?"""
        return self._authentication.failed

    @property
    def exhausted(self) -> bool:
        """Did too many proofs fail?"""
        return self._authentication.exhausted

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

    # ------------------------------------------------------------------ who it is

    def _kex(self, message: Mapping[str, object]) -> Answer:
        return {"signature": self._exchange.sign(message, rekeying=self.state == PROVED)}, ()

    def _hostkey(self, message: Mapping[str, object]) -> Answer:
        return {"signature": self._exchange.show_key(message)}, ()

    def _query(self, message: Mapping[str, object]) -> Answer:
        self._authentication.query(message)
        return {}, ()

    def _prove(self, message: Mapping[str, object]) -> Answer:
        assert self._exchange.session_id is not None
        grant, account, cert = self._authentication.prove(message, self._exchange.session_id, self._check_limits)
        self.grant, self.account, self._certificate = grant, account, cert
        return {"login": grant.login, "user": grant.user, "permits": dict.fromkeys(sorted(grant.permits), True)}, ()

    def _check_limits(self, grant: Grant) -> None:
        if self._limits is not None:
            self._limits.check_connection(self, grant)

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
