"""What is written as TOML reads back as it was."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.toml_text import document_of, key_of, text_of, value_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WHOLE = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | WHOLE
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WHOLE, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(WHOLE, VALUES, max_size=6))
def test_documents_read_back(document: dict[str, Any]) -> None:
    lines = document_of(document)
    assert tomllib.loads("\n".join(lines)) == document
    assert all(line.isprintable() for line in lines)


def test_as_people_write_it() -> None:
    document = {
        "kind": "role",
        "allow": {
            "logins": ["pi"],
            "node_labels": {"*": ["*"]},
            "rules": [{"resources": ["nodes"], "verbs": ["read"]}],
        },
        "name": "ops",
        "gone": None,
        "traits": {},
        "options": {"x11": True},
        "created": 0.5,
    }
    assert document_of(document, lambda key, value: "long ago" if key == "created" else "") == [
        'kind = "role"',
        'name = "ops"',
        "traits = {}",
        "created = 0.5  # long ago",
        "",
        "[allow]",
        'logins = ["pi"]',
        'node_labels = { "*" = ["*"] }',
        'rules = [{ resources = ["nodes"], verbs = ["read"] }]',
        "",
        "[options]",
        "x11 = true",
    ]


def test_a_long_list_has_a_line_for_each() -> None:
    lines = document_of({"keys": ["x" * 60, "y" * 60]})
    assert lines == ["keys = [", f'    "{"x" * 60}",', f'    "{"y" * 60}",', "]"]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("\x1b]0;owned\x07", '"\\u001b]0;owned\\u0007"'),
        ("\x7f\u202e", '"\\u007f\\u202e"'),
        ("\U000e0001", '"\\U000e0001"'),
        ("\ud800", '"\ufffd"'),
        ('a"\\b', '"a\\"\\\\b"'),
        ("東京", '"東京"'),
    ],
)
def test_hostile_words_stay_words(text: str, written: str) -> None:
    assert text_of(text) == written


def test_keys_and_values() -> None:
    assert [key_of(key) for key in ("a-1_B", "", "a b", "é")] == ["a-1_B", '""', '"a b"', '"é"']
    assert value_of([None, {"a": None}, True, 3]) == "[{}, true, 3]"
