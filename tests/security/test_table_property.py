"""Whatever a worker says, in whatever order: a session starts only on a connection where its own user just proved it.

A machine invents what happens (clients come, leave; keys are exchanged, for the right and the wrong connection; proofs
are made, mixed up, replayed) and keeps its own, simpler account of who has proved what. The keeper's must agree.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.node.proofs import b64
from tests.node.session_harness import LOGIN
from tests.node.test_keeper_table import OPEN, Desk
from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.core.signatures import Ed25519Key
from tinyport.node.keeper.connection import PROVED, TABLE, Connection
from tinyport.node.keeper.exchange import STRANGERS_KEYS

REQUESTS = sorted({request for _, request in TABLE})
#: request → fields that would do
FIELDS: dict[str, dict[str, object]] = {
    "kex": {"hash": "sha256", "transcript": b64(bytes(100))},
    "query": {"user": LOGIN, "certificate": b64(b"x")},
    "prove": {"user": LOGIN, "message": b64(b"x"), "signature": b64(b"x")},
    "signal": {"session": 0, "signal": "TERM"},
    "hangup": {"session": 0},
    "hostkey": {"key": b64(b"x")},
    "recorded": {"session": 0, "lost": 0},
    "unrecorded": {"session": 0, "message": "x"},
}


@dataclass(eq=False)
class Known:
    """What the test knows of one connection."""

    connection: Connection
    client: int
    hashes: list[bytes] = field(default_factory=list)
    #: exchanges that were asked for, bad ones, too
    exchanges: int = 0
    proved: bool = False
    here: bool = True
    sessions: int = 0


@dataclass(frozen=True, eq=False)
class Proof:
    """``good_for``: the exchange hash under it, when it is honest in everything else."""

    fields: dict[str, object]
    good_for: bytes | None


class Worker(RuleBasedStateMachine):
    connections: Bundle[Known] = Bundle("connections")
    proofs: Bundle[Proof] = Bundle("proofs")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.desk = Desk(Path(self._folder.name))
        self.known: list[Known] = []

    def teardown(self) -> None:
        for known in self.known:
            known.connection.close()
        for client in self.desk.clients:
            client.close()
        self._folder.cleanup()

    # ------------------------------------------------------------------ what happens

    @rule(target=connections)
    def a_client_comes(self) -> Known:
        known = Known(self.desk.connect(), len(self.desk.clients) - 1)
        self.known.append(known)
        return known

    @rule(known=connections)
    def a_client_leaves(self, known: Known) -> None:
        self.desk.clients[known.client].close()
        known.here = False

    @rule(known=connections)
    def keys_are_exchanged(self, known: Known) -> None:
        many = known.exchanges >= STRANGERS_KEYS
        known.exchanges += 1
        try:
            known.hashes.append(self.desk.kex(known.connection))
        except (Unavailable, PeerError):
            assert many or not known.here or known.connection.state not in ("served", "keyed", "proved")

    @rule(known=connections, other=connections)
    def keys_are_exchanged_for_another(self, known: Known, other: Known) -> None:
        if known is other:
            return
        known.exchanges += 1
        try:
            self.desk.kex(known.connection, self.desk.transcript(other.connection))
        except (Unavailable, PeerError):
            return
        raise AssertionError("the host key signed another connection's transcript")

    @rule(target=proofs, known=connections, which=st.integers(0, 1))
    def a_user_signs(self, known: Known, which: int) -> Proof:
        """For any exchange that this connection had, the first or a later one; or for one that never was."""
        hashed = known.hashes[which] if which < len(known.hashes) else bytes(32)
        return Proof(self.desk.proof(hashed), hashed)

    @rule(
        target=proofs,
        known=connections,
        how=st.sampled_from(["key", "login", "service", "unsigned", "certificate", "algorithm"]),
    )
    def somebody_signs_something_else(self, known: Known, how: str) -> Proof:
        hashed = known.hashes[0] if known.hashes else bytes(32)
        desk = self.desk
        stranger = Ed25519Key.generate()
        made = {
            "key": lambda: desk.proof(hashed, key=stranger),
            "login": lambda: desk.proof(hashed, user="nobody"),
            "service": lambda: desk.proof(hashed, desk.request(service="ssh-userauth")),
            "unsigned": lambda: desk.proof(hashed, desk.request(signed=False)),
            "algorithm": lambda: desk.proof(hashed, desk.request(algorithm="ssh-ed25519")),
            "certificate": lambda: desk.proof(
                hashed, desk.request(key=desk.authority.certificate(desk.user_key.public_blob, ca=stranger))
            ),
        }
        return Proof(made[how](), None)

    @rule(known=connections, proof=proofs)
    def a_proof_is_shown(self, known: Known, proof: Proof) -> None:
        good = bool(known.hashes) and proof.good_for == known.hashes[0] and known.here and not known.proved
        good = good and not known.connection.exhausted and known.connection.state == "keyed"
        try:
            known.connection.handle("prove", proof.fields)
        except (AccessDenied, PeerError, Unavailable):
            assert not good
            return
        assert good
        known.proved = True

    @rule(known=connections)
    def a_session_is_asked_for(self, known: Known) -> None:
        before = len(self.desk.starter.started)
        try:
            known.connection.handle("open", {**OPEN, "session": known.sessions})
        except (AccessDenied, PeerError, Unavailable):
            assert len(self.desk.starter.started) == before
            return
        assert known.proved
        assert known.here
        assert self.desk.starter.started[-1][0].login == LOGIN
        known.sessions += 1

    @rule(known=connections, request=st.sampled_from([name for name in REQUESTS if name in FIELDS]))
    def anything_is_asked_for(self, known: Known, request: str) -> None:
        known.exchanges += request == "kex"
        try:
            known.connection.handle(request, FIELDS[request])
        except TinyportError:
            return
        assert (known.connection.state, request) in TABLE

    @rule(known=connections)
    def the_keeper_ends_it(self, known: Known) -> None:
        known.connection.told_why = True
        known.here = False

    @rule(known=connections)
    def a_connection_is_over(self, known: Known) -> None:
        try:
            known.connection.handle("gone", {})
        except PeerError:
            return
        known.here = False

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds: float) -> None:
        self.desk.time += seconds

    # ------------------------------------------------------------------ what holds

    @invariant()
    def who_has_a_grant_has_proved_it(self) -> None:
        for known in self.known:
            assert (known.connection.grant is not None) == known.proved
            assert known.proved or known.connection.state != PROVED

    @invariant()
    def sessions_are_those_of_the_proved(self) -> None:
        assert len(self.desk.starter.started) == sum(known.sessions for known in self.known)


# Each step may cost a signature and a TCP connection; how long that takes says nothing here.
Worker.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestWorker = Worker.TestCase
