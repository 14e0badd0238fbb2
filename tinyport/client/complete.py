"""``tsh complete``: what a shell offers for a word, from one's login and the cluster."""

from __future__ import annotations

import argparse

from tinyport.client.whoami import auth_client, identity_of
from tinyport.core.names import NO_LOGIN
from tinyport.host.console_candidates import Offers, complete, labels_of, names_and_labels, names_of, targets

OFFERS: Offers = {
    "ls labels": "selector",
    "ssh target": "target",
    "scp paths": "path+",
    "run words": "nodes",
    "proxy ssh target": "target",
    "join session": "session",
    "sessions id": "session",
    "play what": "recording+",
    "recordings export id": "recording",
    "--cluster": "cluster",
    "--login": "login",
    "-l": "login",
}


def run(args: argparse.Namespace) -> int:
    """Print the candidates for ``args.word``, which is of ``args.kind``."""

    def ask(path: str) -> dict[str, object]:
        with auth_client(identity_of(args)) as client:
            return client.request("GET", path)

    def logins() -> list[str]:
        return [name for name in identity_of(args).logins if name != NO_LOGIN]

    def nodes() -> list[str]:
        return names_of(ask("/v1/nodes"), "nodes", "name")

    kinds = {
        "target": lambda word: targets(word, logins(), nodes),
        "path": lambda word: targets(word, logins(), nodes, ":"),
        "login": lambda word: logins(),
        "selector": lambda word: labels_of(ask("/v1/nodes")),
        "nodes": lambda word: names_and_labels(ask("/v1/nodes")),
        "session": lambda word: names_of(ask("/v1/sessions"), "sessions", "id"),
        "recording": lambda word: names_of(ask("/v1/recordings?limit=50"), "recordings", "id"),
        "cluster": lambda word: names_of(ask("/v1/clusters"), "clusters", "name"),
    }
    return complete(kinds, args.kind, args.word)
