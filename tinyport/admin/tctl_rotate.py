"""``tctl auth rotate``: new CAs in the place of the old ones, and what ``tctl status`` says of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from tinyport.admin.answers import body, duration, rows, table_of, words
from tinyport.admin.connection import connect
from tinyport.core import rotation as r
from tinyport.core.errors import OperatorError
from tinyport.core.names import printable
from tinyport.host.console import CommandLine, emit, format_time, output_options

_WHAT_NEXT = {
    r.INIT: "everybody is told of the new CA; wait until all have followed, and 12 hours for people's logins, then "
    "--phase update_clients",
    r.UPDATE_CLIENTS: "users and nodes get certificates of the new CA; wait as before, then --phase update_servers",
    r.UPDATE_SERVERS: "everything is signed by the new CA; wait as before, then --phase standby ends the old one",
    r.ROLLBACK: "everything is signed by the old CA again; when all have followed, --phase standby drops the new one",
    r.STANDBY: "",
}
# A person's login of the default length, so that everybody has logged in once in each phase.
_SHORT_GRACE = 36 * 3600


def add_command(auth: CommandLine) -> None:
    """``rotate``, below ``tctl auth``."""
    command = auth.command(
        "rotate",
        _rotate,
        help="replace CAs by new ones while everything goes on",
        description="Replace the user, host or TLS CA. By itself within a grace period (48h unless another is given), "
        "or by hand, phase after phase: init, update_clients, update_servers, standby; rollback leads back from each. "
        "docs/rotation.md tells what each phase does.",
        examples=[
            "tctl auth rotate --type all --grace-period 72h",
            "tctl auth rotate --type host --phase init",
            "tctl auth rotate --type host --phase rollback",
            "tctl auth rotate --type all --compromised",
        ],
        parents=[output_options()],
    )
    command.add_argument("--type", choices=(*r.TYPES, "all"), required=True, help="which CA")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--phase", choices=r.PHASES, help="take this one step by hand")
    how.add_argument("--grace-period", "--grace", dest="grace", metavar="48h", help="all steps within this time")
    how.add_argument(
        "--compromised",
        action="store_true",
        help="somebody else may have the keys: replace all of them now; every machine must join again",
    )
    command.add_argument(
        "--force",
        action="store_true",
        help="with --phase standby: although a proxy has not followed, which is lost then",
    )
    command.add_argument("--yes", action="store_true", help="with --compromised: do not ask")


def _rotate(args: argparse.Namespace) -> int:
    if args.compromised:
        return _compromised(args)
    types = list(r.TYPES) if args.type == "all" else [args.type]
    grace = None if args.phase else duration(args.grace or "48h")
    with connect(args) as client:
        answer = client.request(
            "POST", "/v1/rotation", body(types=types, phase=args.phase, grace=grace, force=args.force or None)
        )
    emit(args, answer, lambda: [*rotation_lines(answer, always=True), *_advice(args.phase or r.INIT, grace)])
    if grace is not None and grace < _SHORT_GRACE:
        print(
            "tctl: hint: whoever does not log in within a third of that time must do so before their next session",
            file=sys.stderr,
        )
    return 0


def _advice(phase: str, grace: int | None) -> list[str]:
    if grace is not None:
        return ["It goes on by itself; --phase rollback takes it back until the end."]
    return [_WHAT_NEXT[phase]] if _WHAT_NEXT[phase] else []


def rotation_lines(rotation: Mapping[str, Any], *, always: bool = False) -> list[str]:
    """The ``rotation`` of auth's status for people: nothing when none is under way, unless ``always``."""
    types = [table_of(item) for item in rows(rotation, "types")]
    if not always and all(one.get("phase") == r.STANDBY for one in types):
        types = []
    lines = [_type_line(one) for one in types if always or one.get("phase") != r.STANDBY]
    followed = table_of(rotation.get("followed"))
    behind = [table_of(item) for item in rows(rotation, "behind")]
    if followed and (lines or behind):
        counts = [
            f"{table_of(count).get('followed')} of {table_of(count).get('of')} {_PLURAL.get(kind, kind)}"
            for kind, count in followed.items()
        ]
        lines.append(f"followed by {', '.join(counts)}")
    if behind:
        shown = [f"{one.get('name')} ({'online' if one.get('online') else 'offline'})" for one in behind[:10]]
        more = f" and {len(behind) - 10} more" if len(behind) > 10 else ""
        lines.append(printable(f"not yet: {', '.join(shown)}{more}", 1000))
    if waits := words(rotation.get("waits_for")):
        lines.append(printable(f"standby waits for {waits}, which would be lost with it (docs/rotation.md)", 1000))
    logins = [table_of(item) for item in rotation.get("logins") or ()]
    return lines + ([_logins_line(logins)] if logins else [])


def _logins_line(logins: list[dict[str, Any]]) -> str:
    """Whose certificates end with the old CA, or do not know the new one."""
    shown = [f"{one.get('user')} (until {format_time(float(one.get('until') or 0))})" for one in logins[:10]]
    more = f" and {len(logins) - 10} more" if len(logins) > 10 else ""
    return printable(f"logins from before this step: {', '.join(shown)}{more}", 1000)


_PLURAL = {"node": "nodes", "proxy": "proxies"}


def _type_line(one: Mapping[str, Any]) -> str:
    line = f"{one.get('type')} CA: {one.get('phase')}"
    changed, following = one.get("changed"), one.get("next_at")
    if isinstance(changed, (int, float)) and one.get("phase") != r.STANDBY:
        line += f" since {format_time(changed)}"
    if isinstance(following, (int, float)):
        line += f", {r.FORWARD.get(str(one.get('phase')), 'the next')} at {format_time(following)}"
    return printable(line, 200)


# -------------------------------------------------------------------- compromise


def _compromised(args: argparse.Namespace) -> int:
    if args.type != "all":
        raise OperatorError(
            "whoever has one of the keys has had auth's database, and so all of them",
            hint="give --type all",
            code="usage",
        )
    with connect(args) as client:
        cluster = str(client.request("GET", "/v1/status").get("cluster"))
        _confirm(cluster, asked=not args.yes)
        answer = client.request("POST", "/v1/rotation/compromised", {"cluster": cluster})
    emit(args, answer, lambda: _what_to_do(answer))
    return 0


def _confirm(cluster: str, *, asked: bool) -> None:
    if not asked:
        return
    if not sys.stdin.isatty():
        raise OperatorError("this ends every certificate of the cluster", hint="give --yes to say that it is meant")
    print(
        "Every key of the cluster is replaced. Nobody is logged in any more, no machine is connected; each machine\n"
        "must be given the new pin and join again. This cannot be taken back."
    )
    if input("The name of the cluster, to go on: ").strip() != cluster:
        raise OperatorError("that is not its name; nothing was changed")


def _what_to_do(answer: Mapping[str, Any]) -> list[str]:
    told, others = words(answer.get("told")), words(answer.get("not_told"))
    return [
        "Every key of the cluster is new. No machine and nobody's login follows by itself.",
        printable(f"The CA pin is now {words(answer.get('ca_pins'))}", 300),
        printable(f"Connected, and closed to the old keys: {told or 'none'}", 4000),
        printable(f"Not connected, open to the old keys until they join again: {others or 'none'}", 4000),
        "",
        "For each machine:",
        "  1. here:     tctl tokens add --type node        (or --type proxy; proxies first)",
        "  2. there:    cd DATA_DIR/node && mv identity.json identity.pending.json     (DATA_DIR/proxy for a proxy)",
        "  3. there:    put the new ca_pin and the token into tinyport.toml, and start tinyport again",
        "It joins with the key that it had, and keeps its name, UUID and labels. A closed node lets in over its own",
        'network whoever logs in anew: ssh -p 3022 LOGIN@ADDRESS. People: "tsh login --ca-pin NEW"; set passwords anew',
        "when auth's database was seen by somebody else.",
    ]
