"""``tsh run``: what was typed, which nodes that means, and what is printed and returned in the end."""

from __future__ import annotations

import argparse
import sys

from tinyport.client.fleet import Fleet
from tinyport.client.fleet_display import Display
from tinyport.client.fleet_nodes import chosen_nodes
from tinyport.client.fleet_output import Files, Kept, Lines, Sink, output_folder, without_earlier
from tinyport.client.fleet_results import Result, counted, summary
from tinyport.client.target import checked_login, default_login
from tinyport.client.whoami import identity_of
from tinyport.core.durations import parse_duration
from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.names import printable
from tinyport.host.console import INTERRUPTED, UsageError, to_json

#: nothing ran anywhere
NOTHING = 255
MOST_PARALLEL = 256
# Its proxy takes 100 sessions on one connection.
MOST_ELSEWHERE = 90


def run(args: argparse.Namespace) -> int:
    """0: it ended with status 0 on every node; 1: not on every one; 255: it ran nowhere; 130: Control-C ended it."""
    command = " ".join(args.command or ())
    if not command or not args.words:
        raise UsageError("which nodes, and what to run there?", hint="tsh run site=berlin -- uptime")
    if not 1 <= args.parallel <= MOST_PARALLEL:
        raise UsageError(f"--parallel is from 1 to {MOST_PARALLEL}")
    limit = _seconds(args.timeout)
    folder = None if args.output_dir is None else output_folder(args.output_dir)
    identity = identity_of(args)
    login = checked_login(args.login or default_login(identity))
    cluster = args.cluster if args.cluster and args.cluster != identity.cluster else None
    if cluster is not None and args.parallel > MOST_ELSEWHERE:
        raise UsageError(f"--parallel is at most {MOST_ELSEWHERE} in another cluster")
    nodes = chosen_nodes(identity, args.words, cluster)
    if not nodes:
        raise OperatorError("no node matches that your roles let you see", hint='"tsh ls" lists them', code="not_found")
    as_json = args.format == "json"
    if folder is not None:
        without_earlier(folder, [str(node["name"]) for node in nodes])

    def sink(name: str) -> Sink:
        if folder is not None:
            return Files(folder, name)
        return Kept() if as_json else Lines(name, display)

    display = Display(len(nodes))
    seen = folder is None and not as_json
    fleet = Fleet(identity, login, command, args.parallel, limit, display, sink, cluster, seen=seen)
    try:
        results = fleet.run(nodes)
    finally:
        display.close()
    if as_json:
        print(to_json({"command": command, "nodes": [one.document() for one in results], **counted(results)}))
    else:
        # Standard output is the command's.
        print("\n".join(summary(results)), file=sys.stderr)
    return INTERRUPTED if fleet.interrupted else _status(results)


def _status(results: list[Result]) -> int:
    if all(one.kind == "ok" for one in results):
        return 0
    return 1 if any(one.began for one in results) else NOTHING


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(parse_duration(text))
    except PeerError as error:
        raise UsageError(f"--timeout {printable(text, 40)}: {error.message}") from None
    if not seconds:
        raise UsageError("--timeout is at least 1s")
    return seconds
