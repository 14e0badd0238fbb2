"""What an operator watches of a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyport.core.version import VERSION
from tinyport.link.diagnostics import Figure

if TYPE_CHECKING:
    from tinyport.proxy.server import Proxy


def missing(proxy: Proxy) -> str | None:
    """What keeps it from serving people; None for nothing. Auth may be away: then it judges by its own copy."""
    return None if proxy.knowledge.has_policy else "no policy has come from auth yet"


async def figures(proxy: Proxy) -> list[Figure]:
    """For ``/metrics``."""
    knowledge, gateway = proxy.knowledge, proxy.gateway
    policy = knowledge.policy if knowledge.has_policy else None
    return [
        Figure("build_info", "Which version runs", {(VERSION,): 1}, ("version",)),
        Figure.one("auth_up", "Whether auth answers", float(proxy.authlink.up)),
        Figure.one("tunnels", "Nodes that hold a tunnel", len(proxy.tunnels)),
        Figure.one("cluster_tunnels", "Proxies of other clusters that hold a tunnel", len(proxy.clusters)),
        Figure.one("partner_tunnels", "Tunnels of ours to proxies of other clusters", proxy.partners.tunnels),
        Figure.one("sessions", "Connections to nodes that were let through and are open", proxy.gatekeeper.open_count),
        Figure.one("dials", "Nodes that were asked to dial back and have not yet", len(proxy.dials)),
        Figure.one("open_connections", "Connections to the public port", gateway.open_count),
        Figure.one("strangers", "Of these, who have not said who they are", len(gateway.strangers)),
        Figure.one("turned_away", "Strangers that made room for others", gateway.strangers.turned_away, counts=True),
        Figure.one("nodes_waiting", "Who waits for a turn to open a tunnel", len(gateway.gate)),
        Figure.one("nodes_sent_back", "Of these, who came in too large a crowd", gateway.gate.turned_away, counts=True),
        Figure(
            "connections",
            "Connections by what they turned out to be",
            {(kind,): count for kind, count in gateway.met.items()},
            ("kind",),
            counts=True,
        ),
        Figure.one("known_nodes", "Nodes whose signed document is here", knowledge.node_count),
        Figure.one("policy_serial", "Serial of the policy that it judges by", 0 if policy is None else policy.serial),
        Figure.one("policy_issued_seconds", "When that was made, in Unix seconds", policy.issued_at if policy else 0),
    ]
