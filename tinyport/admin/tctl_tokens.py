"""``tctl tokens``: what a machine joins with."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping

from tinyport.admin.answers import ago, body, duration, labels_text, names, pairs, path, rows, table_of, words
from tinyport.admin.connection import auth_address, connect, public_proxy
from tinyport.admin.token_input import piped
from tinyport.core.errors import PeerError
from tinyport.core.names import is_pin, printable
from tinyport.host.console import CommandLine, emit, output_options, print_error
from tinyport.host.console_table import table

#: stand for an address that we do not know, in lines that are pasted
NO_PROXY, NO_AUTH = "PROXY:3080", "AUTH:3025"


def add_commands(parser: CommandLine) -> None:
    tokens = parser.command("tokens", help="join tokens", examples=["tctl tokens ls"])
    add = tokens.command(
        "add",
        _add,
        help="make a token and print the line to run on the machine",
        examples=[
            "tctl tokens add --type node --ttl 30m --labels site=berlin",
            "tctl tokens add --replaces greenhouse",
            "tctl tokens add --serial 10000000abcd,10000000abce --uses 2 --ttl 7d",
            "tctl tokens add --type node --uses 500 --ttl 7d --name-template 'pi-{serial}' --pending",
        ],
        parents=[output_options()],
    )
    add.add_argument("--type", choices=("node", "proxy"), default="node", help="what may join by it")
    add.add_argument("--ttl", metavar="30m", help="how long it is good")
    add.add_argument("--uses", type=int, metavar="1", help="how many machines may join by it")
    add.add_argument("--labels", metavar="k=v,...", help="labels of what joins; they decide access")
    add.add_argument("--name-template", metavar="'pi-{uuid8}'", help="the name that machines get")
    add.add_argument("--cidr", metavar="C,...", help="networks it may be used from")
    add.add_argument("--pending", action="store_true", help="an administrator has to accept each machine")
    add.add_argument(
        "--replaces", metavar="NODE", help="the device takes this node's place: a board written anew, or a new board"
    )
    add.add_argument(
        "--serial",
        metavar="S,...",
        help="boards that take their old places, where they are offline; any other device waits to be accepted",
    )
    tokens.command("ls", _list, help="list tokens", parents=[output_options()], examples=["tctl tokens ls"])
    remove = tokens.command(
        "rm", _remove, help="revoke tokens", parents=[output_options()], examples=["tctl tokens rm abcdefghij"]
    )
    remove.add_argument("ids", nargs="+", metavar="ID", help='"tctl tokens ls" lists them')


def _add(args: argparse.Namespace) -> int:
    request = body(
        type=args.type,
        ttl=duration(args.ttl),
        uses=args.uses,
        labels=pairs(names(args.labels)) if args.labels else None,
        name_template=args.name_template,
        cidr=names(args.cidr) or None,
        pending=args.pending or None,
        replaces=args.replaces,
        serials=names(args.serial) or None,
    )
    with connect(args) as client:
        answer = client.request("POST", "/v1/tokens", request)
        # A node dials a proxy, a proxy dials auth.
        server = (public_proxy(client) or NO_PROXY) if args.type == "node" else (auth_address(args) or NO_AUTH)
    uses = answer.get("uses")
    whom = f"{'one' if uses == 1 else uses} {args.type}{'' if uses == 1 else 's'}"
    if args.replaces:
        whom = f"a device that takes the place of {printable(args.replaces, 80)}, once that is offline"
    elif args.pending:
        whom += f", which wait{'s' if uses == 1 else ''} for tctl nodes accept"
    lines = [
        f"a token for {whom}; it ends {ago(answer.get('expires'))}. On the machine that joins:",
        f"  {join_line(args.type, server, answer)}",
    ]
    emit(args, {**answer, "line": join_line(args.type, server, answer)}, lambda: lines)
    mention_loopback(args, server)
    return 0


def mention_loopback(args: argparse.Namespace, server: str) -> None:
    """Whoever pastes a line on another machine reads there that nobody answers, and not why."""
    host = server.rpartition(":")[0].strip("[]")
    if args.format == "text" and (host == "localhost" or _is_loopback(host)):
        print_error(
            f"tctl: hint: {server} is this machine alone; for others give the proxy an address that they reach "
            "(listen and public_addr, or quickstart --listen)"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def first_pin(answer: dict[str, object]) -> str:
    """The newest CA pin in an answer. PeerError when there is none: a line without it would not be safe to paste."""
    pins = answer.get("ca_pins")
    if not isinstance(pins, list) or not pins or not is_pin(str(pins[0])):
        raise PeerError("auth's answer has no CA pin", hint="is auth of another version?")
    return str(pins[0])


def join_line(kind: str, server: str, answer: dict[str, object]) -> str:
    """The command by which a machine joins with the token in ``answer``."""
    start = f"tinyport start --roles={kind} --server {server} --token - --ca-pin {first_pin(answer)}"
    return piped(str(answer.get("token")), start)


def _list(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("GET", "/v1/tokens")
    lines = []
    for token in rows(answer, "tokens"):
        uses = token.get("uses")
        used = f"{token.get('used', 0)} of {'any' if uses is None else uses}"
        labels = labels_text(table_of(token.get("labels")))
        lines.append((token.get("id"), token.get("type"), used, ago(token.get("expires")), labels, _terms(token)))
    emit(args, answer, lambda: table(lines, ("ID", "TYPE", "USED", "ENDS", "LABELS", "TERMS")))
    return 0


def _terms(token: Mapping[str, object]) -> str:
    """What holds for the machines that join by it, besides labels."""
    serials = token.get("serials")
    found = [
        "pending" if token.get("pending") else "",
        f"named {token['name_template']}" if token.get("name_template") else "",
        f"from {words(token.get('cidr'))}" if token.get("cidr") else "",
        f"replaces {token['replaces']}" if token.get("replaces") else "",
        f"{len(serials)} serial{'' if len(serials) == 1 else 's'}" if isinstance(serials, list) and serials else "",
    ]
    return "; ".join(word for word in found if word)


def _remove(args: argparse.Namespace) -> int:
    answers: list[dict[str, object]] = []
    with connect(args) as client:
        for id in args.ids:
            answers.append(client.request("DELETE", path("/v1/tokens", id)))
            if args.format == "text":
                print(f"token {printable(id)} was revoked")
    if args.format == "json":
        emit(args, answers[0] if len(answers) == 1 else {"tokens": answers}, list)
    return 0
