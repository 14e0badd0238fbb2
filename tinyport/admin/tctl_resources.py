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
from tinyport.core.errors import ConfigError, OperatorError, PeerError
from tinyport.core.names import printable
from tinyport.core.spelling import suggestion
from tinyport.core.toml_text import document_of
from tinyport.host.console import CommandLine, UsageError, emit, format_time, output_options
from tinyport.host.files import read_limited

KINDS = ("user", "role", "token", "node", "cluster_config", "lock", "trusted_cluster")
MAX_DOCUMENT = 1024 * 1024
#: a line between two documents of TOML, where that has nothing of its own
BETWEEN = "---"
_MOMENTS = frozenset(("created", "expires", "last_seen", "locked_until", "since"))


def add_commands(parser: CommandLine) -> None:
    get = parser.command(
        "get",
        _get,
        help="print resources, to read or to edit",
        description="Print resources as TOML, or as JSON. Either can be edited and given to tctl create -f.",
        examples=["tctl get role/access > role.toml", "tctl create -f role.toml", "tctl get --format json role"],
        parents=[output_options()],
    )
    get.add_argument("resource", metavar="KIND[/NAME]", help=f"kinds: {', '.join(KINDS)}")
    create = parser.command(
        "create",
        _create,
        help="create or replace a resource from a file",
        description="Create a resource, or replace it, from a file of TOML or JSON; or several: JSON in a list, TOML "
        "with a line of three hyphens between them.",
        examples=["tctl create role.toml", "tctl create -f role.toml"],
        parents=[output_options()],
    )
    create.add_argument("-f", "--force", action="store_true", help="replace it when it exists")
    create.add_argument("file", metavar="FILE", help='TOML or JSON with a "kind" and a "name"; - is standard input')
    remove = parser.command(
        "rm", _remove, help="remove a resource", examples=["tctl rm role/old"], parents=[output_options()]
    )
    remove.add_argument("resource", metavar="KIND/NAME", help='"tctl get KIND" lists them')


def _path(text: str, *, named: bool) -> str:
    kind, slash, name = text.partition("/")
    if kind not in KINDS or (slash and not name) or (named and not name):
        raise UsageError(
            f"{printable(text, 80)!r} is not a resource", hint=f"write KIND/NAME; kinds: {', '.join(KINDS)}"
        )
    return f"/v1/resources/{kind}" + (f"/{urllib.parse.quote(name, safe='')}" if name else "")


def _get(args: argparse.Namespace) -> int:
    path = _path(args.resource, named=False)
    with connect(args) as client:
        answer = client.request("GET", path)
    # What is printed can be edited and given to "tctl create -f".
    found = answer.get("resource", answer.get("resources"))
    if found is None:
        raise PeerError("auth's answer has no resource", hint="is auth of another version?")
    emit(args, found, lambda: _as_toml(found))
    if not found and args.format == "text":
        print(f"there is no {args.resource.replace('_', ' ')}", file=sys.stderr)
    return 0


def _as_toml(found: object) -> list[str]:
    documents = [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, dict)]
    lines: list[str] = []
    for document in documents:
        named = {key: document[key] for key in ("kind", "name") if key in document}
        lines += [*([BETWEEN] if lines else []), *document_of({**named, **document}, _when)]
    return lines


def _when(key: str, value: object) -> str:
    """A moment in words, beside its seconds."""
    return format_time(value) if key in _MOMENTS and isinstance(value, (int, float)) and value > 0 else ""


def read_resources(file: str) -> list[tuple[str, str, dict[str, Any]]]:
    """A resource file → (kind, name, document) of each: JSON (an object or a list of them), or TOML (one document, or
    several with ``BETWEEN`` them). OperatorError or ConfigError when it is none.
    """
    if file == "-":
        text = sys.stdin.read(MAX_DOCUMENT + 1)
        if len(text) > MAX_DOCUMENT:
            raise OperatorError(f"standard input is larger than {MAX_DOCUMENT} bytes")
    else:
        text = read_limited(Path(file), MAX_DOCUMENT).decode("utf-8", "replace")
    documents = _json(text, file) if text.lstrip()[:1] in ("{", "[") else _toml(text, file)
    return [_checked(document, file) for document in documents]


def _json(text: str, file: str) -> list[object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        # "[" may begin a table of TOML as well.
        if text.lstrip().startswith("["):
            return _toml(text, file)
        raise OperatorError(f"{file} is not JSON: {error}") from None
    return found if isinstance(found, list) else [found]


def _toml(text: str, file: str) -> list[object]:
    parts: list[list[str]] = [[]]
    for number, line in enumerate(text.split("\n")):
        if line.rstrip() == BETWEEN:
            # Empty lines in place of what came before: errors name lines of the file.
            parts.append([""] * (number + 1))
        else:
            parts[-1].append(line)
    if len(parts) == 1:
        return [parse_toml(text, file)]
    try:
        # Such a line within a text of several lines is no end.
        return [parse_toml(text, file)]
    except ConfigError:
        return [parse_toml("\n".join(part), file) for part in parts if any(line.strip() for line in part)]


def _checked(document: object, file: str) -> tuple[str, str, dict[str, Any]]:
    kind = document.get("kind") if isinstance(document, dict) else None
    if not isinstance(document, dict) or kind not in KINDS:
        if isinstance(kind, str):
            raise OperatorError(f"{file}: there is no kind {printable(kind, 40)!r}", hint=suggestion(kind, KINDS))
        raise OperatorError(f'{file}: needs kind = "..."', hint=f"kinds: {', '.join(KINDS)}")
    name = document.get("name") or ("cluster" if kind == "cluster_config" else None)
    if not isinstance(name, str):
        raise OperatorError(f'{file}: needs name = "..."')
    return kind, name, {key: value for key, value in document.items() if key != "kind"}


def _create(args: argparse.Namespace) -> int:
    made: list[object] = []
    lines: list[str] = []
    with connect(args) as client:
        for kind, name, document in read_resources(args.file):
            path = _path(f"{kind}/{name}", named=True) + ("" if args.force else "?create=1")
            made.append(client.request("PUT", path, document).get("resource"))
            lines.append(f"{kind} {printable(name)} was {'stored' if args.force else 'created'}")
    emit(args, made[0] if len(made) == 1 else made, lambda: lines)
    return 0


def _remove(args: argparse.Namespace) -> int:
    path = _path(args.resource, named=True)
    with connect(args) as client:
        answer = client.request("DELETE", path)
    emit(args, answer, lambda: [f"{printable(args.resource)} was removed"])
    return 0
