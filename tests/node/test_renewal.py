"""When the monitor has a certificate renewed: by its life, by a peer's word, and by what a rotation asks for."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tinyport.host.logging_line import Log
from tinyport.node.loop import Loop
from tinyport.node.monitor import renewal as monitor_renewal
from tinyport.node.monitor.renewal import Renewal

BEGAN = 1_900_000_000
LIFE = 7 * 86400


class Asked(Renewal):
    """Counts instead of starting processes."""

    def __init__(self, loop: Loop) -> None:
        public: dict[str, object] = {"valid_after": BEGAN, "valid_before": BEGAN + LIFE}
        super().__init__(loop, public, {}, [], lambda view, unsaved: None, Log("test", "error", descriptor=-1))
        self.times = 0
        self.may_wait = False

    def _begin(self, may_wait: bool) -> None:
        self.may_wait = may_wait
        self.times += 1

    def begins(self, moment: float) -> None:
        self.replaced({"valid_after": moment, "valid_before": moment + LIFE})


@pytest.fixture
def renewal(monkeypatch: pytest.MonkeyPatch) -> Asked:
    # At once, instead of at a moment of its own choice.
    monkeypatch.setattr(monitor_renewal, "spread", lambda least, most: least)
    return Asked(Loop())


def turn(renewal: Asked) -> None:
    """What is due runs."""
    renewal._loop.after(0.01, renewal._loop.stop)
    renewal._loop.run()


def test_a_certificate_from_before_is_renewed_once(renewal: Asked) -> None:
    renewal.asked([BEGAN + 10, 0.0])
    renewal.asked([BEGAN + 10, 0.0])
    turn(renewal)
    assert renewal.times == 1
    renewal.begins(BEGAN + 10)
    renewal._early()
    assert renewal.times == 1


def test_what_is_new_enough_stays(renewal: Asked) -> None:
    renewal.asked([BEGAN, 0.0])
    turn(renewal)
    assert renewal.times == 0


@pytest.mark.parametrize(
    "said", [None, 5, [], [1], ["x", "y"], [None, None], [True, 1], [-5, 1], [float("inf"), 0], {"before": 1}]
)
def test_link_may_say_anything(renewal: Asked, said: Any) -> None:
    renewal.asked(said)
    turn(renewal)
    assert renewal.times == 0


def test_each_machine_takes_a_moment_of_its_own(renewal: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[tuple[float, float]] = []

    def spread(least: float, most: float) -> float:
        bounds.append((least, most))
        return 3600.0

    monkeypatch.setattr(monitor_renewal, "spread", spread)
    renewal.asked([BEGAN + 10, 200.0])
    renewal.asked([BEGAN + 20, 1e9])
    turn(renewal)
    # An unbounded word of whoever took link over keeps nobody from renewing for ever.
    assert bounds == [(0.0, 200.0), (0.0, monitor_renewal.LONGEST_SPREAD)]
    assert renewal.times == 0


def test_the_next_step_is_not_kept_waiting_by_the_renewal_of_the_last(renewal: Asked) -> None:
    renewal._not_before = time.monotonic() + 3600
    renewal.asked([BEGAN + 10, 0.0])
    turn(renewal)
    assert renewal.times == 1


def test_a_link_that_asks_without_end_gets_a_few(renewal: Asked) -> None:
    for number in range(100):
        renewal._not_before = time.monotonic() + 3600
        renewal.asked([BEGAN + 10 + number, 0.0])
        renewal._early()
    assert renewal.times == monitor_renewal.STEPS


def test_a_failure_waits_its_time(renewal: Asked) -> None:
    renewal._pause = 2 * monitor_renewal.FIRST_PAUSE
    renewal._not_before = time.monotonic() + 3600
    renewal.asked([BEGAN + 10, 0.0])
    turn(renewal)
    assert renewal.times == 0


def test_who_is_in_a_hurry_is_so_until_it_is_done(renewal: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new name, say, with a disk that was full when it came."""
    monkeypatch.setattr(renewal, "now", lambda: float(BEGAN))
    renewal.hurry()
    assert renewal.times == 1
    for number in range(2, 5):
        renewal._failed("no room")
        renewal._if_due()
        assert renewal.times == number - 1
        renewal._not_before = 0.0
        renewal._if_due()
        assert renewal.times == number
    renewal._ended(0)
    renewal._not_before = 0.0
    renewal._if_due()
    assert renewal.times == 4


def test_who_is_in_a_hurry_during_a_renewal_gets_another(renewal: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "now", lambda: float(BEGAN))
    renewal.wanted()
    renewal._pid = 7
    renewal.hurry()
    assert renewal.times == 1
    renewal._ended(0)
    renewal._not_before = 0.0
    renewal._if_due()
    assert renewal.times == 2


def test_renewals_that_bring_no_tunnel_come_ever_more_rarely(renewal: Asked) -> None:
    """A proxy that does not take what we have will not take the next one; auth and the disk are spared."""

    def succeeds() -> float:
        renewal._ended(0)
        return renewal._not_before - time.monotonic()

    pauses = [round(succeeds()) for _ in range(10)]
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(monitor_renewal.FIRST_PAUSE, abs=1)
    assert pauses[-1] == pytest.approx(monitor_renewal.LONGEST_PAUSE, abs=1)
    renewal.proved()
    assert succeeds() == pytest.approx(monitor_renewal.FIRST_PAUSE, abs=1)


def test_a_disk_that_takes_nothing_is_waited_for_until_the_last_day(
    renewal: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for now in (BEGAN + LIFE / 2, BEGAN + 5 * 86400, BEGAN + LIFE - 80_000):
        monkeypatch.setattr(renewal, "now", lambda now=now: now)
        renewal._if_due()
        told.append((renewal.times, renewal.may_wait))
    assert told == [(0, False), (1, True), (2, False)]
    # What auth asks for does not wait.
    monkeypatch.setattr(renewal, "now", lambda: BEGAN + 5 * 86400)
    renewal.asked([BEGAN + 10, 0.0])
    turn(renewal)
    assert (renewal.times, renewal.may_wait) == (3, False)
