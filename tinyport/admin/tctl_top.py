"""``tctl top``: what the cluster does at this moment."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping

from tinyport.admin.answers import rows, table_of
from tinyport.admin.connection import connect
from tinyport.core.names import printable
from tinyport.host.console import CommandLine, UsageError, format_time, output_options
from tinyport.host.console_progress import format_size
from tinyport.host.console_table import table
from tinyport.host.console_wrap import redraws

#: event → what people call it; shown in this order, the others by how many there were
_SHOWN = {
    "user.login": "logins",
    "user.login.failed": "logins refused",
    "session.start": "sessions begun",
    "session.end": "sessions ended",
    "node.join": "nodes joined",
}
FASTEST = 0.5
# Home, and erase what is below (ECMA-48 CUP and ED): nothing flickers, and what scrolled away stays.
_HOME, _ERASE_BELOW, _ERASE_LINE = "\x1b[H", "\x1b[J", "\x1b[K"
_CLEAR = "\x1b[2J"


def add_commands(parser: CommandLine) -> None:
    top = parser.command(
        "top",
        _top,
        help="what the cluster does now: tunnels, sessions, logins a second",
        description="Figures of the whole cluster, again every few seconds until Control-C. On a pipe: one line of "
        "JSON, or the table, for each look.",
        examples=["tctl top", "tctl top --every 10", "tctl top --count 1 --format json"],
        parents=[output_options()],
    )
    top.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="default: 2")
    top.add_argument("--count", type=int, default=0, metavar="N", help="look so often (default: until Control-C)")


def _top(args: argparse.Namespace) -> int:
    if args.every < FASTEST or args.count < 0:
        raise UsageError(f"--every is at least {FASTEST}, --count at least 1")
    live = args.format == "text" and redraws(sys.stdout)
    before: dict[str, object] | None = None
    looks = 0
    with connect(args) as client:
        try:
            while True:
                found = client.request("GET", "/v1/figures")
                if args.format == "json":
                    print(json.dumps(found, separators=(",", ":")), flush=True)
                else:
                    _show(screen(found, before), live, first=before is None)
                before, looks = found, looks + 1
                if looks == args.count:
                    return 0
                time.sleep(args.every)
        except KeyboardInterrupt:
            # How one leaves a display that has no end.
            print()
            return 0


def _show(lines: list[str], live: bool, *, first: bool) -> None:
    if not live:
        print("\n".join([*lines, ""]), flush=True)
        return
    columns, height = shutil.get_terminal_size()
    shown = [line[: columns - 1] + _ERASE_LINE for line in lines[: height - 1]]
    sys.stdout.write((_CLEAR if first else "") + _HOME + "\n".join(shown) + "\n" + _ERASE_BELOW)
    sys.stdout.flush()


def screen(found: Mapping[str, object], before: Mapping[str, object] | None) -> list[str]:
    """The lines to show. ``before``: the look before this one, for rates; None at the first."""
    nodes = table_of(found.get("nodes"))
    seconds = None if before is None else _number(found, "time") - _number(before, "time")
    states = ", ".join(f"{count} {state}" for state, count in nodes.items() if count or state == "online")
    lines = [
        f"{printable(str(found.get('cluster')), 80)}  {format_time(_number(found, 'time'))}",
        "",
        f"nodes     {states}",
        f"sessions  {_number(found, 'sessions'):.0f} open",
        f"auth      {_number(found, 'memory') / 2**20:.0f} MB, "
        f"{_rate(found, before, 'requests', seconds)} requests a second",
    ]
    traffic = table_of(found.get("traffic"))
    if traffic:
        # An older auth adds nothing up.
        over = _number(traffic, "over")
        today, month = (format_size(_number(traffic, name)) for name in ("today", "month"))
        lines.append(f"traffic   {today} today, {month} this month" + (f"; {over:.0f} over budget" if over else ""))
    lines.append("")
    most = [
        [node.get("name"), format_size(_number(node, "today")), format_size(_number(node, "month"))]
        for node in rows({"most": [], **traffic}, "most")
    ]
    lines += [*table(most, ["most traffic", "today", "this month"]), ""] if most else []
    proxies = [
        [proxy.get("name"), "online" if proxy.get("online") else "offline", f"{_number(proxy, 'tunnels'):.0f}"]
        for proxy in rows(found, "proxies")
    ]
    lines += [*table(proxies, ["proxy", "state", "tunnels"]), ""] if proxies else []
    events = table_of(found.get("events"))
    earlier = table_of(before.get("events")) if before is not None else {}
    names = [*_SHOWN, *sorted(events.keys() - _SHOWN.keys(), key=lambda name: -_number(events, name))]
    body = [
        [_SHOWN.get(name, name), f"{_number(events, name):.0f}", _rate(events, earlier, name, seconds)]
        for name in names
        if name in events or name in _SHOWN
    ]
    return [*lines, *table(body, ["since auth started", "count", "a second"])]


def _number(found: Mapping[str, object], name: str) -> float:
    value = found.get(name, 0)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _rate(found: Mapping[str, object], before: Mapping[str, object] | None, name: str, seconds: float | None) -> str:
    """``-`` when there is nothing to compare with, or auth was started anew in between."""
    if before is None or not seconds or seconds < 0:
        return "-"
    grown = _number(found, name) - _number(before, name)
    return "-" if grown < 0 else f"{grown / seconds:.1f}"
