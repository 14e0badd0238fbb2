"""Where in a file a setting stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.config_lines import line_of, with_lines

TEXT = """\
# a comment = "no key"
[tinyport]
nodname = "x"

[auth]
static_tokens = [
  { type = "node" },
]
[node]
labels = { site = "berlin", bad = 1 }
"worker_idle" = 3
[node.penalties]
exempt = "x"
[[trusted_clusters]]
name = "a"
[[trusted_clusters]]
name = "b"
"""


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("tinyport.nodname", 3),
        ("auth.static_tokens[0].value", 6),
        ("node.labels.bad", 10),
        ("node.worker_idle", 11),
        ("node.penalties.exempt", 13),
        ("trusted_clusters[1].name", 17),
        ("trusted_clusters[1].user_ca", 16),
        ("auth.cluster_name", 5),
        ("proxy.tls", None),
        ("nod", None),
    ],
)
def test_the_line_of_a_setting(place: str, line: int | None) -> None:
    assert line_of(TEXT, place) == line


def test_problems_are_told_with_their_lines() -> None:
    problems = ["t.toml: node.worker_idle is 3: must be a duration", "t.toml: proxy.tls: cert and key go together"]
    assert with_lines(problems, "t.toml", TEXT) == [
        "t.toml:11: node.worker_idle is 3: must be a duration",
        "t.toml: proxy.tls: cert and key go together",
    ]


@given(st.text(), st.text())
def test_any_text_has_an_answer(text: str, place: str) -> None:
    line = line_of(text, place)
    assert line is None or 1 <= line <= len(text.splitlines())
