"""The way to a node of another cluster: through that cluster's proxy as OpenSSH's -J goes, SSH within SSH.

That proxy is reached at its public address, or through the tunnel that it dials to our own. The certificate is the one
of one's own cluster; the other proxy and the node judge it by the trust that their auth has signed. Whom we talk to is
judged here, by the host CAs that our auth told us.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from tinyport.client.dial import dial_cluster
from tinyport.client.engine import OpenWay, Wish, as_ours, engine_options, prepared
from tinyport.client.other_clusters import OtherCluster, named
from tinyport.core.certificate import parse_public_line, public_line
from tinyport.core.errors import AccessDenied, OperatorError, PeerError, TinyportError, Unavailable
from tinyport.core.host_judgement import judge_host, wanted_principal
from tinyport.core.names import parse_address, printable
from tinyport.host.user_identity import UserIdentity
from tinyport.link.node_list import ask_nodes
from tinyport.link.refusal import cannot_reach

if TYPE_CHECKING:
    import asyncssh

CONNECT_TIMEOUT = 10.0
# The proxy may wait for the node to dial back, and the node for its keeper.
LOGIN_TIMEOUT = 60.0


class _Refused(list[TinyportError]):
    """Why a host key was not believed: asyncssh would say only that it was not."""

    def judge(self, cluster: OtherCluster, principal: str, role: str) -> Callable[[bytes], asyncssh.SSHKey]:
        def judged(key_data: bytes) -> asyncssh.SSHKey:
            import asyncssh

            try:
                cert = judge_host(
                    key_data,
                    host_cas=[parse_public_line(line) for line in cluster.host_cas],
                    cluster=cluster.name,
                    principals=[principal],
                    now=time.time(),
                    role=role,
                )
            except PeerError as error:
                self.append(error)
                raise asyncssh.HostKeyNotVerifiable(error.message) from None
            return asyncssh.import_public_key(public_line(cert.public_key))

        return judged


class _ToProxy:
    """What asyncssh calls a tunnel: plain TCP, with our judgement of the host key."""

    def __init__(self, judge: Callable[[bytes], asyncssh.SSHKey]) -> None:
        self._judge = judge

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> tuple[object, object]:
        opening = asyncio.get_running_loop().create_connection(lambda: prepared(factory(), self._judge), host, port)
        try:
            return await asyncio.wait_for(opening, CONNECT_TIMEOUT)
        except asyncio.TimeoutError:
            # Before Python 3.11 it is no OSError.
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None


class _ThroughProxy:
    """The same through a connection to the proxy."""

    def __init__(self, proxy: asyncssh.SSHClientConnection, judge: Callable[[bytes], asyncssh.SSHKey]) -> None:
        self._proxy = proxy
        self._judge = judge

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> tuple[object, object]:
        return await self._proxy.create_connection(lambda: prepared(factory(), self._judge), host, port)


@asynccontextmanager
async def connected_elsewhere(
    identity: UserIdentity, wish: Wish, cluster_name: str
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """An authenticated connection to ``wish.target`` in another cluster. OperatorError ``not_found`` when our cluster
    knows none of that name; AccessDenied, PeerError and Unavailable as ``engine.connected``."""
    async with ways_elsewhere(identity, cluster_name) as way, way(wish) as connection:
        yield connection


#: a wish → an authenticated connection to its node
Way = Callable[[Wish], AbstractAsyncContextManager["asyncssh.SSHClientConnection"]]


@asynccontextmanager
async def ways_elsewhere(identity: UserIdentity, cluster_name: str) -> AsyncIterator[Way]:
    """One connection to another cluster's proxy, for as many nodes as one likes. Raises as ``connected_elsewhere``."""
    # It asks auth, and others may be at work in this loop.
    cluster = await asyncio.to_thread(named, identity, cluster_name)

    async with _proxy(identity, cluster, _Refused()) as proxy:

        @asynccontextmanager
        async def way(wish: Wish) -> AsyncIterator[asyncssh.SSHClientConnection]:
            node = wanted_principal(wish.target, cluster.name)
            if node is None:
                hint = "give the node's name"
                raise OperatorError("labels find nodes of one's own cluster only", hint=hint, code="usage")
            refused = _Refused()
            there = _ThroughProxy(proxy, refused.judge(cluster, node, "node"))
            connection = await _connect(node, 22, there, engine_options(identity, wish), refused)
            async with _closing(connection, node):
                yield connection

        yield way


async def nodes_elsewhere(
    identity: UserIdentity, cluster_name: str, selectors: Sequence[str], search: str
) -> list[dict[str, object]]:
    """The nodes of another cluster that it lets one see. Raises as ``connected_elsewhere``."""
    import asyncssh

    cluster = named(identity, cluster_name)
    async with _proxy(identity, cluster, _Refused()) as proxy:
        try:
            return await asyncio.wait_for(ask_nodes(proxy, selectors, search), LOGIN_TIMEOUT)
        except asyncio.TimeoutError:
            raise Unavailable(f"the proxy of {cluster.name} does not answer", hint="try again in a moment") from None
        except asyncssh.ChannelOpenError as error:
            raise AccessDenied(f"{cluster.name} lists no nodes: {printable(error.reason, 300)}") from None


@asynccontextmanager
async def _proxy(
    identity: UserIdentity, cluster: OtherCluster, refused: _Refused
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    # The proxy asks for no login of a machine's, and gets no agent.
    options = engine_options(identity, Wish(target="", login=identity.user))
    judge = refused.judge(cluster, f"proxy.{cluster.name}", "proxy")
    if not cluster.proxy:
        dialled = await asyncio.to_thread(dial_cluster, identity, cluster.name)
        try:
            connection = await _connect(cluster.name, 22, OpenWay(dialled, judge), options, refused)
        except BaseException:
            dialled.socket.close()
            raise
    else:
        host, port = parse_address(cluster.proxy)
        try:
            connection = await _connect(host, port, _ToProxy(judge), options, refused)
        except OSError as error:
            raise cannot_reach(f"the proxy of {cluster.name} at {cluster.proxy}", error) from None
    async with _closing(connection, f"the proxy of {cluster.name}"):
        yield connection


async def _connect(
    host: str, port: int, way: object, options: dict[str, Any], refused: _Refused
) -> asyncssh.SSHClientConnection:
    """OSError when there is no way there at all."""
    import asyncssh

    try:
        return await asyncssh.connect(host, port, tunnel=way, login_timeout=LOGIN_TIMEOUT, **options)
    except asyncssh.ChannelOpenError as error:
        # The proxy's own words: offline since when, denied by which role.
        raise AccessDenied(printable(error.reason, 500) or f"{host} cannot be reached") from None
    except asyncssh.Error as error:
        raise refused[0] if refused else as_ours(error, host) from None


@asynccontextmanager
async def _closing(connection: asyncssh.SSHClientConnection, name: str) -> AsyncIterator[None]:
    import asyncssh

    try:
        yield
    except (asyncssh.Error, ConnectionError) as error:
        raise as_ours(error, name) from None
    finally:
        connection.close()
        await connection.wait_closed()
