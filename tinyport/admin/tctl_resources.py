"""``tctl get``, ``create`` and ``rm``: whatever auth keeps, as documents."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.parse
from pathlib import Path
from typing import Any

from tinyport.admin.config_file import parse_toml
from tinyport.admin.connection import connect
from tinyport.core.errors import OperatorError
from tinyport.core.names import printable
from tinyport.host.console import CommandLine, emit, output_options, to_json
from tinyport.host.files import read_limited

KINDS = ("user", "role", "token", "node", "cluster_config", "lock")
MAX_DOCUMENT = 1024 * 1024


def add_commands(parser: CommandLine) -> None:
    get = parser.command(
        "get",
        _get,
        help="show resources as JSON",
        examples=["tctl get role", "tctl get role/access"],
        parents=[output_options(default="json")],
    )
    get.add_argument("resource", metavar="KIND[/NAME]", help=f"kinds: {', '.join(KINDS)}")
    create = parser.command(
        "create",
        _create,
        help="create or replace a resource from a file",
        examples=["tctl create role.toml", "tctl create -f role.toml"],
        parents=[output_options()],
    )
    create.add_argument("-f", "--force", action="store_true", help="replace it when it exists")
    create.add_argument("file", metavar="FILE", help='TOML or JSON with a "kind" and a "name"; - is standard input')
    remove = parser.command(
        "rm", _remove, help="remove a resource", examples=["tctl rm role/old"], parents=[output_options()]
    )
    remove.add_argument("resource", metavar="KIND/NAME")


def _path(text: str, *, named: bool) -> str:
    kind, slash, name = text.partition("/")
    if kind not in KINDS or (slash and not name) or (named and not name):
        raise OperatorError(
            f"{printable(text, 80)!r} is not a resource",
            hint=f"write KIND/NAME; kinds: {', '.join(KINDS)}",
            code="usage",
        )
    return f"/v1/resources/{kind}" + (f"/{urllib.parse.quote(name, safe='')}" if name else "")


def _get(args: argparse.Namespace) -> int:
    path = _path(args.resource, named=False)
    with connect(args) as client:
        answer = client.request("GET", path)
    emit(args, answer, lambda: to_json(answer).splitlines())
    return 0


def read_resource(file: str) -> tuple[str, str, dict[str, Any]]:
    """A resource file → (kind, name, document). OperatorError or ConfigError when it is none."""
    if file == "-":
        text = sys.stdin.read(MAX_DOCUMENT + 1)
    else:
        text = read_limited(Path(file), MAX_DOCUMENT).decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        try:
            document = json.loads(text)
        except ValueError as error:
            raise OperatorError(f"{file}: is not JSON: {error}") from None
    else:
        document = parse_toml(text, file)
    kind, name = document.pop("kind", None), document.get("name")
    if kind not in KINDS:
        raise OperatorError(f'{file}: needs kind = "..."', hint=f"kinds: {', '.join(KINDS)}")
    if kind == "cluster_config":
        name = name or "cluster"
    if not isinstance(name, str) or not name:
        raise OperatorError(f'{file}: needs name = "..."')
    return kind, name, document


def _create(args: argparse.Namespace) -> int:
    kind, name, document = read_resource(args.file)
    path = _path(f"{kind}/{name}", named=True) + ("" if args.force else "?create=1")
    with connect(args) as client:
        answer = client.request("PUT", path, document)
    emit(args, answer, lambda: [f"{kind} {printable(name)} was {'stored' if args.force else 'created'}"])
    return 0


def _remove(args: argparse.Namespace) -> int:
    path = _path(args.resource, named=True)
    with connect(args) as client:
        answer = client.request("DELETE", path)
    emit(args, answer, lambda: [f"{printable(args.resource)} was removed"])
    return 0
