"""A disk that takes nothing more: who may log in logs in, what cannot be written is counted and told of, and nothing
that guards the login is forgotten."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tinyport.auth.failures import LOCK_OUT, MAX_FAILURES
from tinyport.auth.unwritten import Unwritten
from tinyport.core.errors import Unavailable

from .conftest import AuthServer
from .test_second_factor import attempt, code, later, logged_in, rule, session, sign_up


@contextmanager
def nothing_is_taken() -> Iterator[None]:
    """No file of this process is written beyond its first bytes: room for a key, not for a transaction. Python ignores
    SIGXFSZ, so SQLite hears EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_people_log_in_and_the_log_tells_of_the_gap(auth: AuthServer) -> None:
    auth.add_user("ann", ["access"], ["pi"])
    auth.login("ann")
    before = len(auth.events("user.login"))
    with nothing_is_taken():
        client, answer = auth.login("ann")
        auth.login("ann")
        assert answer["ssh_certificate"]
        # The certificates are good, reading goes on, and what has to be on disk says in words why it cannot be.
        assert client.get("/v1/nodes").status == 200
        refused = auth.local().post("/v1/users", {"name": "ben", "roles": ["access"], "logins": ["pi"]})
        assert (refused.status, refused.code) == (503, "no_room")
        assert "disk" in refused.body["error"]["hint"]
        assert auth.service.unwritten.events == 2
    assert len(auth.events("user.login")) == before
    auth.login("ann")
    (gap,) = auth.events("events.lost")
    assert (gap["count"], gap["sender"]) == (2, "auth")
    assert len(auth.events("user.login")) == before + 1
    assert (auth.service.unwritten.events, auth.service.unwritten.events_ever) == (0, 2)
    assert auth.do(auth.service.store.read.audit.broken_at()) is None


def test_wrong_passwords_are_refused_alike_and_lock_out(auth: AuthServer) -> None:
    auth.add_user("ann", ["access"], ["pi"])
    with nothing_is_taken():
        for name in ("ann", "nobody") * MAX_FAILURES:
            answer = attempt(auth, name, "wrong")
            assert (answer.status, answer.code) == (401, "bad_credentials") or answer.code == "slow_down", answer
            auth.clock.now += 60
        assert attempt(auth, "ann", "correct horse").code in ("bad_credentials", "slow_down")
        auth.clock.now += LOCK_OUT + 1
        assert attempt(auth, "ann", "correct horse").status == 200


def test_a_code_counts_once_all_the_same(auth: AuthServer) -> None:
    rule(auth, "optional")
    secret = sign_up(auth)
    with nothing_is_taken():
        otp = code(auth, secret)
        assert attempt(auth, otp=otp).status == 200
        assert attempt(auth, otp=otp).code == "bad_credentials"
        later(auth)
        assert attempt(auth, otp=code(auth, secret)).status == 200
    # Nor once there is room again.
    assert attempt(auth, otp=code(auth, secret)).code == "bad_credentials"


def test_sessions_with_a_code_each_go_on(auth: AuthServer) -> None:
    rule(auth, "optional")
    secret = sign_up(auth)
    auth.join("greenhouse")
    client = logged_in(auth, secret)
    with nothing_is_taken():
        assert session(auth, client, ["greenhouse"], code(auth, secret)).status == 200
        assert session(auth, client, ["greenhouse"], code(auth, secret)).code == "bad_credentials"


def test_only_the_commit_may_fail_so(auth: AuthServer) -> None:
    """An error in the block itself is one, whatever was asked for."""

    async def broken() -> None:
        async with auth.service.store.write(or_go_on=True):
            raise Unavailable("something else", code="no_room")

    with pytest.raises(Unavailable):
        auth.do(broken())


def test_what_is_remembered_is_bounded() -> None:
    told: list[int] = []
    unwritten = Unwritten(told.append)
    unwritten.lost_events(3)
    unwritten.lost_events(2)
    unwritten.told_of(3)
    assert (unwritten.events, unwritten.events_ever, told) == (2, 5, [3, 2])
    for user in range(20_000):
        unwritten.failed(str(user), 5, 0.0, 60.0)
    assert len(unwritten._failures) == 10_000
    for _ in range(4):
        unwritten.failed("7", 5, 0.0, 60.0)
    assert unwritten.locked_out("7", 59.0)
    assert not unwritten.locked_out("7", 60.0)
    unwritten.succeeded("7")
    assert not unwritten.locked_out("7", 59.0)
