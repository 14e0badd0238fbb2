"""The nodes that ``tsh run`` is for: by label, by name, here or in another cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from tinyport.client.whoami import auth_client
from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.labels import parse_pairs
from tinyport.core.names import check_node, is_uuid, printable
from tinyport.host.user_identity import UserIdentity


def chosen_nodes(identity: UserIdentity, words: Sequence[str], cluster: str | None = None) -> list[Mapping[str, Any]]:
    """Nodes of our cluster, or of another (``cluster``): with all the labels among ``words`` (``k=v``), and those that
    are named; by name, each once.

    OperatorError for a name that no visible node has, or what is no label.
    """
    pairs = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    try:
        parse_pairs(pairs)
    except PeerError as error:
        raise OperatorError(error.message, hint=error.hint, code="usage") from None
    found: dict[str, Mapping[str, Any]] = {}
    with _listing(identity, cluster) as ask:
        if pairs:
            found.update(_by_uuid(ask(pairs)))
        if names:
            everything = _by_uuid(ask([]))
            for name in names:
                short = name.removesuffix(f".{cluster or identity.cluster}")
                mine = {uuid: node for uuid, node in everything.items() if short in (uuid, node["name"])}
                if not mine:
                    raise OperatorError(
                        f"there is no node {printable(name, 80)}",
                        hint='"tsh ls" lists the nodes',
                        code="not_found",
                    )
                found.update(mine)
    return sorted(found.values(), key=lambda node: str(node["name"]))


@contextmanager
def _listing(identity: UserIdentity, cluster: str | None) -> Iterator[Callable[[Sequence[str]], object]]:
    """Something to ask for the nodes with all these labels."""
    if cluster is not None:
        from tinyport.client.elsewhere import nodes_elsewhere

        yield lambda pairs: asyncio.run(nodes_elsewhere(identity, cluster, pairs, ""))
        return
    with auth_client(identity) as client:

        def ask(pairs: Sequence[str]) -> object:
            query = urlencode([("selector", pair) for pair in pairs])
            return client.request("GET", "/v1/nodes" + (f"?{query}" if query else "")).get("nodes")

        yield ask


def _by_uuid(nodes: object) -> dict[str, Mapping[str, Any]]:
    if not isinstance(nodes, list) or not all(
        isinstance(node, dict) and is_uuid(str(node.get("uuid"))) for node in nodes
    ):
        raise PeerError("the list of nodes is not one", hint="is auth of another version?")
    for node in nodes:
        # Files are called by it, and another cluster's words are a stranger's.
        check_node(node.get("name"))
    return {node["uuid"]: node for node in nodes}
