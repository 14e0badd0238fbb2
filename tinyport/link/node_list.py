"""The list of a cluster's nodes as its proxy gives it over SSH: what is asked, and what is answered.

For people of other clusters, who have no way to auth. A subsystem of the proxy's SSH port: one line of JSON each way
(docs/protocol/tunnel.md, "OpenSSH").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tinyport.core.errors import AccessDenied, OperatorError, PeerError, TinyportError, Unavailable
from tinyport.link.refusal import error_of

NODES_SUBSYSTEM = "nodes@tinyport"
MAX_QUESTION = 16 * 1024
MAX_ANSWER = 16 * 1024 * 1024
_PIECE = 64 * 1024

_STATUSES: tuple[tuple[type[TinyportError], int], ...] = ((Unavailable, 503), (AccessDenied, 403), (PeerError, 400))


async def ask_nodes(connection: Any, selectors: Sequence[str], search: str) -> list[dict[str, object]]:
    """The nodes that the proxy at the other end of asyncssh's ``connection`` lets one see. Never reads more than an
    answer may have. Raises asyncssh's errors, and as ``nodes_answer``."""
    process = await connection.create_process(subsystem=NODES_SUBSYSTEM, encoding=None)
    try:
        process.stdin.write(json.dumps({"selectors": list(selectors), "search": search}).encode() + b"\n")
        data = bytearray()
        while len(data) <= MAX_ANSWER and (piece := await process.stdout.read(_PIECE)):
            data += piece
        return nodes_answer(bytes(data))
    finally:
        process.close()


def parse_question(line: bytes) -> tuple[list[str], str]:
    """→ selectors (``k=v``) and words to search for. PeerError when it is not a question."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise PeerError("the question is not a JSON object")
    selectors, search = found.get("selectors", []), found.get("search", "")
    if not isinstance(selectors, list) or not all(isinstance(item, str) for item in selectors):
        raise PeerError("selectors: a list of texts is needed")
    if not isinstance(search, str) or len(search) > 500:
        raise PeerError("search: a text of at most 500 characters is needed")
    return selectors, search


def refusal_line(error: TinyportError) -> bytes:
    """A refusal as the answer."""
    status = next((number for kind, number in _STATUSES if isinstance(error, kind)), 403)
    body = {**error.extra, "code": error.code, "message": error.message, "hint": error.hint}
    return json.dumps({"status": status, "error": body}).encode() + b"\n"


def nodes_answer(data: bytes) -> list[dict[str, object]]:
    """An answer's nodes; raises what was refused. PeerError when it is none."""
    if len(data) > MAX_ANSWER:
        raise PeerError("the list of nodes is too long")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and "error" in found:
        status = found.get("status")
        raise error_of(status if isinstance(status, int) else 403, found)
    nodes = found.get("nodes") if isinstance(found, dict) else None
    if not isinstance(nodes, list):
        raise OperatorError(
            "the other cluster's proxy gives no list of nodes", hint="it may be of an older version", code="unavailable"
        )
    return [node for node in nodes if isinstance(node, dict)]
