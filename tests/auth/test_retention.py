"""A clock that jumps takes neither the audit log nor recordings with it."""

from __future__ import annotations

import pytest

from tinyport.auth.audit_retention import prune_audit
from tinyport.auth.recording_care import look_after_recordings
from tinyport.auth.retention import STRIDE, follow_clock, retention_time

from .conftest import AuthServer, Clock
from .test_recordings import listed, record, sid_of

YEAR = 366 * 86400.0


def hour(auth: AuthServer) -> float:
    """What a look after the house does; the time that it went by."""
    auth.do(follow_clock(auth.service))
    auth.do(prune_audit(auth.service))
    auth.do(look_after_recordings(auth.service))
    return auth.do(retention_time(auth.service))


def test_years_that_pass_in_a_second_take_a_days_worth_an_hour(auth: AuthServer, clock: Clock) -> None:
    node = auth.join("greenhouse")
    limits = {"audit_retention": "30d", "recording_retention": "10d"}
    assert auth.local().call("PUT", "/v1/resources/cluster_config/cluster", limits).status == 200
    for day in range(3):
        record(node, sid_of(day), time=clock.now)
        clock.now += 86400
    began = hour(auth)
    oldest = auth.local().get("/v1/audit", after=0, limit=1).body["events"][0]["id"]
    clock.now += 5 * YEAR
    for hours in range(1, 8):
        assert hour(auth) == began + hours * STRIDE
    assert len(listed(auth.local())) == 3
    counts = []
    for _ in range(4):
        hour(auth)
        counts.append(len(listed(auth.local())))
    assert counts == [2, 1, 0, 0]
    # The audit log's 30 days are not over, whatever the clock says.
    assert auth.local().get("/v1/audit", after=0, limit=1).body["events"][0]["id"] == oldest
    # The clock is put right: nothing is in a hurry.
    clock.now -= 5 * YEAR
    assert hour(auth) == clock.now


def test_nothing_goes_before_the_first_look(auth: AuthServer, clock: Clock) -> None:
    node = auth.join("greenhouse")
    record(node, sid_of(1), time=clock.now)
    clock.now += YEAR
    auth.do(look_after_recordings(auth.service))
    assert auth.do(retention_time(auth.service)) == 0
    assert len(listed(auth.local())) == 1


@pytest.mark.parametrize("away", [3 * STRIDE, -3 * STRIDE])
def test_it_is_caught_up_with_and_comes_back(auth: AuthServer, clock: Clock, away: float) -> None:
    hour(auth)
    clock.now += away
    times = [hour(auth) for _ in range(4)]
    assert times[-1] == clock.now
    # A clock that was far behind for an hour (no battery) leaves no years to catch up with.
    clock.now -= away
    hour(auth)
    assert abs(clock.now - hour(auth)) <= STRIDE
