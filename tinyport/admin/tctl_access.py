"""``tctl lock``, ``unlock`` and ``explain``: who is kept out, and why."""

from __future__ import annotations

import argparse

from tinyport.admin.answers import ago, body, duration, path, rows, table_of
from tinyport.admin.connection import connect
from tinyport.core.names import printable
from tinyport.host.console import CommandLine, UsageError, emit, output_options
from tinyport.host.console_table import table


def add_commands(parser: CommandLine) -> None:
    lock = parser.command(
        "lock",
        _lock,
        help="keep a user, node, role, login or device out, now",
        description="Refuse new sessions at once and end live ones. Without a target: list the locks.",
        examples=[
            "tctl lock --user alice --message 'left the company'",
            "tctl lock --node greenhouse --ttl 2h",
            "tctl lock --device SHA256:... --message 'lost laptop'",
        ],
        parents=[output_options()],
    )
    target = lock.add_mutually_exclusive_group()
    for name, whom in (
        ("user", "somebody, everywhere"),
        ("node", "everybody, on this node"),
        ("role", "whoever has this role"),
        ("login", "everybody, as this login"),
    ):
        target.add_argument(f"--{name}", metavar=name[0].upper(), help=whom)
    target.add_argument(
        "--device",
        metavar="SHA256:...",
        help="the key of one login of somebody's, as tsh status and tctl audit --type user.login show it",
    )
    lock.add_argument("--ttl", metavar="2h", help="until when; without it, until it is removed")
    lock.add_argument("--message", metavar="M", help="what whoever is kept out reads")
    unlock = parser.command(
        "unlock", _unlock, help="remove a lock", parents=[output_options()], examples=["tctl unlock ID"]
    )
    unlock.add_argument("id", metavar="ID", help='"tctl lock" lists them')
    explain = parser.command(
        "explain",
        _explain,
        help="which rule decides, and why",
        examples=["tctl explain alice pi@greenhouse"],
        parents=[output_options()],
    )
    explain.add_argument("user", metavar="USER", help="who")
    explain.add_argument("target", metavar="LOGIN@NODE", help="as whom, and where")


def _lock(args: argparse.Namespace) -> int:
    target = {kind: getattr(args, kind) for kind in ("user", "node", "role", "login", "device") if getattr(args, kind)}
    if not target:
        return _locks(args)
    request = body(target=target, ttl=duration(args.ttl), message=args.message)
    with connect(args) as client:
        answer = client.request("POST", "/v1/locks", request)
    lock = table_of(answer.get("lock")) or answer
    emit(args, answer, lambda: [f"locked; tctl unlock {lock.get('id')} removes it"])
    return 0


def _locks(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("GET", "/v1/locks")
    lines = []
    for lock in rows(answer, "locks"):
        target = " ".join(f"{kind} {value}" for kind, value in table_of(lock.get("target")).items())
        if lock.get("node_name"):
            target = f"node {lock['node_name']}, {target.removeprefix('node ')}"
        lines.append(
            (
                lock.get("id"),
                target,
                ago(lock.get("expires")) if lock.get("expires") else "when removed",
                lock.get("message"),
            )
        )
    emit(args, answer, lambda: table(lines, ("ID", "TARGET", "ENDS", "MESSAGE")))
    return 0


def _unlock(args: argparse.Namespace) -> int:
    with connect(args) as client:
        answer = client.request("DELETE", path("/v1/locks", args.id))
    emit(args, answer, lambda: [f"lock {printable(args.id)} was removed"])
    return 0


def _explain(args: argparse.Namespace) -> int:
    login, at, node = args.target.rpartition("@")
    if not at or not login or not node:
        raise UsageError(f"{printable(args.target, 80)!r} is not LOGIN@NODE", hint="for example pi@greenhouse")
    with connect(args) as client:
        answer = client.request("POST", "/v1/explain", {"user": args.user, "login": login, "node": node})
    steps = answer.get("steps")
    lines = [f"{answer.get('verdict')}: {args.user} as {args.target}"]
    lines += [f"  {step}" for step in (steps if isinstance(steps, list) else [])]
    emit(args, answer, lambda: [printable(line, 400) for line in lines])
    return 0
