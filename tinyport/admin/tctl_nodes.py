"""``tctl nodes``: the machines of the cluster."""

from __future__ import annotations

import argparse
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinyport.admin import tctl_registrations
from tinyport.admin.answers import ago, body, duration, labels_text, names, pairs, path, rows, table_of
from tinyport.admin.connection import connect, public_proxy
from tinyport.admin.node_tables import long_table, page, short_table
from tinyport.admin.tctl_tokens import NO_PROXY, first_pin, mention_loopback
from tinyport.admin.token_input import piped
from tinyport.core.errors import OperatorError, TinyportError
from tinyport.core.labels import has_all
from tinyport.core.names import printable
from tinyport.host.console import CommandLine, UsageError, emit, output_options, print_error
from tinyport.link.api import AuthClient

_STATES = ("online", "offline", "pending", "quarantined")


def add_commands(parser: CommandLine) -> None:
    nodes = parser.command("nodes", help="nodes of the cluster", examples=["tctl nodes ls site=berlin"])
    listing = nodes.command(
        "ls",
        _list,
        help="list nodes",
        examples=["tctl nodes ls", "tctl nodes ls site=berlin --search attic", "tctl nodes ls -v"],
        parents=[output_options()],
    )
    listing.add_argument("labels", nargs="*", metavar="k=v", help="only nodes with all these labels; * is a wildcard")
    listing.add_argument("--search", metavar="TEXT", help="in names and labels")
    listing.add_argument(
        "-v", "--verbose", action="store_true", help="tunnels, addresses, traffic, clocks that are off and UUIDs"
    )
    add = nodes.command(
        "add",
        _add,
        help="print one line to paste on a device",
        description="Print one line that makes the device it is pasted on a node, with a service of its own.",
        examples=["tctl nodes add", "tctl nodes add --labels site=berlin"],
        parents=[output_options()],
    )
    add.add_argument("--labels", metavar="k=v,...", help="labels of the node; they decide access")
    several = _several()
    for name, help in (("accept", "let pending nodes in"), ("reject", "turn pending nodes away")):
        verb = nodes.command(
            name,
            _decide,
            help=help,
            parents=[output_options(), several],
            examples=[f"tctl nodes {name} ID", f"tctl nodes {name} --status pending --selector batch=7 --yes"],
        )
        verb.add_argument("ids", nargs="*", metavar="ID|k=v", help="name or UUID, or a label that selects")
        verb.set_defaults(verb=name, replaces=None)
        if name == "accept":
            verb.add_argument(
                "--replaces", metavar="NODE", help="it takes this node's place, which is offline, at its next contact"
            )
    label = nodes.command(
        "label",
        _label,
        help="set the labels that decide access",
        examples=[
            "tctl nodes label greenhouse site=berlin rack=",
            "tctl nodes label --selector site=berlin room=7 --yes",
        ],
        parents=[output_options(), several],
    )
    label.add_argument("words", nargs="+", metavar="ID|k=v", help="names or UUIDs, and labels; k= takes one away")
    rename = nodes.command(
        "rename",
        _rename,
        help="give a node another name; its certificate has it at its next contact",
        description="UUID, labels, sessions and history stay. People find it by the new name at once; its host "
        "certificate has that as soon as the node has heard of it and renewed.",
        examples=["tctl nodes rename greenhouse greenhouse-old"],
        parents=[output_options()],
    )
    rename.add_argument("id", metavar="ID", help="name or UUID")
    rename.add_argument("name", metavar="NAME", help="lower-case letters, digits, dashes and dots; of no other machine")
    remove = nodes.command(
        "rm",
        _remove,
        help="remove nodes; they cannot come back with what they have",
        examples=["tctl nodes rm greenhouse", "tctl nodes rm site=old --status offline"],
        parents=[output_options(), several],
    )
    remove.add_argument("ids", nargs="*", metavar="ID|k=v", help="name or UUID, or a label that selects")
    lock = nodes.command(
        "lock",
        _lock,
        help="lock nodes, each by a lock of its own",
        description="As tctl lock --node, on many at once. A node that gets such a label later is not among them.",
        examples=["tctl nodes lock site=berlin --ttl 2h --message 'being moved'"],
        parents=[output_options(), several],
    )
    lock.add_argument("ids", nargs="*", metavar="ID|k=v", help="name or UUID, or a label that selects")
    lock.add_argument("--ttl", metavar="2h", help="until when; without it, until it is removed")
    lock.add_argument("--message", metavar="M", help="what whoever is kept out reads")

    show = nodes.command(
        "show",
        _show,
        help="one node, with its traffic by day and month",
        examples=["tctl nodes show greenhouse", "tctl nodes show greenhouse --format json"],
        parents=[output_options()],
    )
    show.add_argument("id", metavar="ID", help="name or UUID")

    split = nodes.command(
        "split",
        _split,
        help="make two nodes of a cloned one",
        description='Several devices have one identity ("tctl nodes ls" shows the copies): each copy becomes a node of '
        "its own at its next contact, with a key of its own. Of a node that is quarantined itself auth cannot tell the "
        "devices apart: neither is let in until it has joined again, by one of two lines. A node without copies is "
        "left as it is, unless you say --yes.",
        examples=["tctl nodes split greenhouse", "tctl nodes split greenhouse --name shed --labels site=berlin"],
        parents=[output_options()],
    )
    split.add_argument("id", metavar="ID", help="name or UUID")
    split.add_argument("--name", metavar="NAME", help="of the copy; {uuid8} in it when there are several")
    split.add_argument("--labels", metavar="k=v,...", help="of the copy; it has none otherwise")
    split.add_argument("--pending", action="store_true", help="it waits for tctl nodes accept")
    split.add_argument(
        "--yes", action="store_true", help="quarantine a node of which no copy is known, and print the two lines"
    )

    tctl_registrations.add_commands(nodes)


def _several() -> argparse.ArgumentParser:
    """Options that mean many nodes at once."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--selector",
        action="append",
        default=[],
        metavar="k=v",
        help="all nodes to which auth gave this label (a glob)",
    )
    parent.add_argument("--status", choices=_STATES, help="of these, or of all, those in this state")
    parent.add_argument("--yes", action="store_true", help="do it to all of them; without it they are only listed")
    return parent


def _list(args: argparse.Namespace) -> int:
    query = [("selector", f"{key}={value}") for key, value in pairs(args.labels).items()]
    if args.search:
        query.append(("search", args.search))
    with connect(args) as client:
        answer = client.request("GET", "/v1/nodes" + (f"?{urllib.parse.urlencode(query)}" if query else ""))
    found = rows(answer, "nodes")
    emit(args, answer, lambda: long_table(found) if args.verbose else short_table(found))
    return 0


def _show(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("GET", path("/v1/nodes", args.id))
    emit(args, answer, lambda: page(answer))
    return 0


def _add(args: argparse.Namespace) -> int:
    request = body(type="node", labels=pairs(names(args.labels)) if args.labels else None)
    with connect(args) as client:
        answer = client.request("POST", "/v1/tokens", request)
        server = public_proxy(client) or NO_PROXY
    line = piped(
        str(answer.get("token")),
        f"sudo sh -c 'mkdir -p /etc/tinyport && tinyport configure --roles node --server {server} --token - --ca-pin "
        f"{first_pin(answer)} -o /etc/tinyport/tinyport.toml && tinyport install'",
    )
    # The space: see piped().
    emit(args, {**answer, "line": line}, lambda: [f" {line}"])
    mention_loopback(args, server)
    return 0


# Where the packages and `tinyport install` put them. What the device was is nobody's any more. The token goes to a
# file, which the node erases once it has joined.
_AGAIN = (
    "sudo sh -c 'rm -f /var/lib/tinyport/node/identity.json; umask 077; cat > /etc/tinyport/token; "
    'sed -i -e "/^token *=/d" -e "/^\\[tinyport\\]/a token = { path = \\"/etc/tinyport/token\\" }" '
    "/etc/tinyport/tinyport.toml; systemctl restart tinyport-node'"
)


def _split(args: argparse.Namespace) -> int:
    labels = pairs(names(args.labels)) if args.labels else None
    request = body(name=args.name, labels=labels, pending=args.pending or None, quarantine=args.yes or None)
    with connect(args) as client:
        answer = client.request("POST", path("/v1/nodes", args.id, "split"), request)
    name, copies = _name(answer, args.id), rows(answer, "copies")
    if copies:
        count = "one device becomes a node" if len(copies) == 1 else f"{len(copies)} devices become nodes"
        emit(args, answer, lambda: [f"{name} stays; {count} of its own at the next contact"])
        return 0
    lines = {word: piped(str(answer.get(word)), _AGAIN) for word in ("original", "copy")}
    shown = [
        f"node {name} is quarantined until one of the two takes its place again. On that one:",
        f"  {lines['original']}",
        "On the other one, which becomes a node of its own and waits to be accepted:",
        f"  {lines['copy']}",
        f"The tokens end {ago(answer.get('expires'))}.",
    ]
    emit(args, {**answer, "lines": lines}, lambda: shown)
    return 0


def _chosen(args: argparse.Namespace, client: AuthClient, ids: Sequence[str]) -> dict[str, str]:
    """The nodes that are meant, and what to call them: those that are named, or all that the options select. UsageError
    when the person has only been shown them.
    """
    # No name has a "=": k=v in a name's place selects as --selector does.
    selectors = [*args.selector, *(word for word in ids if "=" in word)]
    ids = [word for word in ids if "=" not in word]
    if ids and (selectors or args.status):
        raise UsageError("name nodes, or select them by labels and --status; not both")
    if ids:
        return {id: printable(id, 80) for id in ids}
    if not selectors and not args.status:
        raise UsageError("which nodes?", hint="name them, or give --selector k=v")
    wanted = pairs(selectors)
    found = [
        node
        for node in rows(client.request("GET", "/v1/nodes"), "nodes")
        # What a node says of itself must not put it among those that something is done to, or keep it out.
        if has_all(wanted, table_of(node.get("labels"))) and args.status in (None, node.get("status"))
    ]
    if not found:
        raise OperatorError("no node is selected", hint='"tctl nodes ls" lists them')
    if not args.yes:
        for line in short_table(found):
            print(line, file=sys.stderr)
        if not _confirmed(len(found)):
            said = "one node is" if len(found) == 1 else f"{len(found)} nodes are"
            raise UsageError(f"{said} selected, and nothing was done", hint="do it with --yes")
    return {str(node["uuid"]): printable(str(node.get("name")), 80) for node in found}


def _confirmed(count: int) -> bool:
    """Whoever sits at a terminal says how many they mean."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"{count} node{'' if count == 1 else 's'}. Type their number to go on: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline(100).strip() == str(count)


def _each(
    args: argparse.Namespace, ids: Sequence[str], act: Callable[[AuthClient, str, str], tuple[dict[str, Any], str]]
) -> int:
    """``act(client, id, name)`` gives auth's answer and a line for people. One that fails does not keep it from the
    others.

    0 when all went well, 1 when not; a single one's error is the command's.
    """
    done: list[dict[str, Any]] = []
    failed = 0
    with connect(args) as client:
        chosen = _chosen(args, client, ids)
        for id, name in chosen.items():
            try:
                answer, line = act(client, id, name)
            except TinyportError as error:
                if len(chosen) == 1:
                    raise
                failed += 1
                done.append({"id": id, "error": error.message})
                print_error(f"tctl: error: {name}: {printable(error.message, 300)}")
                continue
            done.append(answer)
            if args.format == "text":
                print(line)
    if args.format == "json":
        emit(args, done[0] if len(chosen) == 1 else {"nodes": done}, list)
    return 1 if failed else 0


def _decide(args: argparse.Namespace) -> int:
    if args.replaces and len(args.ids) != 1:
        raise UsageError("one device takes the place of one node", hint="tctl nodes accept ID --replaces greenhouse")

    def act(client: AuthClient, id: str, name: str) -> tuple[dict[str, Any], str]:
        answer = client.request("POST", path("/v1/nodes", id, args.verb), body(replaces=args.replaces))
        if args.replaces:
            return (
                answer,
                f"node {_name(answer, name)} takes the place of {printable(args.replaces, 80)} at its next contact",
            )
        return answer, f"node {_name(answer, name)} was {args.verb}ed"

    return _each(args, args.ids, act)


def _label(args: argparse.Namespace) -> int:
    # The API takes a label away by null; nobody types that.
    changes = {key: value or None for key, value in pairs([word for word in args.words if "=" in word]).items()}
    if not changes:
        raise UsageError("which labels?", hint="tctl nodes label greenhouse site=berlin")

    def act(client: AuthClient, id: str, name: str) -> tuple[dict[str, Any], str]:
        answer = client.request("PATCH", path("/v1/nodes", id), {"labels": changes})
        labels = labels_text(table_of(answer.get("node")).get("labels")) or "none"
        return answer, f"labels of {_name(answer, name)}: {printable(labels, 2000)}"

    return _each(args, [word for word in args.words if "=" not in word], act)


def _rename(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("PATCH", path("/v1/nodes", args.id), {"name": args.name})
    emit(args, answer, lambda: [f"node {printable(args.id, 80)} is {_name(answer, args.name)} now"])
    return 0


def _remove(args: argparse.Namespace) -> int:
    def act(client: AuthClient, id: str, name: str) -> tuple[dict[str, Any], str]:
        answer = client.request("DELETE", path("/v1/nodes", id))
        return answer, f"node {_name(answer, name)} was removed"

    return _each(args, args.ids, act)


def _lock(args: argparse.Namespace) -> int:
    ttl = duration(args.ttl)

    def act(client: AuthClient, id: str, name: str) -> tuple[dict[str, Any], str]:
        answer = client.request("POST", "/v1/locks", body(target={"node": id}, ttl=ttl, message=args.message))
        lock = table_of(answer.get("lock")) or answer
        return answer, f"node {name} is locked; tctl unlock {lock.get('id')} removes it"

    return _each(args, args.ids, act)


def _name(answer: Mapping[str, object], id: str) -> str:
    """As auth calls it, where it says so."""
    node = table_of(answer.get("node")) or answer
    return printable(str(node.get("name") or id), 80)
