"""An export of the audit log tells whatever was done to it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.audit_chain import (
    CHECKPOINT,
    FIRST_HASH,
    canonical,
    chain,
    check_export,
    export_end,
    export_event,
    export_start,
)
from tinyport.core.errors import PeerError
from tinyport.core.policy import sign_document
from tinyport.core.signatures import Ed25519Key

KEY, OTHER = Ed25519Key.generate(), Ed25519Key.generate()
KEYS = [OTHER.public_blob, KEY.public_blob]


def made(count: int = 6, after: int = 0, cluster: str = "farm.example", key: Ed25519Key = KEY) -> list[dict[str, Any]]:
    hash, lines = FIRST_HASH, []
    for id in range(1, count + 1):
        event = {"event": "exec", "command": f"ls {id}", "time": id + 0.25, "who": "älice \U0001f331"}
        hash = chain(hash, canonical(event))
        lines.append(export_event(id, hash, event))
    head = {"kind": "audit-head", "cluster": cluster, "id": count, "hash": hash, "time": 1_700_000_000}
    previous = FIRST_HASH if after == 0 else str(lines[after - 1]["hash"])
    return [export_start(cluster, after, previous), *lines[after:], export_end(sign_document(key, head))]


def text(lines: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(line) + "\n" for line in lines]


def test_whole_and_in_part() -> None:
    whole = check_export(text(made()), KEYS)
    assert (whole.after, whole.last, whole.events, whole.time) == (0, 6, 6, 1_700_000_000)
    part = check_export(text(made(after=4)), KEYS)
    assert (part.after, part.last, part.events, part.hash) == (4, 6, 2, whole.hash)
    assert check_export(text(made(0)), KEYS).events == 0


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: lines[3]["event"].update(command="rm"), "event 3 was altered"),
        (lambda lines: lines.pop(3), "event 3 is missing"),
        (lambda lines: lines.insert(3, dict(lines[2])), "event 3 is missing"),
        (lambda lines: lines.pop(), "was cut: it ends after line 7"),
        (lambda lines: lines.pop(6), "was cut: it ends with event 5, its head speaks of 6"),
        (lambda lines: lines.pop(0), "not an export"),
        (lambda lines: lines[0].update(previous="1" * 64), "begin at its beginning"),
        (lambda lines: lines[0].update(cluster="elsewhere"), "cluster elsewhere was expected"),
        (lambda lines: lines[7].update(head={}), "malformed"),
        (lambda lines: lines.__setitem__(7, made(key=Ed25519Key.generate())[7]), "not signed by"),
        (lambda lines: lines.__setitem__(7, made(6, cluster="x.example")[7]), "farm.example was expected"),
        (lambda lines: lines.clear(), "empty"),
    ],
)
def test_what_was_done_to_it(damage: Any, words: str) -> None:
    lines = made()
    damage(lines)
    with pytest.raises(PeerError, match=words):
        check_export(text(lines), KEYS)


def test_a_rewritten_log_has_no_head() -> None:
    """Whoever alters an event and every hash after it cannot sign the end."""
    lines = made()
    hash = str(lines[2]["hash"])
    lines[3]["event"]["command"] = "rm"
    for line in lines[3:-1]:
        hash = chain(hash, canonical(line["event"]))
        line["hash"] = hash
    with pytest.raises(PeerError, match="not the one that its head speaks of"):
        check_export(text(lines), KEYS)


@given(st.lists(st.text(max_size=200), max_size=6))
def test_garbage_is_refused(lines: list[str]) -> None:
    with pytest.raises(PeerError):
        check_export(lines, KEYS)


def test_a_line_without_end() -> None:
    with pytest.raises(PeerError, match="line 1"):
        check_export(["[" * 300_000], KEYS)


def test_a_beginning_that_was_removed() -> None:
    """Its checkpoint must be signed, and be of where the export begins."""
    lines = made(after=4)
    start = lines[0]
    body = {"kind": CHECKPOINT, "cluster": "farm.example", "id": 4, "hash": start["previous"], "time": 1}
    start["checkpoint"] = sign_document(KEY, body)
    found = check_export(text(lines), KEYS)
    assert (found.after, found.removed) == (4, True)
    assert not check_export(text(made(after=4)), KEYS).removed
    stranger = Ed25519Key.generate()
    for wrong in (
        sign_document(stranger, body),
        sign_document(KEY, {**body, "id": 3}),
        sign_document(KEY, {**body, "hash": "0" * 64}),
        sign_document(KEY, {**body, "kind": "audit-head"}),
        sign_document(KEY, {**body, "cluster": "other.example"}),
        {},
        None,
    ):
        start["checkpoint"] = wrong
        with pytest.raises(PeerError):
            check_export(text(lines), KEYS)
