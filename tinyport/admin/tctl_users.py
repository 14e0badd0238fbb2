"""``tctl users``: who may log in."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from tinyport.admin.answers import ago, body, duration, names, path, rows, words
from tinyport.admin.connection import connect, public_proxy
from tinyport.admin.tctl_tokens import NO_PROXY, first_pin
from tinyport.core.names import printable
from tinyport.host.console import CommandLine, UsageError, emit, output_options
from tinyport.host.console_table import table
from tinyport.link.api import AuthClient


def add_commands(parser: CommandLine) -> None:
    users = parser.command("users", help="users of the cluster", examples=["tctl users ls"])
    add = users.command(
        "add",
        _add,
        help="add a user and print an invitation",
        examples=["tctl users add alice --logins pi,root --roles access"],
        parents=[output_options()],
    )
    add.add_argument("name", metavar="NAME", help="what the user is called in this cluster")
    add.add_argument("--logins", default="", metavar="a,b", help="who the user may be on nodes; an auditor needs none")
    add.add_argument("--roles", required=True, metavar="r,s", help="for example access")
    add.add_argument("--ttl", metavar="1h", help="how long the invitation is good")
    users.command("ls", _list, help="list users", parents=[output_options()], examples=["tctl users ls"])
    _named(users, "rm", _remove, "remove a user; their certificates are refused at once")
    reset = _named(users, "reset", _reset, "withdraw certificates and password, print a new invitation")
    reset.add_argument("--ttl", metavar="1h", help="how long the invitation is good")
    update = _named(users, "update", _update, "change roles or logins", " --roles access,auditor")
    update.add_argument("--roles", metavar="r,s", help="in place of those that are there")
    update.add_argument("--logins", metavar="a,b", help="in place of those that are there")
    _named(users, "unlock", _unlock, "let a user try again who failed too often")


def _named(users: CommandLine, name: str, run: Any, help: str, changes: str = "") -> CommandLine:
    example = f"tctl users {name} alice{changes}"
    command = users.command(name, run, help=help, parents=[output_options()], examples=[example])
    command.add_argument("name", metavar="NAME", help='"tctl users ls" lists them')
    return command


def _add(args: argparse.Namespace) -> int:
    request = body(name=args.name, roles=names(args.roles), logins=names(args.logins), ttl=duration(args.ttl))
    with connect(args) as client:
        answer = client.request("POST", "/v1/users", request)
        _show_invitation(args, client, answer, f"user {printable(args.name)} was added")
    return 0


def _reset(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("POST", path("/v1/users", args.name, "reset"), body(ttl=duration(args.ttl)))
        _show_invitation(args, client, answer, f"user {printable(args.name)} was reset")
    return 0


def _show_invitation(args: argparse.Namespace, client: AuthClient, answer: dict[str, object], what: str) -> None:
    urls = answer.get("urls")
    url = str(urls[0]) if isinstance(urls, list) and urls else ""
    if not url:
        url = f"https://{public_proxy(client) or NO_PROXY}/invite#{answer.get('invitation')}"
        answer = {**answer, "urls": [url]}
    pin = first_pin(client.request("GET", "/v1/status"))
    line = f"tsh signup {shlex.quote(url)} --ca-pin {pin}"
    answer = {**answer, "line": line}
    lines = [
        f"{what}. The invitation is good once, and ends {ago(answer.get('expires'))}:",
        f"  {printable(url, 1000)}",
        "or, in a terminal:",
        f"  {printable(line, 1200)}",
    ]
    emit(args, answer, lambda: lines)


def _list(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("GET", "/v1/users")
    lines = [
        (user.get("name"), words(user.get("roles")), words(user.get("logins")), _state(user), ago(user.get("created")))
        for user in rows(answer, "users")
    ]
    emit(args, answer, lambda: table(lines, ("NAME", "ROLES", "LOGINS", "STATE", "CREATED")))
    return 0


def _state(user: dict[str, Any]) -> str:
    if user.get("locked_until"):
        return "locked out"
    return "invited" if user.get("invited") else "active"


def _remove(args: argparse.Namespace) -> int:
    return _change(args, "DELETE", path("/v1/users", args.name), None, "removed")


def _update(args: argparse.Namespace) -> int:
    if args.roles is None and args.logins is None:
        raise UsageError("nothing to change", hint="give --roles, --logins, or both")
    request = body(
        roles=names(args.roles) if args.roles is not None else None,
        logins=names(args.logins) if args.logins is not None else None,
    )
    return _change(args, "PATCH", path("/v1/users", args.name), request, "updated")


def _unlock(args: argparse.Namespace) -> int:
    return _change(args, "POST", path("/v1/users", args.name, "unlock"), {}, "unlocked")


def _change(args: argparse.Namespace, method: str, path: str, request: dict[str, object] | None, done: str) -> int:
    with connect(args) as client:
        answer = client.request(method, path, request)
    emit(args, answer, lambda: [f"user {printable(args.name)} was {done}"])
    return 0
