"""``tctl nodes import``, ``registered``, ``unregister``: devices that an administrator knows before they join."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tinyport.admin.answers import labels_text, pairs, path, rows, table_of
from tinyport.admin.connection import connect
from tinyport.core.errors import OperatorError, TinyportError
from tinyport.core.labels import has_all
from tinyport.core.names import printable
from tinyport.host.console import CommandLine, UsageError, emit, output_options
from tinyport.host.console_table import table
from tinyport.link.api import AuthClient

#: devices in a request, which is all or nothing
BATCH = 500
MOST_LINES = 100_000
MAX_LINE = 16 * 1024
_OWN = ("serial", "ssh_key", "name")


def add_commands(nodes: CommandLine) -> None:
    imported = nodes.command(
        "import",
        _import,
        help="register devices before they join",
        description='Register devices before they join, one a line: serial=NUMBER (or ssh_key="ssh-ed25519 ..."), '
        "name=NAME if it shall have one, and its labels as k=v; or a JSON object. A token lets them in "
        "(with --pending, only them without a look by an administrator), and one that keeps its keys in memory its "
        "device key, which is the ssh_key then; the registration says who they are.",
        examples=[
            "tctl nodes import fleet.txt",
            "echo serial=1000abcd name=pi-7 site=berlin | tctl nodes import -",
        ],
        parents=[output_options()],
    )
    imported.add_argument("file", metavar="FILE", help="- for standard input")
    listing = nodes.command(
        "registered",
        _registered,
        help="list the devices that are registered",
        examples=["tctl nodes registered", "tctl nodes registered site=berlin"],
        parents=[output_options()],
    )
    listing.add_argument("labels", nargs="*", metavar="k=v", help="only those with all these labels; * is a wildcard")
    gone = nodes.command(
        "unregister",
        _unregister,
        help="forget registrations; nodes that came by them stay",
        examples=["tctl nodes unregister 3fa94c01d2e5b677", "tctl nodes unregister site=berlin rack=7 --yes"],
        parents=[output_options()],
    )
    gone.add_argument("ids", nargs="+", metavar="ID|k=v", help='of "tctl nodes registered", or labels that select')
    gone.add_argument("--yes", action="store_true", help="forget all that are selected; without it they are counted")


def parse_lines(lines: Iterable[str]) -> list[tuple[int, dict[str, object]]]:
    """(line number, device) of each line that is neither empty nor a comment. OperatorError with the line's number."""
    found: list[tuple[int, dict[str, object]]] = []
    seen: dict[tuple[str, object], int] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if number > MOST_LINES or len(line) > MAX_LINE:
            raise OperatorError(f"line {number}: at most {MOST_LINES} lines of {MAX_LINE} characters")
        if not text or text.startswith("#"):
            continue
        try:
            device = json.loads(text) if text.startswith("{") else _words(text)
        except ValueError as error:
            raise OperatorError(f"line {number}: {printable(str(error), 200)}") from None
        if not isinstance(device, dict) or ("serial" in device) == ("ssh_key" in device):
            raise OperatorError(
                f"line {number}: a device has either a serial or an ssh_key", hint="serial=10000000abcd"
            )
        by = "serial" if "serial" in device else "ssh_key"
        first = seen.setdefault((by, str(device[by]).lower()), number)
        if first != number:
            raise OperatorError(f"line {number}: the same device as line {first}")
        found.append((number, device))
    return found


def _words(text: str) -> dict[str, object]:
    """ValueError when a word is not ``k=v``."""
    device: dict[str, object] = {}
    labels: dict[str, str] = {}
    for word in shlex.split(text, comments=True):
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{word!r} is not key=value")
        target: dict[str, object] | dict[str, str] = device if key in _OWN else labels
        if key in target:
            raise ValueError(f"{key} is given twice")
        target[key] = value
    return {**device, "labels": labels} if labels else device


def _import(args: argparse.Namespace) -> int:
    try:
        text = sys.stdin.read() if args.file == "-" else Path(args.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "not a UTF-8 text"
        raise OperatorError(f"{printable(args.file, 200)}: {printable(reason, 200)}") from None
    devices = parse_lines(text.splitlines())
    if not devices:
        raise OperatorError("there is no device in it")
    added = joined = 0
    with connect(args) as client, progress(len(devices)) as done:
        for at in range(0, len(devices), BATCH):
            batch = devices[at : at + BATCH]
            try:
                answer = client.request("POST", "/v1/registrations", {"devices": [device for _, device in batch]})
            except TinyportError as error:
                raise _at_its_line(error, batch, added) from None
            added += _count(answer, "added")
            joined += _count(answer, "joined")
            done(at + len(batch))
    said = f"{_devices(added)} registered"
    before = "one has joined before, and is left as it is"
    if joined > 1:
        before = f"{joined} have joined before, and are left as they are"
    lines = [f"{said}; {before}" if joined else said]
    emit(args, {"added": added, "joined": joined}, lambda: lines)
    return 0


def _devices(count: int) -> str:
    return "one device is" if count == 1 else f"{count} devices are"


def _count(answer: Mapping[str, object], name: str) -> int:
    value = answer.get(name)
    return value if isinstance(value, int) else 0


def _at_its_line(error: TinyportError, batch: list[tuple[int, dict[str, object]]], added: int) -> TinyportError:
    place = error.extra.get("device")
    if isinstance(place, int) and 0 <= place < len(batch):
        done = f"{_devices(added)} registered, those before it" if added else "nothing was registered"
        hint = "; ".join(word for word in (error.hint, f"{done}: mend the line and import the file again") if word)
        return OperatorError(f"line {batch[place][0]}: {error.message}", hint=hint)
    return error


def _registered(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = _having(args.labels, client)
    lines = [
        (
            one.get("id"),
            f"{one.get('by')} {one.get('value')}",
            one.get("name") or "-",
            _state(one),
            labels_text(one.get("labels")),
        )
        for one in found
    ]
    emit(args, {"registrations": found}, lambda: table(lines, ("ID", "DEVICE", "NAME", "STATE", "LABELS")))
    return 0


def _state(one: Mapping[str, object]) -> str:
    if not one.get("node_uuid"):
        return "waiting"
    # Removed is removed: to come back by its registration it is registered anew. An older auth does not say.
    return "removed" if one.get("node_name", "") is None else "joined"


def _having(labels: list[str], client: AuthClient) -> list[dict[str, Any]]:
    wanted = pairs(labels)
    found = rows(client.request("GET", "/v1/registrations"), "registrations")
    return [one for one in found if has_all(wanted, table_of(one.get("labels")))]


def _unregister(args: argparse.Namespace) -> int:
    selectors = [word for word in args.ids if "=" in word]
    if selectors and len(selectors) < len(args.ids):
        raise UsageError("name registrations, or select them by labels; not both")
    with connect(args) as client:
        ids = [str(one.get("id")) for one in _having(selectors, client)] if selectors else list(args.ids)
        if not ids:
            raise OperatorError("no registration is selected", hint='"tctl nodes registered" lists them')
        if selectors and not args.yes:
            raise UsageError(f"{len(ids)} registrations are selected, and nothing was done", hint="do it with --yes")
        with progress(len(ids)) as done:
            for count, id in enumerate(ids):
                try:
                    client.request("DELETE", path("/v1/registrations", id))
                except TinyportError as error:
                    if not count:
                        raise
                    raise type(error)(error.message, hint=f"the {count} before it are gone", code=error.code) from None
                done(count + 1)
    said = f"registration {printable(ids[0], 40)} is gone" if len(ids) == 1 else f"{len(ids)} registrations are gone"
    emit(args, {"id": ids[0]} if len(ids) == 1 else {"ids": ids}, lambda: [said])
    return 0


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """How many of ``total`` are done, on a terminal."""
    shown = sys.stderr.isatty() and total > 1

    def say(count: int) -> None:
        if shown:
            print(f"\r{count} of {total}", end="", file=sys.stderr, flush=True)

    try:
        yield say
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
