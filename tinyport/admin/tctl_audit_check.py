"""``tctl audit export`` and ``verify``: the log as a file that shows whether anybody touched it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tinyport.admin.answers import rows
from tinyport.admin.connection import connect
from tinyport.core.audit_chain import CHECKPOINT, FIRST_HASH, MAX_LINE, Checked, check_export, hash_in_export, open_head
from tinyport.core.certificate import parse_public_line
from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.names import printable
from tinyport.host.console import CommandLine, emit, format_time, output_options
from tinyport.link.api import AuthClient

# A log of millions of events takes a while to be walked.
SILENCE = 120.0


def add_commands(audit: CommandLine) -> None:
    export = audit.command(
        "export",
        _export,
        help="write the log down, with its signed head",
        description="Write the audit log as JSON lines with its signed head; tctl audit verify checks it anywhere.",
        examples=["tctl audit export -o audit-2026-01.jsonl", "tctl audit export --after 120000 | gzip > more.gz"],
    )
    export.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    export.add_argument("--after", type=int, default=0, metavar="ID", help="only what came after this event")
    verify = audit.command(
        "verify",
        _verify,
        help="check that nothing was altered, removed or cut",
        description="Check auth's log, or an export of it: each event against the one before, the end against the "
        "signed head, and an export against the log of today. With --key, without a cluster.",
        examples=[
            "tctl audit verify",
            "tctl audit verify audit-2026-01.jsonl",
            "tctl audit verify --key policy.pub FILE",
        ],
        parents=[output_options()],
    )
    verify.add_argument("file", nargs="?", metavar="FILE", help="an export; default: the log of the cluster itself")
    verify.add_argument("--key", metavar="KEYFILE", help="the policy key (tctl auth export --type policy)")


def _export(args: argparse.Namespace) -> int:
    with connect(args) as client:
        lines = client.stream("GET", f"/v1/audit/export?after={max(0, args.after)}", silence=SILENCE)
        whole = _write(lines, sys.stdout) if args.output is None else _write_file(lines, Path(args.output))
    if not whole:
        raise PeerError("the export ended early", hint="try again")
    return 0


def _write_file(lines: Iterator[dict[str, object]], output: Path) -> bool:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        return _write(lines, file)


def _write(lines: Iterator[dict[str, object]], file: TextIO) -> bool:
    """Was it whole: did its end come?"""
    line: dict[str, object] = {}
    for line in lines:
        # ASCII, so that no terminal and no locale changes a byte of it.
        print(json.dumps(line).replace("\x7f", "\\u007f"), file=file)
    return "head" in line


def _verify(args: argparse.Namespace) -> int:
    if args.file is None:
        return _verify_log(args)
    if args.key is not None:
        return _said(args, _check(args.file, _keys_of(Path(args.key))), None)
    with connect(args) as client:
        checked = _check(args.file, _policy_keys(client))
        answer = client.request("GET", f"/v1/audit/hash?id={checked.last}")
    at, ours, more = answer.get("id"), checked.hash, "and the log of today goes on from it"
    if isinstance(at, int) and at < checked.last:
        if at < checked.after or args.file == "-":
            return _said(args, checked, "the log of today begins later, and cannot be compared with it")
        ours = _hash_at(args.file, at)
        more = f"the log of today begins later, and knew the same event {at}"
    if answer.get("hash") != ours:
        raise PeerError(
            f"the log of today is another one: its event {checked.last} is not the one of this export",
            hint="the log was replaced since, or auth was restored from an older backup",
            code="altered",
        )
    return _said(args, checked, more)


def _hash_at(name: str, id: int) -> str:
    if id == 0:
        return FIRST_HASH
    with open(name, encoding="utf-8") as file:
        return hash_in_export(_lines(file), id) or ""


def _check(name: str, keys: list[bytes]) -> Checked:
    if name == "-":
        return check_export(_lines(sys.stdin), keys)
    try:
        with open(name, encoding="utf-8") as file:
            return check_export(_lines(file), keys)
    except UnicodeDecodeError:
        raise PeerError(f"{printable(name)} is not an export of the audit log") from None


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(MAX_LINE + 1):
        yield line


def _said(args: argparse.Namespace, checked: Checked, more: str | None) -> int:
    emit(
        args,
        {
            "cluster": checked.cluster,
            "after": checked.after,
            "last": checked.last,
            "events": checked.events,
            "signed_at": checked.time,
            "whole": checked.after == 0,
            "removed_before": checked.removed,
        },
        lambda: [
            f"{checked.events} events of {printable(checked.cluster)}, {checked.after + 1} to {checked.last}: "
            f"none altered, none missing, signed at {format_time(checked.time)}"
            + ("; what came before was removed after its time, as auth signed" if checked.removed else "")
            + (f"; {more}" if more else "")
        ],
    )
    return 0


def _verify_log(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("GET", "/v1/audit/head")
        keys = _policy_keys(client)
        cluster = str(client.request("GET", "/v1/hello").get("cluster"))
    broken = answer.get("broken_at")
    if isinstance(broken, int):
        raise PeerError(
            f"the log does not hold: event {broken} was altered or removed, or the log was cut before it",
            hint="compare it with an export: tctl audit verify FILE",
            code="altered",
        )
    head = open_head(answer.get("head"), keys, cluster)
    after, removed = 0, ""
    if answer.get("checkpoint") is not None:
        begin = open_head(answer["checkpoint"], keys, cluster, CHECKPOINT)
        after = begin.id
        removed = f"; the {begin.id} before were removed until {format_time(begin.time)}, as auth signed"
    emit(
        args,
        {"cluster": cluster, "after": after, "last": head.id, "hash": head.hash, "signed_at": head.time},
        lambda: [
            f"{head.id - after} events of {printable(cluster)}: the chain holds, signed at {format_time(head.time)}"
            + removed
        ],
    )
    return 0


def _policy_keys(client: AuthClient) -> list[bytes]:
    answer = client.request("GET", "/v1/ca?type=policy")
    return [parse_public_line(str(key.get("line"))) for key in rows(answer, "keys")]


def _keys_of(path: Path) -> list[bytes]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path} is not a key file", detail=str(error)) from None
    return [parse_public_line(line) for line in lines if line.strip()]
