"""``tctl``: the administrator's client. Commands live in ``tctl_*``; this module puts them together."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from tinyport.admin import (
    tctl_access,
    tctl_audit,
    tctl_auth,
    tctl_backup,
    tctl_complete,
    tctl_nodes,
    tctl_recordings,
    tctl_resources,
    tctl_tokens,
    tctl_top,
    tctl_users,
)
from tinyport.admin.answers import table_of, words
from tinyport.admin.connection import connect
from tinyport.admin.main import add_completion
from tinyport.admin.tctl_rotate import rotation_lines
from tinyport.core.names import printable
from tinyport.host.console import CommandLine, emit, output_options
from tinyport.host.console import main as run_command_line

#: shown even when there are none
_ALWAYS = ("online", "offline")


def build_parser() -> CommandLine:
    parser = CommandLine(
        "tctl",
        description="Administer a cluster: users, roles, tokens, nodes, locks, audit.",
        examples=[
            "tctl status",
            "tctl users add alice --logins pi --roles access",
            "tctl tokens add --type node --labels site=berlin",
            "tctl -i admin-identity.json nodes ls",
        ],
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="auth's tinyport.toml, on the auth host")
    parser.add_argument("-i", "--identity", metavar="FILE", help="an identity file, from anywhere")
    parser.add_argument("--proxy", metavar="H:P", help="the cluster's proxy (default: the login's)")
    parser.add_argument("-d", "--debug", action="store_true", help="show tracebacks")
    parser.command(
        "status", _status, help="the cluster at a glance", examples=["tctl status"], parents=[output_options()]
    )
    tctl_top.add_commands(parser)
    tctl_users.add_commands(parser)
    tctl_tokens.add_commands(parser)
    tctl_nodes.add_commands(parser)
    tctl_resources.add_commands(parser)
    tctl_access.add_commands(parser)
    tctl_audit.add_commands(parser)
    tctl_recordings.add_commands(parser)
    tctl_auth.add_commands(parser)
    tctl_backup.add_commands(parser)
    parser.command("version", _version, help="print the version", examples=["tctl version"], parents=[output_options()])
    add_completion(parser, "tctl", _completion)
    complete = parser.command("complete", tctl_complete.run, help=None, description="print what a word may become")
    complete.add_argument("kind", metavar="KIND")
    complete.add_argument("word", metavar="WORD", nargs="?", default="")
    return parser


def _status(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = client.request("GET", "/v1/status")
    nodes = table_of(found.get("nodes"))
    proxies = found.get("proxies")
    lines = [
        ("cluster", found.get("cluster")),
        ("version", found.get("version")),
        ("CA pins", words(found.get("ca_pins"))),
        ("nodes", ", ".join(f"{count} {state}" for state, count in nodes.items() if count or state in _ALWAYS)),
        ("users", found.get("users")),
        ("policy", f"serial {found.get('policy_serial')}"),
    ]
    for proxy in proxies if isinstance(proxies, list) else []:
        item = table_of(proxy)
        where = words(item.get("addresses"))
        state = "online" if item.get("online") else "offline"
        lines.append(("proxy", f"{item.get('name')} {state}{' at ' + where if where else ''}"))
    clusters = found.get("clusters")
    for cluster in clusters if isinstance(clusters, list) else []:
        lines.append(("trusts", _trusted(table_of(cluster))))
    if "rotation" in found:
        lines += [("rotation", line) for line in rotation_lines(table_of(found["rotation"]))]
    emit(args, found, lambda: [f"{name + ':':<10}{printable(str(value), 400)}" for name, value in lines])
    return 0


def _trusted(cluster: Mapping[str, object]) -> str:
    said = [] if cluster.get("enabled") else ["disabled"]
    for key, whose in (("online", "its tunnel to us"), ("dialled", "our tunnel to it")):
        if isinstance(cluster.get(key), bool):
            said.append(f"{whose} is {'up' if cluster[key] else 'down'}")
    return f"{cluster.get('name')}{': ' if said else ''}{', '.join(said)}"


def _version(args: argparse.Namespace) -> int:
    from tinyport.core.version import VERSION

    emit(args, {"version": VERSION}, lambda: [f"tctl {VERSION}"])
    return 0


def _completion(args: argparse.Namespace) -> int:
    from tinyport.host.console_completion import completion_script

    print(completion_script(build_parser(), args.shell, tctl_complete.OFFERS), end="")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Returns its exit status."""
    return run_command_line("tctl", build_parser, argv)
