"""``tctl complete``: what a shell offers for a word, from the cluster."""

from __future__ import annotations

import argparse
import re

from tinyport.admin.connection import connect
from tinyport.admin.tctl_resources import KINDS
from tinyport.host.console_candidates import Offers, complete, labels_of, names_and_labels, names_of, targets

OFFERS: Offers = {
    "users rm name": "user",
    "users reset name": "user",
    "users update name": "user",
    "users unlock name": "user",
    "tokens rm ids": "token",
    "nodes ls labels": "selector",
    **{f"nodes {verb} ids": "nodes" for verb in ("accept", "reject", "rm", "lock")},
    "nodes label words": "node",
    "nodes rename id": "node",
    "nodes split id": "node",
    "nodes show id": "node",
    "get resource": "resource",
    "rm resource": "resource",
    "unlock id": "lock",
    "explain user": "user",
    "explain target": "target",
    "sessions kill id": "session",
    "sessions join id": "session",
    "recordings export id": "recording",
    "recordings rm id": "recording",
    "--user": "user",
    "--node": "node",
    "--role": "role",
    "--roles": "role",
    "--replaces": "node",
}


def run(args: argparse.Namespace) -> int:
    """Print the candidates for ``args.word``, which is of ``args.kind``."""

    def ask(path: str) -> dict[str, object]:
        with connect(args) as client:
            return client.request("GET", path)

    def listed(what: str, *fields: str) -> list[str]:
        return names_of(ask(f"/v1/{what}"), re.split("[?/]", what)[0], *fields)

    def resources(word: str) -> list[str]:
        kind, slash, _ = word.partition("/")
        if not slash or kind not in KINDS:
            return [f"{one}/" for one in KINDS]
        return [f"{kind}/{name}" for name in listed(f"resources/{kind}", "name")]

    kinds = {
        "user": lambda word: listed("users", "name"),
        "role": lambda word: listed("resources/role", "name"),
        "token": lambda word: listed("tokens", "id"),
        "lock": lambda word: listed("locks", "id"),
        "node": lambda word: listed("nodes", "name"),
        "nodes": lambda word: names_and_labels(ask("/v1/nodes")),
        "selector": lambda word: labels_of(ask("/v1/nodes")),
        "session": lambda word: listed("sessions", "id", "sid"),
        "recording": lambda word: listed("recordings?limit=50", "id"),
        "target": lambda word: targets(word, (), lambda: listed("nodes", "name")),
        "resource": resources,
    }
    return complete(kinds, args.kind, args.word)
