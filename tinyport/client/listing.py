"""``tsh ls``: the nodes that one's roles let one see."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from tinyport.client.whoami import auth_client, identity_of
from tinyport.core.durations import format_duration
from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.labels import parse_pairs
from tinyport.host.console import emit, paint
from tinyport.host.console_table import table

_COLOURS = {"online": "green", "offline": "red", "pending": "yellow", "quarantined": "yellow"}


def run(args: argparse.Namespace) -> int:
    """Ask auth, and show a line for each node."""
    try:
        parse_pairs(args.labels)
    except PeerError as error:
        raise OperatorError(error.message, hint=error.hint, code="usage") from None
    query = [("selector", pair) for pair in args.labels]
    if args.search:
        query.append(("search", args.search))
    identity = identity_of(args)
    if args.cluster and args.cluster != identity.cluster:
        import asyncio

        from tinyport.client.elsewhere import nodes_elsewhere

        nodes = asyncio.run(nodes_elsewhere(identity, args.cluster, args.labels, args.search or ""))
    else:
        with auth_client(identity) as client:
            answer = client.request("GET", "/v1/nodes" + (f"?{urlencode(query)}" if query else ""))
        found = answer.get("nodes")
        nodes = [node for node in found if isinstance(node, dict)] if isinstance(found, list) else []
    now = time.time()
    emit(args, {"nodes": nodes}, lambda: lines(nodes, now, verbose=args.verbose))
    if not nodes and args.format == "text":
        print("no node matches" if query else "there is no node that your roles let you see", file=sys.stderr)
    return 0


def lines(nodes: Sequence[Mapping[str, object]], now: float, *, verbose: bool) -> list[str]:
    """Nodes as a table for people; all that they say is hostile text."""
    headers = ["NODE", "STATUS", "SEEN", "LABELS"]
    if verbose:
        headers = ["NODE", "STATUS", "SEEN", "UUID", "ADDRESSES", "VERSION", "LABELS"]
    rows = [_row(node, now, verbose=verbose) for node in nodes]
    return table(rows, headers, paint_cell=_painted) if rows else []


def _painted(header: str, text: str) -> str:
    return paint(text, _COLOURS[text]) if header == "STATUS" and text in _COLOURS else text


def _row(node: Mapping[str, object], now: float, *, verbose: bool) -> list[str]:
    seen = node.get("last_seen")
    if node.get("status") == "online":
        when = "now"
    else:
        when = f"{format_duration(now - seen)} ago" if isinstance(seen, (int, float)) else "never"
    head = [str(node.get("name", "")), str(node.get("status", "")), when]
    owned, declared = _pairs(node.get("labels")), _pairs(node.get("declared_labels"))
    # What a node says of itself is set apart: it grants nothing.
    labels = " ".join(owned + ([f"({' '.join(declared)})"] if declared else []))
    if not verbose:
        return [*head, labels]
    addresses = node.get("addresses")
    shown = ",".join(str(one) for one in addresses) if isinstance(addresses, list) else ""
    return [*head, str(node.get("uuid", "")), shown, str(node.get("version") or ""), labels]


def _pairs(labels: object) -> list[str]:
    return [f"{key}={value}" for key, value in sorted(labels.items())] if isinstance(labels, dict) else []
