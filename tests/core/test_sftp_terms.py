"""``sftp`` and ``sftp_root`` of roles: what is well said, and what several come to."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tinyport.core.errors import ConfigError
from tinyport.core.rights import permits, sftp_terms
from tinyport.core.roles import Role, parse_role, role_document
from tinyport.core.sftp_terms import SftpTerms

TRAITS = {"site": ["berlin"], "sites": ["berlin", "paris"], "evil": [".."], "slash": ["a/b"], "odd": ["a\nb"]}


def role(**options: object) -> Role:
    return parse_role({"name": "r", "options": options})


def terms(*options: dict[str, Any]) -> SftpTerms:
    roles = [role(**each) for each in options]
    found = {sftp_terms(order, "alice", TRAITS) for order in itertools.permutations(roles)}
    assert len(found) == 1, "the order of roles mattered"
    return found.pop()


@pytest.mark.parametrize("root", ["/srv", "/srv/sftp/{{user.name}}", "/srv/{{traits.site}}-x/{{ user.name }}/"])
def test_a_role_may_have_a_root(root: str) -> None:
    made = role(sftp_root=root)
    assert parse_role(role_document(made)) == made


@pytest.mark.parametrize(
    "options",
    [
        {"sftp": "readonly"},
        {"sftp": 1},
        {"sftp_root": True},
        {"sftp_root": ""},
        {"sftp_root": "/"},
        {"sftp_root": "//"},
        {"sftp_root": "srv"},
        {"sftp_root": "{{user.name}}"},
        {"sftp_root": "/srv/../etc"},
        {"sftp_root": "/srv/."},
        {"sftp_root": "/srv/{{user.name"},
        {"sftp_root": "/srv/{{name}}"},
        {"sftp_root": "/srv/{{else.name}}"},
        {"sftp_root": "/srv/a\nb"},
        {"sftp_root": "/srv/" + "x" * 600},
    ],
)
def test_what_is_not_well_said(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"options\.sftp"):
        role(**options)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([{}], SftpTerms()),
        ([{"sftp": True}, {}], SftpTerms()),
        ([{"sftp": True}, {"sftp": "read-only"}], SftpTerms(read_only=True)),
        ([{"sftp_root": "/srv/{{user.name}}/"}, {}], SftpTerms(root="/srv/alice")),
        ([{"sftp_root": "/srv/x-{{traits.site}}"}], SftpTerms(root="/srv/x-berlin")),
        ([{"sftp_root": "/srv"}, {"sftp_root": "/srv/{{user.name}}"}], SftpTerms(root="/srv/alice")),
        ([{"sftp_root": "/srv"}, {"sftp_root": "//srv/"}], SftpTerms(root="/srv")),
    ],
)
def test_the_tightest_counts(options: list[dict[str, Any]], wanted: SftpTerms) -> None:
    assert terms(*options) == wanted


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([{"sftp_root": "/srv/a"}, {"sftp_root": "/srv/b"}], "several: /srv/a and /srv/b"),
        ([{"sftp_root": "/srv"}, {"sftp_root": "/srv/a"}, {"sftp_root": "/srv/ab"}], "several"),
        ([{"sftp_root": "/srv/{{traits.none}}"}], "no values"),
        ([{"sftp_root": "/srv/{{traits.sites}}"}], "2 values"),
        ([{"sftp_root": "/srv/{{traits.evil}}"}], "no name of a folder"),
        ([{"sftp_root": "/srv/{{traits.slash}}"}], "no name of a folder"),
        ([{"sftp_root": "/srv/{{traits.odd}}"}], "no name of a folder"),
    ],
)
def test_a_root_that_cannot_be_is_no_root_but_a_refusal(options: list[dict[str, Any]], words: str) -> None:
    found = terms(*options)
    assert found.root is None
    assert words in found.refusal


def test_two_values_do_not_make_a_way_up() -> None:
    assert terms({"sftp_root": "/srv/.{{traits.dot}}"}).refusal
    traits = {"dot": ["."]}
    assert sftp_terms([role(sftp_root="/srv/.{{traits.dot}}/x")], "alice", traits).refusal


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([{"sftp_root": "/srv"}], {"sftp"}),
        ([{"sftp_root": "/srv", "sftp": "read-only"}], {"sftp"}),
        ([{"sftp_root": "/srv", "sftp": False}], set()),
        ([{"sftp_root": "/srv", "exec": True}], {"sftp", "exec"}),
        ([{"sftp_root": "/srv", "port_forwarding": True}], {"sftp", "port_forwarding"}),
        ([{"sftp_root": "/srv"}, {}], {"sftp", "exec", "pty", "port_forwarding"}),
        ([{"sftp": "read-only"}], {"sftp", "exec", "pty", "port_forwarding"}),
        ([{"sftp": "read-only"}, {"sftp": False}], {"exec", "pty", "port_forwarding"}),
    ],
)
def test_a_role_with_a_root_gives_nothing_else_by_itself(options: list[dict[str, Any]], wanted: set[str]) -> None:
    assert permits([role(**each) for each in options]) == wanted
