"""Label selectors: which nodes a role, a command or a search means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from tinyport.core.errors import PeerError
from tinyport.core.names import check_label, printable

WILDCARD = "*"
MAX_PATTERN = 256


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> re.Pattern[str] | None:
    """A pattern of a selector as a regular expression that must match the whole value; None for a plain value.

    ``^...$`` is a regular expression, ``*`` in anything else a glob. PeerError when it is neither or too long.
    """
    if len(pattern) > MAX_PATTERN:
        raise PeerError(f"a pattern of {len(pattern)} characters, at most {MAX_PATTERN} are allowed")
    if pattern.startswith("^") and pattern.endswith("$"):
        try:
            return re.compile(pattern[1:-1])
        except re.error as error:
            raise PeerError(f"{printable(pattern, 80)!r} is not a regular expression: {error}") from None
    if WILDCARD in pattern:
        return re.compile(".*".join(re.escape(piece) for piece in pattern.split(WILDCARD)), re.DOTALL)
    return None


def value_matches(pattern: str, value: str) -> bool:
    """Does one pattern match one value, from its first to its last character?"""
    compiled = compile_pattern(pattern)
    if compiled is None or not pattern.startswith("^"):
        return glob_matches(pattern, value)
    return compiled.fullmatch(value) is not None


def glob_matches(pattern: str, value: str) -> bool:
    """Does a pattern in which ``*`` alone is special match? In linear time, so that strangers may write patterns."""
    first, *pieces = pattern.split(WILDCARD)
    if not pieces:
        return value == pattern
    at, end = len(first), len(value) - len(last := pieces.pop())
    if at > end or not value.startswith(first) or not value.endswith(last):
        return False
    for piece in pieces:
        found = value.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def matches(selector: Mapping[str, Sequence[str]], labels: Mapping[str, str]) -> bool:
    """Does a role's selector mean a node with these labels?

    Every key must be there with a value that one of its patterns matches. ``{"*": ["*"]}`` means every node. A selector
    without keys, and a key without patterns, mean none: absent is denied.
    """
    if not selector:
        return False
    for key, patterns in selector.items():
        if key == WILDCARD:
            # Only "every label, every value" has a meaning; a wildcard key with a pattern would be a guess.
            if list(patterns) != [WILDCARD]:
                return False
            continue
        value = labels.get(key)
        if value is None or not any(value_matches(pattern, value) for pattern in patterns):
            return False
    return True


def parse_pairs(words: Sequence[str]) -> dict[str, str]:
    """``["site=berlin", "model=pi4"]`` → a map. PeerError for a word that is not ``key=value`` or a key that
    repeats.
    """
    pairs: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise PeerError(f"{printable(word, 80)!r} is not a label", hint="write key=value")
        check_label(key, value)
        if key in pairs:
            raise PeerError(f"label {key!r} is given twice")
        pairs[key] = value
    return pairs


def has_all(pairs: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Does a node have all these labels? ``*`` in a value is a glob, and nothing else is special: any user may ask.
    No pairs: every node has them.
    """
    return all(key in labels and glob_matches(value, labels[key]) for key, value in pairs.items())
