"""Other clusters for people with a browser: their nodes, and the way to a terminal there (docs/web.md).

As ``tsh`` goes there: SSH to a proxy of that cluster, which judges, and in it to the node. Only that both end here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncssh

from tinyport.core.access import Subject
from tinyport.core.certificate import Certificate, parse_public_line
from tinyport.core.errors import AccessDenied, Unavailable
from tinyport.core.host_judgement import wanted_principal
from tinyport.core.names import parse_address, printable
from tinyport.core.trust import TrustedCluster
from tinyport.link.node_list import ask_nodes
from tinyport.proxy.access import Gatekeeper
from tinyport.proxy.cluster_tunnels import ClusterTunnels
from tinyport.proxy.knowledge import Knowledge
from tinyport.proxy.sockets import connect
from tinyport.proxy.ssh_client import CONNECT_LIMIT, Host, Person, SshLink, as_ours, connected, onward
from tinyport.proxy.stream import Stream


class Elsewhere:
    """The ways of web sessions to other clusters."""

    def __init__(self, knowledge: Knowledge, gatekeeper: Gatekeeper, clusters: ClusterTunnels) -> None:
        self._knowledge = knowledge
        self._gatekeeper = gatekeeper
        self._clusters = clusters

    def is_other(self, name: str | None) -> bool:
        """Is it a cluster's name, and not ours?"""
        return bool(name) and name != self._knowledge.cluster

    async def nodes(
        self, name: str, person: Person, peer: tuple[str, int], selectors: Sequence[str], search: str
    ) -> list[dict[str, object]]:
        """The nodes there that the person may see. Raises as ``to_node``."""
        link, _ = await self._proxy(self._known(name), person, peer)
        try:
            return await asyncio.wait_for(ask_nodes(link.connection, selectors, search), CONNECT_LIMIT)
        except (asyncssh.Error, OSError, asyncio.TimeoutError) as error:
            raise as_ours(error, link.words) from None
        finally:
            link.leave()

    async def to_node(self, name: str, node: str, person: Person, peer: tuple[str, int]) -> tuple[SshLink, Subject]:
        """To a node there, by its name or UUID: the connection, and whom we let go there.

        AccessDenied in the other cluster's words, or ``not_found`` when it is none that we know; PeerError when
        somebody else answers; else Unavailable.
        """
        cluster = self._known(name)
        principal = wanted_principal(node, cluster.name)
        if principal is None:
            raise AccessDenied("labels find nodes of one's own cluster only", hint="choose a node", code="bad_request")
        link, subject = await self._proxy(cluster, person, peer)
        return await onward(link, Host(cluster.name, cluster.host_cas, principal), person), subject

    def _known(self, name: str) -> TrustedCluster:
        for cluster in self._knowledge.policy.trusted_clusters:
            if cluster.name == name and cluster.enabled and cluster.host_cas:
                return cluster
        raise AccessDenied(f"no cluster {printable(name, 100)} is known here", code="not_found")

    async def _proxy(self, cluster: TrustedCluster, person: Person, peer: tuple[str, int]) -> tuple[SshLink, Subject]:
        certificate = Certificate.decode(parse_public_line(person.ssh_certificate))
        subject = self._gatekeeper.subject(certificate, peer[0])
        if cluster.by_tunnel:
            stream = await self._clusters.dial(subject, cluster.name, peer)
        else:
            stream = await self._direct(cluster)
        host = Host(cluster.name, cluster.host_cas, f"proxy.{cluster.name}", "proxy")
        return await connected(stream, host, person), subject

    async def _direct(self, cluster: TrustedCluster) -> Stream:
        address = parse_address(cluster.public_addr)
        try:
            sock = await asyncio.wait_for(connect(*address), CONNECT_LIMIT)
        except (OSError, asyncio.TimeoutError) as error:
            raise Unavailable(f"the proxy of {cluster.name} does not answer", detail=str(error)) from None
        return Stream(asyncio.get_running_loop(), sock, address)
