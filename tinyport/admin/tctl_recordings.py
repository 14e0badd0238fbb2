"""``tctl recordings``: what was recorded, one of them as a file, and removing one."""

from __future__ import annotations

import argparse

from tinyport.admin.answers import path
from tinyport.admin.connection import connect
from tinyport.core.names import printable
from tinyport.host import console_recordings
from tinyport.host.console import CommandLine, emit, output_options


def add_commands(parser: CommandLine) -> None:
    group = parser.command("recordings", help="recorded sessions", examples=["tctl recordings ls", "tsh play 3fa9"])
    ls = group.command(
        "ls",
        _ls,
        help="list them, the newest first",
        examples=["tctl recordings ls --user alice --since 7d", "tctl recordings ls --node greenhouse --text 'rm -rf'"],
        parents=[output_options()],
    )
    console_recordings.add_filters(ls)
    export = group.command(
        "export",
        _export,
        help="write one as a file that asciinema plays, too",
        examples=["tctl recordings export 3fa9 -o session.cast"],
    )
    export.add_argument("id", metavar="ID", help="the session's id, or how it begins")
    export.add_argument("-o", dest="output", metavar="FILE", default="-", help="default: standard output")
    rm = group.command(
        "rm", _rm, help="remove one for good", parents=[output_options()], examples=["tctl recordings rm 3fa9"]
    )
    rm.add_argument("id", metavar="ID", help="the session's id, or how it begins")


def _ls(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = console_recordings.find(args, lambda path: client.request("GET", path))
    emit(args, {"recordings": found}, lambda: console_recordings.lines(found))
    return 0


def _export(args: argparse.Namespace) -> int:
    with connect(args) as client:
        console_recordings.save(client.lines("GET", console_recordings.path_of(args.id), silence=60.0), args.output)
    return 0


def _rm(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("DELETE", path(console_recordings.PATH, args.id))
    who, where = printable(str(answer.get("user")), 192), printable(str(answer.get("node")), 64)
    emit(args, answer, lambda: [f"the recording of {who} on {where} was removed"])
    return 0
