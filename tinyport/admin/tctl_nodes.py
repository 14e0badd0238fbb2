"""``tctl nodes``: the machines of the cluster."""

from __future__ import annotations

import argparse
import urllib.parse
from typing import Any

from tinyport.admin.answers import ago, body, labels_text, names, pairs, path, rows, table_of
from tinyport.admin.connection import connect, public_proxy
from tinyport.admin.tctl_tokens import NO_PROXY, first_pin
from tinyport.core.names import printable
from tinyport.host.console import CommandLine, emit, output_options, paint, table

_COLOURS = {"online": "green", "offline": "dim", "pending": "yellow", "quarantined": "red"}


def add_commands(parser: CommandLine) -> None:
    nodes = parser.command("nodes", help="nodes of the cluster", examples=["tctl nodes ls site=berlin"])
    listing = nodes.command(
        "ls",
        _list,
        help="list nodes",
        examples=["tctl nodes ls", "tctl nodes ls site=berlin --search attic"],
        parents=[output_options()],
    )
    listing.add_argument("labels", nargs="*", metavar="k=v")
    listing.add_argument("--search", metavar="TEXT", help="in names and labels")
    add = nodes.command(
        "add",
        _add,
        help="print one line to paste on a device",
        description="Print one line that makes the device it is pasted on a node, with a service of its own.",
        examples=["tctl nodes add", "tctl nodes add --labels site=berlin"],
        parents=[output_options()],
    )
    add.add_argument("--labels", metavar="k=v,...", help="labels of the node; they decide access")
    for name, help in (("accept", "let a pending node in"), ("reject", "turn a pending node away")):
        verb = nodes.command(name, _decide, help=help, parents=[output_options()], examples=[f"tctl nodes {name} ID"])
        verb.add_argument("id", metavar="ID", help="name or UUID")
        verb.set_defaults(verb=name)
    label = nodes.command(
        "label",
        _label,
        help="set the labels that decide access",
        examples=["tctl nodes label greenhouse site=berlin rack="],
        parents=[output_options()],
    )
    label.add_argument("id", metavar="ID", help="name or UUID")
    label.add_argument("labels", nargs="+", metavar="k=v", help="an empty value removes the label")
    remove = nodes.command(
        "rm",
        _remove,
        help="remove a node; it cannot come back with what it has",
        examples=["tctl nodes rm greenhouse"],
        parents=[output_options()],
    )
    remove.add_argument("id", metavar="ID", help="name or UUID")


def _list(args: argparse.Namespace) -> int:
    query = [("selector", f"{key}={value}") for key, value in pairs(args.labels).items()]
    if args.search:
        query.append(("search", args.search))
    with connect(args) as client:
        answer = client.request("GET", "/v1/nodes" + (f"?{urllib.parse.urlencode(query)}" if query else ""))
    found = rows(answer, "nodes")
    emit(args, answer, lambda: _table(found))
    return 0


def _table(nodes: list[dict[str, Any]]) -> list[str]:
    lines = []
    for node in nodes:
        seen = "now" if node.get("status") == "online" else ago(node.get("last_seen"))
        labels = labels_text(node.get("labels"))
        lines.append((node.get("name"), node.get("status"), seen, node.get("uuid"), node.get("version"), labels))
    return table(
        lines,
        ("NAME", "STATUS", "LAST SEEN", "UUID", "VERSION", "LABELS"),
        paint_cell=lambda header, text: paint(text, _COLOURS.get(text, "bold")) if header == "STATUS" else text,
    )


def _add(args: argparse.Namespace) -> int:
    request = body(type="node", labels=pairs(names(args.labels)) if args.labels else None)
    with connect(args) as client:
        answer = client.request("POST", "/v1/tokens", request)
        server = public_proxy(client) or NO_PROXY
    token = f"--token {answer.get('token')} --ca-pin {first_pin(answer)}"
    line = (
        f"sudo sh -c 'mkdir -p /etc/tinyport && tinyport configure --roles node --server {server} {token} "
        "-o /etc/tinyport/tinyport.toml && tinyport install'"
    )
    emit(args, {**answer, "line": line}, lambda: [line])
    return 0


def _decide(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("POST", path("/v1/nodes", args.id, args.verb), {})
    emit(args, answer, lambda: [f"node {printable(args.id)} was {args.verb}ed"])
    return 0


def _label(args: argparse.Namespace) -> int:
    # The API takes a label away by null; nobody types that.
    changes = {key: value or None for key, value in pairs(args.labels).items()}
    with connect(args) as client:
        answer = client.request("PATCH", path("/v1/nodes", args.id), {"labels": changes})
    labels = labels_text(table_of(answer.get("node")).get("labels")) or "none"
    emit(args, answer, lambda: [f"labels of {printable(args.id)}: {printable(labels, 2000)}"])
    return 0


def _remove(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("DELETE", path("/v1/nodes", args.id))
    emit(args, answer, lambda: [f"node {printable(args.id)} was removed"])
    return 0
