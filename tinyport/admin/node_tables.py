"""How ``tctl`` shows nodes: tables of many, a page of one. What nodes say of themselves is hostile text."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tinyport.admin.answers import ago, labels_text, rows, table_of, words
from tinyport.core.clock import SKEW_WORTH_SAYING
from tinyport.core.durations import format_duration
from tinyport.core.names import printable
from tinyport.host.console import paint
from tinyport.host.console_progress import format_size
from tinyport.host.console_table import table

_DAYS_SHOWN = 14
_COLOURS = {"online": "green", "offline": "dim", "pending": "yellow", "quarantined": "red", "locked": "red"}
#: seconds for which bytes were counted that say what a day costs
_TELLING = 3600


def long_table(nodes: list[dict[str, Any]]) -> list[str]:
    lines = []
    for node in nodes:
        traffic, proxies, addresses = table_of(node.get("traffic")), node.get("proxies"), node.get("addresses")
        lines.append(
            (
                node.get("name"),
                _status(node),
                len(proxies) if isinstance(proxies, list) else 0,
                str(node.get("peer") or "").rpartition(":")[0] or "-",
                words(addresses) or "-",
                _traffic(traffic),
                # One that never came has said nothing of its clock.
                _clock(node.get("skew")) if node.get("last_seen") else "-",
                node.get("uuid"),
            )
        )
    headers = ("NAME", "STATUS", "TUNNELS", "FROM", "ADDRESSES", "TRAFFIC", "CLOCK", "UUID")
    return table(lines, headers, paint_cell=_paint)


def _traffic(traffic: Mapping[str, object]) -> str:
    """Of today and this month, and whether that is more than it should; an older auth knows only a day's. Once that
    says something: a handshake is all that there is of a node that has just come."""
    today, month = traffic.get("today"), traffic.get("month")
    if isinstance(today, (int, float)) and isinstance(month, (int, float)):
        over = f", over {format_size(_size(traffic.get('budget')))}" if traffic.get("over") else ""
        return f"{format_size(today)} today{over}, {format_size(month)} this month" if month else "-"
    a_day, since = traffic.get("a_day"), traffic.get("since")
    if not isinstance(a_day, (int, float)) or not isinstance(since, (int, float)):
        return "-"
    return f"{format_size(a_day)}/day" if time.time() - since >= _TELLING else "-"


def _size(value: object) -> float:
    return value if isinstance(value, (int, float)) else 0


def page(answer: Mapping[str, object]) -> list[str]:
    """One node for people. What it says of itself is hostile text."""
    node = table_of(answer.get("node"))
    traffic, copies = table_of(node.get("traffic")), rows({"copies": [], **node}, "copies")
    proxies = node.get("proxies")
    facts = [
        ("name", node.get("name")),
        ("uuid", node.get("uuid")),
        ("status", node.get("status")),
        ("locked", _lock_text(table_of(node.get("locked")))),
        ("last seen", _seen(node)),
        ("joined", ago(node.get("created"))),
        ("version", node.get("version")),
        ("host key", node.get("fingerprint")),
        ("serial", node.get("serial")),
        ("serial of", _twin_text(table_of(node.get("same_serial")))),
        ("labels", labels_text(node.get("labels"))),
        ("its own labels", labels_text(node.get("declared_labels"))),
        ("from", node.get("peer")),
        ("addresses", words(node.get("addresses"))),
        ("tunnels", len(proxies) if isinstance(proxies, list) else 0),
        ("clock", _clock(node.get("skew")) if node.get("last_seen") else None),
        ("copies", len(copies) or None),
        ("traffic", _traffic(traffic)),
        ("budget", f"{format_size(_size(traffic.get('budget')))} a day" if traffic else None),
    ]
    lines = [f"{name:<16}{printable(str(value), 300)}" for name, value in facts if value not in (None, "")]
    days = [(one.get("day"), format_size(_size(one.get("bytes")))) for one in rows(answer, "days")[-_DAYS_SHOWN:]]
    months = [(one.get("month"), format_size(_size(one.get("bytes")))) for one in rows(answer, "months")]
    for title, found in (("MONTH", months), ("DAY", days)):
        lines += ["", *table(found, (title, "TRAFFIC"))] if found else []
    return lines


def _clock(skew: object) -> str:
    if not isinstance(skew, (int, float)) or abs(skew) < SKEW_WORTH_SAYING:
        return "right"
    return f"{format_duration(skew)} {'fast' if skew > 0 else 'slow'}"


def _paint(header: str, text: str) -> str:
    return paint(text, _COLOURS.get(text, "bold")) if header == "STATUS" else text


def short_table(nodes: list[dict[str, Any]]) -> list[str]:
    lines: list[tuple[object, ...]] = []
    for node in nodes:
        labels = labels_text(node.get("labels"))
        lines.append((node.get("name"), _status(node), _seen(node), node.get("version"), labels))
        twin = table_of(node.get("same_serial"))
        if twin:
            lines.append((f"  serial of {printable(str(twin.get('name')), 80)}", "", "", "", _twin_seen(twin)))
        # An older auth knows of none.
        lines += [_copy_line(copy) for copy in (rows(node, "copies") if "copies" in node else [])]
    return table(
        lines,
        ("NAME", "STATUS", "LAST SEEN", "VERSION", "LABELS"),
        paint_cell=_paint,
    )


def _status(node: Mapping[str, object]) -> object:
    """A node that a lock keeps people from is seldom online, and its tunnel is not what is wrong with it."""
    return "locked" if node.get("locked") and node.get("status") in ("online", "offline") else node.get("status")


def _seen(node: Mapping[str, object]) -> str:
    """One that waits to be let in, or is quarantined, may be there all the same."""
    return "now" if node.get("status") == "online" or node.get("proxies") else ago(node.get("last_seen"))


def _twin_seen(twin: Mapping[str, object]) -> str:
    return "online" if twin.get("status") == "online" else f"{twin.get('status')}, seen {ago(twin.get('last_seen'))}"


def _twin_text(twin: Mapping[str, object]) -> str:
    return f"{twin.get('name')}, which is {_twin_seen(twin)}" if twin else ""


def _lock_text(lock: Mapping[str, object]) -> str:
    if not lock:
        return ""
    until = f"ends {ago(lock.get('expires'))}" if lock.get("expires") else "until it is removed"
    why = f": {lock['message']}" if lock.get("message") else ""
    return f"{until}, tctl unlock {lock.get('id')}{why}"


def _copy_line(copy: dict[str, Any]) -> tuple[object, ...]:
    """A second device with the identity of the node above."""
    seen = "now" if copy.get("online") else ago(copy.get("last_seen"))
    where = str(copy.get("peer") or "").rpartition(":")[0] or "?"
    status = "leaving" if copy.get("split") else "quarantined"
    return f"  copy {copy.get('id')}", status, seen, "-", f"from {where}, found {ago(copy.get('found'))}"
