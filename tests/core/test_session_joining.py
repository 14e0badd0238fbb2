"""Who may join whose session: what roles say, and what must hold whatever they say."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.errors import AccessDenied, ConfigError
from tinyport.core.rights import Rights
from tinyport.core.roles import Role, parse_role
from tinyport.core.session_joining import MODES, NO_JOINS, JoinRights, join_subsystem, parse_join

OWNERS = ((), ("a",), ("b", "c"))

entries = st.fixed_dictionaries(
    {
        "roles": st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=2),
        "modes": st.lists(st.sampled_from(MODES), min_size=1, max_size=2),
    }
)
rules = st.lists(
    st.sampled_from(
        [
            {"resources": ["sessions"], "verbs": ["join"]},
            {"resources": ["*"], "verbs": ["*"]},
            {"resources": ["sessions"], "verbs": ["read"]},
        ]
    ),
    max_size=2,
)
sides = st.fixed_dictionaries({}, optional={"rules": rules})
bodies = st.fixed_dictionaries(
    {"allow": sides, "deny": sides},
    optional={"options": st.fixed_dictionaries({"join_sessions": st.lists(entries, max_size=3)})},
)


def made(found: list[dict[str, Any]]) -> list[Role]:
    return [parse_role({"name": f"r{number}", **body}) for number, body in enumerate(found)]


def able(found: list[Role]) -> set[tuple[object, ...]]:
    joins = Rights(found, "alice", {}).joins
    return {
        (mode, owner, own)
        for mode in MODES
        for owner in OWNERS
        for own in (True, False)
        if joins.may_join(mode, owner_roles=owner, own=own)
    }


@given(found=st.lists(bodies, max_size=4), seed=st.integers())
def test_the_order_never_matters(found: list[dict[str, Any]], seed: int) -> None:
    roles = made(found)
    shuffled = list(roles)
    random.Random(seed).shuffle(shuffled)
    assert able(roles) == able(shuffled)


@given(found=st.lists(bodies, max_size=4), deny=rules)
def test_a_deny_never_grants(found: list[dict[str, Any]], deny: list[dict[str, Any]]) -> None:
    roles = made(found)
    assert able([*roles, parse_role({"name": "deny", "deny": {"rules": deny}})]) <= able(roles)


def test_what_is_said() -> None:
    watch = parse_role({"name": "w", "options": {"join_sessions": [{"roles": ["a"], "modes": ["observer"]}]}})
    own = {(mode, owner, True) for mode in MODES for owner in OWNERS}
    assert able([]) == own
    assert able([watch]) == own | {("observer", ("a",), False)}
    everything = parse_role({"name": "e", "allow": {"rules": [{"resources": ["sessions"], "verbs": ["join"]}]}})
    assert len(able([everything])) == 12
    denied = parse_role({"name": "d", "deny": {"rules": [{"resources": ["sessions"], "verbs": ["join"]}]}})
    assert able([watch, everything, denied]) == set()
    assert not NO_JOINS.may_join("observer", owner_roles=("a",), own=True)
    assert not JoinRights(everything=True).may_join("ghost", owner_roles=(), own=True)


@pytest.mark.parametrize(
    "value",
    [
        "a",
        [{"roles": ["a"]}],
        [{"roles": [], "modes": ["observer"]}],
        [{"roles": ["a"], "modes": "observer"}],
        [{"roles": ["a"], "modes": ["ghost"]}],
        [{"roles": ["A B"], "modes": ["peer"]}],
        [{"roles": ["a"], "modes": ["peer"], "more": 1}],
        [5],
    ],
)
def test_nonsense_is_refused(value: object) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_role({"name": "a", "options": {"join_sessions": value}})
    assert "options.join_sessions" in refused.value.problems[0]


def test_what_a_client_asks_for() -> None:
    assert parse_join(join_subsystem("0af3", "peer")) == ("peer", "0af3")
    assert parse_join("sftp") is None
    for bad in ("join:", "join:ghost:0af3", "join:peer", "join:peer:", "join:peer:../x"):
        with pytest.raises(AccessDenied):
            parse_join(bad)
