"""What roles come to, beside an oracle that says it rule by rule; and what must hold whatever roles say."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tinyport.core import labels as label_rules
from tinyport.core.rights import Rights, allowed_logins, may, permits
from tinyport.core.roles import Role, parse_role

LOGINS = ("pi", "root", "admin")
TRAITS = {"logins": ("pi", "alice", "*"), "teams": ()}
NODES: tuple[dict[str, str], ...] = ({}, {"site": "berlin"}, {"site": "paris", "env": "test"}, {"env": "prod"})

logins = st.lists(
    st.sampled_from([*LOGINS, "*", "{{internal.logins}}", "{{user.name}}", "{{internal.teams}}"]), max_size=3
)
patterns = st.lists(st.sampled_from(["berlin", "*", "p*", "^(test|prod)$", ""]).filter(bool), max_size=2)
selectors = st.dictionaries(st.sampled_from(["site", "env"]), patterns, max_size=2) | st.just({"*": ["*"]})
rules = st.lists(
    st.fixed_dictionaries(
        {
            "resources": st.lists(st.sampled_from(["nodes", "users", "*"]), min_size=1, max_size=2),
            "verbs": st.lists(st.sampled_from(["read", "create", "*"]), min_size=1, max_size=2),
        }
    ),
    max_size=2,
)
sides = st.fixed_dictionaries({}, optional={"logins": logins, "node_labels": selectors, "rules": rules})
options = st.fixed_dictionaries(
    {},
    optional={
        "pty": st.booleans(),
        "exec": st.booleans(),
        "forward_agent": st.booleans(),
        "port_forwarding": st.sampled_from([True, False, "local"]),
        "sftp": st.sampled_from([True, False, "read-only"]),
    },
)


@st.composite
def roles(draw: st.DrawFn, most: int = 4) -> list[Role]:
    made = []
    for number in range(draw(st.integers(0, most))):
        body = {"name": f"r{number}", "allow": draw(sides), "deny": draw(sides), "options": draw(options)}
        made.append(parse_role(body))
    return made


def oracle(found: Sequence[Role], login: str, labels: dict[str, str]) -> tuple[bool, bool, bool]:
    """(seen, denied, allowed), as docs/roles.md has it, sentence by sentence."""

    def names(texts: Sequence[str]) -> bool:
        values = {"{{internal.logins}}": ["pi", "alice"], "{{user.name}}": ["alice"], "{{internal.teams}}": []}
        each = [name for text in texts for name in values.get(text, [text])]
        return login in each or "*" in each

    hidden = any(role.deny.node_labels and not role.deny.logins and on(role.deny.node_labels, labels) for role in found)
    denied = any(
        (role.deny.logins or role.deny.node_labels)
        and (not role.deny.logins or names(role.deny.logins))
        and (not role.deny.node_labels or on(role.deny.node_labels, labels))
        for role in found
    )
    selected = [role for role in found if on(role.allow.node_labels, labels)]
    return bool(selected) and not hidden, denied, any(names(role.allow.logins) for role in selected)


on = label_rules.matches


def said(found: Sequence[Role], login: str, labels: dict[str, str]) -> tuple[bool, bool, bool]:
    there = Rights(found, "alice", TRAITS).on(labels)
    return there.seen, there.denying(login) is not None, there.allowing(login) is not None


@given(found=roles(), login=st.sampled_from([*LOGINS, "alice"]), labels=st.sampled_from(NODES))
def test_as_the_oracle_has_it(found: list[Role], login: str, labels: dict[str, str]) -> None:
    assert said(found, login, labels) == oracle(found, login, labels)
    # Asked again, of the same one: what is kept is what was said.
    rights = Rights(found, "alice", TRAITS)
    assert [rights.on(node) for node in NODES] == [rights.on(node) for node in NODES]


def access(found: Sequence[Role]) -> set[tuple[object, ...]]:
    """Everything that these roles let alice do."""
    able: set[tuple[object, ...]] = {("permit", permit) for permit in permits(found)} if found else set()
    able |= {("certificate", login) for login in allowed_logins(found, "alice", TRAITS)}
    able |= {
        ("api", what, verb) for what in ("nodes", "users") for verb in ("read", "create") if may(found, what, verb)
    }
    for number, labels in enumerate(NODES):
        for login in (*LOGINS, "alice"):
            _, denied, allowed = said(found, login, labels)
            if allowed and not denied:
                able.add(("login", number, login))
        if said(found, "pi", labels)[0]:
            able.add(("see", number))
    return able


@given(found=roles(), order=st.randoms())
def test_the_order_of_roles_never_matters(found: list[Role], order: st.DataObject) -> None:
    shuffled = list(found)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert access(found) == access(shuffled)


@given(found=roles(), deny=sides)
def test_adding_a_deny_never_grants(found: list[Role], deny: dict[str, object]) -> None:
    denying = parse_role({"name": "deny", "deny": deny, "options": {"pty": False, "exec": False, "sftp": False}})
    more = access([*found, denying]) - access(found)
    # A role without a word about them brings the permits that everybody expects.
    assert {one for one in more if one[0] != "permit"} == set()


@given(found=roles(), deny=sides, at=st.integers(0, 3))
def test_a_deny_in_a_role_takes_only_away(found: list[Role], deny: dict[str, object], at: int) -> None:
    if not found:
        return
    changed = list(found)
    role = changed[at % len(found)]
    extra = parse_role({"name": role.name, "deny": deny}).deny
    # Beside what it denies already, as a role of its own that allows nothing.
    changed.append(Role("extra", parse_role({"name": "extra"}).allow, extra, role.options))
    assert access(changed) <= access(found)
