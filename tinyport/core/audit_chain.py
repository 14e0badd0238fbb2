"""The audit log as a chain, and an export of it that can be checked anywhere (docs/protocol/audit.md).

Each event's hash covers the event and the hash before it; the newest hash is signed by the policy key. So whoever holds
an export can show that the log was altered since, that something was taken out, or that its end was cut off. What
``audit_retention`` removes from its beginning leaves a signed checkpoint, from which the chain goes on.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tinyport.core.errors import PeerError
from tinyport.core.policy import open_document

FIRST_HASH = "0" * 64
EXPORT, HEAD, CHECKPOINT = "audit-export", "audit-head", "audit-checkpoint"
VERSION = 1
#: an event of at most 16 kB, escaped
MAX_LINE = 256 * 1024


def canonical(event: Mapping[str, object]) -> str:
    """An event as the text that is hashed: JSON, keys sorted, no spaces, UTF-8."""
    return json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def chain(previous: str, body: str) -> str:
    """The hash of an event with this canonical ``body``, after one with hash ``previous``. Hex SHA-256."""
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()


@dataclass(frozen=True)
class Checked:
    """An export that holds. Its events are those after id ``after`` up to ``last``; ``hash`` is the last one's, and
    ``time`` (Unix seconds) when auth signed it. ``removed``: auth signed that it removed everything up to ``after``."""

    cluster: str
    after: int
    last: int
    events: int
    hash: str
    time: float
    removed: bool = False


def export_start(
    cluster: str, after: int, previous: str, checkpoint: Mapping[str, str] | None = None
) -> dict[str, object]:
    """The first line of an export of the events after id ``after``, whose hash is ``previous``. ``checkpoint``: the
    signed one of that id, when nothing before is there any more."""
    start = {"kind": EXPORT, "version": VERSION, "cluster": cluster, "after": after, "previous": previous}
    return start if checkpoint is None else {**start, "checkpoint": checkpoint}


def export_event(id: int, hash: str, body: Mapping[str, object]) -> dict[str, object]:
    return {"id": id, "hash": hash, "event": body}


def export_end(head: Mapping[str, str]) -> dict[str, object]:
    """The last line: the signed head, which says what the last event must be."""
    return {"kind": HEAD, "head": head}


def check_export(lines: Iterable[str], policy_keys: Sequence[bytes]) -> Checked:
    """Walk an export. ``policy_keys``: SSH blobs, one of which must have signed the head.

    PeerError says at which line it does not hold, and what that means.
    """
    start: Mapping[str, object] | None = None
    cluster, hash, id, number = "", "", 0, 0
    for number, line in enumerate(lines, 1):
        item = _parsed(line, number)
        if start is None:
            start = item
            cluster, id, hash = _start(item)
            _check_removed(item, policy_keys, cluster, id, hash)
        elif item.get("kind") == HEAD:
            time = _check_head(item.get("head"), policy_keys, cluster, id, hash)
            after = int(str(start["after"]))
            return Checked(cluster, after, id, id - after, hash, time, removed="checkpoint" in start)
        else:
            id, hash = _follow(item, id, hash, number)
    if start is None:
        raise PeerError("the file is empty")
    raise PeerError(f"the log was cut: it ends after line {number}, without a signed head", code="cut")


def _parsed(line: str, number: int) -> Mapping[str, object]:
    try:
        item = json.loads(line) if len(line) <= MAX_LINE else None
    except (ValueError, RecursionError):
        item = None
    if not isinstance(item, dict):
        raise PeerError(f"line {number} is not one of an export")
    return item


def _start(item: Mapping[str, object]) -> tuple[str, int, str]:
    cluster, after, previous = item.get("cluster"), item.get("after"), item.get("previous")
    if item.get("kind") != EXPORT or item.get("version") != VERSION:
        raise PeerError("the file is not an export of the audit log", hint="make one with tctl audit export")
    if not isinstance(cluster, str) or not isinstance(after, int) or not isinstance(previous, str):
        raise PeerError("line 1 is not one of an export")
    if after == 0 and previous != FIRST_HASH:
        raise PeerError("line 1: the log does not begin at its beginning", code="altered")
    return cluster, after, previous


def _check_removed(
    item: Mapping[str, object], policy_keys: Sequence[bytes], cluster: str, after: int, previous: str
) -> None:
    if "checkpoint" not in item:
        return
    checkpoint = open_head(item["checkpoint"], policy_keys, cluster, CHECKPOINT)
    if (checkpoint.id, checkpoint.hash) != (after, previous):
        raise PeerError("line 1: the log does not begin where its checkpoint says", code="altered")


def hash_in_export(lines: Iterable[str], id: int) -> str | None:
    """The hash of one event in an export that was checked; None when it is not in it."""
    for number, line in enumerate(lines, 1):
        item = _parsed(line, number)
        if item.get("kind") == EXPORT and item.get("after") == id:
            return str(item.get("previous"))
        if item.get("id") == id:
            return str(item.get("hash"))
    return None


def _follow(item: Mapping[str, object], id: int, hash: str, number: int) -> tuple[int, str]:
    event = item.get("event")
    if not isinstance(event, dict):
        raise PeerError(f"line {number} is not one of an export")
    if item.get("id") != id + 1:
        raise PeerError(f"line {number}: event {id + 1} is missing", code="altered")
    expected = chain(hash, canonical(event))
    if not hmac.compare_digest(expected, str(item.get("hash"))):
        raise PeerError(f"line {number}: event {id + 1} was altered, or one before it", code="altered")
    return id + 1, expected


def _check_head(signed: object, policy_keys: Sequence[bytes], cluster: str, id: int, hash: str) -> float:
    head = open_head(signed, policy_keys, cluster)
    if head.id != id:
        raise PeerError(f"the log was cut: it ends with event {id}, its head speaks of {head.id}", code="cut")
    if head.hash != hash:
        raise PeerError("the log is not the one that its head speaks of", code="altered")
    return head.time


@dataclass(frozen=True)
class Head:
    """What auth signed: the newest event's ``id`` and ``hash``, at ``time`` (Unix seconds); a checkpoint's are of the
    newest event that was removed."""

    id: int
    hash: str
    time: float


def open_head(signed: object, policy_keys: Sequence[bytes], cluster: str, kind: str = HEAD) -> Head:
    """A signed head or checkpoint (``kind``), checked. PeerError when none of the keys signed it."""
    refusal = PeerError("there is no policy key to check the head with")
    for key in policy_keys:
        try:
            body = open_document(signed, key, kind, cluster)
        except PeerError as error:
            refusal = error
            continue
        id, hash, time = body.get("id"), body.get("hash"), body.get("time")
        if isinstance(id, int) and isinstance(hash, str) and isinstance(time, (int, float)):
            return Head(id, hash, float(time))
        raise PeerError(f"malformed {kind}")
    raise refusal
