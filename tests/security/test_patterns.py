"""Patterns that strangers write: ``tsh ls site=...`` and ``tsh ssh k=v`` reach auth and proxies from any user."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.labels import glob_matches, has_all, value_matches


@given(st.text("ab*", max_size=7), st.text("ab\n", max_size=8))
def test_a_glob_means_what_it_looks_like(pattern: str, value: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value, re.DOTALL) is not None
    assert glob_matches(pattern, value) is expected
    assert value_matches(pattern, value) is expected


@pytest.mark.parametrize("pattern", ["*x" * 120 + "*y", "^(.|.)*;$", "^((x|x)*)*;$", "^(x+)+y$"])
def test_no_selector_keeps_a_server_busy(pattern: str) -> None:
    """Each of these takes a backtracking matcher longer than the universe has been there."""
    before = time.process_time()
    assert not has_all({"site": pattern}, {"site": "x" * 256})
    assert time.process_time() - before < 0.5


def test_users_write_globs_and_administrators_regular_expressions() -> None:
    assert has_all({"model": "pi*"}, {"model": "pi4"})
    assert not has_all({"model": "^pi.$"}, {"model": "pi4"})
    assert has_all({"model": "^pi.$"}, {"model": "^pi.$"})
    assert value_matches("^pi.$", "pi4")
    assert not value_matches("^pi.$", "pi40")
