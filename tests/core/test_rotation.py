"""Rotations as a state machine: every walk through the phases keeps what was signed good until it may end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core import rotation as r
from tinyport.core.errors import PeerError
from tinyport.core.rotation import FORWARD, INIT, PHASES, ROLLBACK, STANDBY, TRANSITIONS, TYPES, Rotation

KINDS = ("user", "node", "proxy", "auth")


def test_a_rotation_goes_through_its_phases() -> None:
    rotation, actions = Rotation("tls"), []
    for number, phase in enumerate((INIT, "update_clients", "update_servers", STANDBY)):
        rotation, action = r.step(rotation, phase, 100.0 + number)
        actions.append(action)
    assert actions == ["make", "keep", "keep", "take"]
    assert rotation == Rotation("tls", STANDBY, started=100.0, changed=103.0)


@pytest.mark.parametrize("phase", [INIT, "update_clients", "update_servers"])
def test_every_step_can_be_taken_back(phase: str) -> None:
    back, action = r.step(Rotation("user", phase, 1.0, 2.0, grace=90.0), ROLLBACK, 3.0)
    assert (action, back.grace) == ("keep", None)
    assert r.step(back, STANDBY, 4.0)[1] == "drop"


@pytest.mark.parametrize("phase", PHASES)
def test_what_does_not_follow_is_refused_by_name(phase: str) -> None:
    for wanted in PHASES:
        if (phase, wanted) not in TRANSITIONS:
            with pytest.raises(PeerError) as refused:
                r.step(Rotation("host", phase), wanted, 1.0)
            assert f"phase {phase}" in refused.value.message
            assert "possible now" in refused.value.hint


class _Keys:
    """What auth does with its keys, in small."""

    def __init__(self) -> None:
        self.keys = {"active": 1}
        self._last = 1

    def act(self, action: str) -> None:
        if action == "make":
            self._last += 1
            self.keys["new"] = self._last
        elif action == "take":
            self.keys = {"active": self.keys["new"]}
        elif action == "drop":
            del self.keys["new"]

    def signer(self, type: str, phase: str, kind: str) -> int:
        return self.keys["new" if r.signs_new(type, phase, kind) else "active"]


@given(st.sampled_from(TYPES), st.lists(st.sampled_from(PHASES), max_size=40))
def test_no_walk_signs_with_a_key_that_is_not_trusted_or_lets_go_of_one_at_once(type: str, walk: list[str]) -> None:
    rotation, keys = Rotation(type), _Keys()
    for wanted in walk:
        signers = {kind: keys.signer(type, rotation.phase, kind) for kind in KINDS}
        trusted = set(keys.keys.values())
        try:
            after, action = r.step(rotation, wanted, rotation.changed + 1)
        except PeerError:
            continue
        keys.act(action)
        rotation = after
        now = set(keys.keys.values())
        for kind in KINDS:
            # Whoever signs now was trusted already before it signs, and whoever signed just before stays trusted.
            signer = keys.signer(type, rotation.phase, kind)
            assert signer in now
            assert signer in trusted or signer == signers[kind]
            assert signers[kind] in now
        assert ("new" in keys.keys) == (rotation.phase != STANDBY)


def test_the_page_shows_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rotation.md").read_text()
    drawn = page.partition("stateDiagram-v2\n    [*] --> standby\n")[2].partition("```")[0].split("\n")
    assert [line.strip() for line in drawn if line] == [
        f"{before} --> {after}: {action}" for (before, after), action in TRANSITIONS.items()
    ]


@given(st.floats(min_value=0, max_value=1e6), st.integers(min_value=r.LEAST_GRACE, max_value=r.MOST_GRACE))
def test_a_grace_period_ends_in_standby_and_never_hurries(slept: float, grace: int) -> None:
    rotation, _ = r.step(Rotation("tls"), INIT, 1000.0, grace)
    now = 1000.0
    for phase in (*FORWARD.values(),):
        at = rotation.next_at
        assert at is not None
        assert at == pytest.approx(now + grace / 3)
        assert r.due(rotation, at - 1e-3) is None
        # Auth was off when its time came: the phase after it waits as long as planned all the same.
        now = at + slept
        assert r.due(rotation, now) == phase
        rotation, _ = r.step(rotation, phase, now)
    assert (rotation.phase, rotation.next_at) == (STANDBY, None)


def test_clients_change_before_servers() -> None:
    signs = {
        (type, phase, kind): r.signs_new(type, phase, kind) for type in TYPES for phase in PHASES for kind in KINDS
    }
    assert {kind for (type, phase, kind), new in signs.items() if new and phase == "update_clients"} == {"user", "node"}
    assert not any(new for (type, phase, kind), new in signs.items() if type == "host" and phase != "update_servers")
    assert not any(new for (_, phase, _), new in signs.items() if phase in (STANDBY, INIT, ROLLBACK))


def test_the_grace_period_has_bounds() -> None:
    assert r.check_grace(48 * 3600) == 48 * 3600
    for seconds in (0, r.LEAST_GRACE - 1, r.MOST_GRACE + 1):
        with pytest.raises(PeerError):
            r.check_grace(seconds)
