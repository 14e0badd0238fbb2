"""The proxy as a whole: what is made of what, what runs while it runs, and how it ends."""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import signal
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from tinyport.core.errors import OperatorError, TinyportError
from tinyport.core.names import format_address, parse_address
from tinyport.core.version import VERSION
from tinyport.host.files import write_private
from tinyport.host.logging_line import Log
from tinyport.link.diagnostics import Diagnostics
from tinyport.proxy.access import Gatekeeper
from tinyport.proxy.authlink import AuthLink
from tinyport.proxy.balancers import Balancers
from tinyport.proxy.cluster_tunnels import ClusterTunnels
from tinyport.proxy.credentials import Credentials, keep_renewed, obtain
from tinyport.proxy.dial import Dials
from tinyport.proxy.figures import figures, missing
from tinyport.proxy.gateway import Gateway
from tinyport.proxy.knowledge import Knowledge
from tinyport.proxy.partners import Partners
from tinyport.proxy.reload import Read, Reload
from tinyport.proxy.settings import ProxySettings
from tinyport.proxy.sockets import listen
from tinyport.proxy.ssh_elsewhere import Elsewhere
from tinyport.proxy.ssh_gateway import SshGateway
from tinyport.proxy.tsh_gateway import TshGateway
from tinyport.proxy.tunnels import Tunnels
from tinyport.proxy.web import Web
from tinyport.proxy.web_api import People
from tinyport.proxy.web_auth import UserApi
from tinyport.proxy.web_certificate import WebCertificate
from tinyport.proxy.web_sessions import WebSessions
from tinyport.proxy.web_terminal import Terminals

# A copy for the day when auth is down; a minute old is good enough, and flash wears.
SAVE_NODES_EVERY = 60.0

Ready = Callable[[tuple[str, int]], None]


class Proxy:
    """One proxy, put together. ``run`` is its life; everything it starts ends with it.

    Order: identity (``obtain``, before), listening sockets, the copy from disk, then the line to auth and the
    gateway at once: people whom the copy lets in need not wait for auth.
    """

    def __init__(self, settings: ProxySettings, credentials: Credentials, web: WebCertificate) -> None:
        self.settings = settings
        self.credentials = credentials

        self._logs: list[Log] = []

        def log(name: str) -> Log:
            self._logs.append(Log(f"proxy.{name}", settings.log_level, settings.log_format))
            return self._logs[-1]

        self._log = log("server")
        public = next(iter(settings.addresses), format_address(*settings.listen))
        self.knowledge = Knowledge(settings.folder, credentials.cluster, credentials.policy_key, log("policy"))
        self.dials = Dials(secrets.token_bytes)
        self.tunnels = Tunnels(self.knowledge, self.dials, credentials.uuid, log("tunnels"), beat=settings.beat)
        self.clusters = ClusterTunnels(
            self.knowledge, self.dials, credentials.uuid, log("clusters"), beat=settings.beat
        )
        self.partners = Partners(
            self.knowledge, credentials, lambda *arrived: self.gateway.adopt(*arrived), log("partners")
        )
        self.authlink = AuthLink(
            settings.auth_address,
            credentials.auth_context,
            self.knowledge,
            self.tunnels.presence,
            self._node_presence,
            credentials.uuid,
            lambda: {"clusters": self.clusters.online(), "partners": self.partners.up},
            self.tunnels.untold,
            settings.addresses,
            log("auth"),
        )
        self.gatekeeper = Gatekeeper(self.knowledge, self.authlink, self.tunnels, log("access"))
        self.ssh = SshGateway(
            self.gatekeeper,
            self.tunnels.dial,
            self.clusters,
            log("ssh"),
            cluster=credentials.cluster,
            host=public,
            ssh_key=credentials.ssh_key,
            ssh_certificate=credentials.ssh_certificate,
        )
        self.tsh = TshGateway(self.gatekeeper, self.tunnels.dial, self.clusters, log("tsh"))
        elsewhere = Elsewhere(self.knowledge, self.gatekeeper, self.clusters)
        self.balancers = Balancers(settings, log("balancers"))
        self.web_certificate = web
        self.web = Web(
            web.context,
            self.balancers,
            log("web"),
            host=public,
            cluster=credentials.cluster,
            ping=self._ping,
            ready=lambda: self.knowledge.has_policy,
            people=People(
                WebSessions(
                    self.authlink.ask, lambda: UserApi(settings.auth_address, credentials.user_context), log("web")
                ),
                Terminals(self.gatekeeper, self.tunnels.dial, self.knowledge, elsewhere, log("web")),
                elsewhere,
                self.authlink.ask,
                public,
                log("web"),
            ),
        )
        self.gateway = Gateway(
            settings,
            self.balancers,
            credentials,
            self.dials,
            log("gateway"),
            introduce=self.authlink.introduce,
            tunnel=self.tunnels.serve,
            cluster=self.clusters.serve,
            tsh=self.tsh.serve,
            ssh=self.ssh.serve,
            web=self.web.serve,
        )
        self._identity_log = log("identity")
        self._policy_came = asyncio.Event()
        self.tunnels.on_change = self.authlink.report
        self.tunnels.complete = lambda: self.authlink.up and self.authlink.synced.is_set()
        self.clusters.on_change = self._cluster_changed
        self.clusters.on_use = self._cluster_used
        self.partners.on_change = self.authlink.report_soon
        self.authlink.on_strange = self.credentials.doubt
        self.authlink.on_web_ended = self.web.people.sessions.ended_elsewhere
        self.knowledge.on_change.append(self._knowledge_changed)

    def _node_presence(self, uuid: str) -> dict[str, object] | None:
        return self.tunnels.presence_of(uuid)

    def _cluster_changed(self, cluster: str, online: bool) -> None:
        self.authlink.post(f"trusted_cluster.{'online' if online else 'offline'}", cluster_name=cluster)
        self.authlink.report_soon()

    def _cluster_used(self, user: str, cluster: str, source: str) -> None:
        self.authlink.post("trusted_cluster.use", user=user, cluster_name=cluster, source=source)

    def _ping(self) -> dict[str, object]:
        return {"cluster": self.credentials.cluster, "version": VERSION, "ca_pins": self.credentials.ca_pins}

    def _knowledge_changed(self, uuid: str | None) -> None:
        if uuid is not None:
            return
        self._policy_came.set()
        policy = self.knowledge.policy
        if self.credentials.trust(policy.tls_cas):
            self.authlink.renew_context()
        self.credentials.renew_early(policy.renew_before, policy.renew_within, time.time())

    def _renewed(self) -> None:
        # What came with it may name CAs that no policy of ours does: then auth cannot reach us with a newer one.
        self.knowledge.load_policy()
        self.ssh.use(self.credentials.ssh_key, self.credentials.ssh_certificate)
        self.authlink.renew_context()

    def reload(self, read: Read) -> Reload:
        """What reads the configuration again when it is asked to."""
        return Reload(self.settings, read, self.balancers, self.web_certificate, self._logs, self._log)

    async def run(self, ready: Ready, stop: asyncio.Event, *beside: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Serve until ``stop`` is set.

        ``ready(address)`` is called once the port is open and a policy is known. ``beside``: what else runs meanwhile.

        OperatorError when the port cannot be had.
        """
        host, port = self.settings.listen
        try:
            listeners = listen(host, port)
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {format_address(host, port)}: {os.strerror(error.errno or 0)}",
                hint="is another proxy running, or does the port need a privilege?",
                detail=str(error),
            ) from None
        address = listeners[0].getsockname()[:2]
        self.knowledge.load()
        await self.web.start()
        diagnostics = None
        if self.settings.diagnostics is not None:
            diagnostics = Diagnostics("proxy", self.settings.diagnostics, lambda: figures(self), lambda: missing(self))
            await diagnostics.start()
            self._log.info("diagnostics", listen=format_address(*diagnostics.address))
        self._log.info("listening", address=format_address(*address), cluster=self.credentials.cluster)
        parts = [
            self._part(self.gateway.run(listeners)),
            self._part(self.authlink.run()),
            self._part(self.partners.run()),
            self._part(self._save_nodes()),
            self._part(self.web.people.sessions.run()),
            self._part(self.web_certificate.run()),
            self._part(keep_renewed(self.credentials, self.settings.identity_path, self._renewed, self._identity_log)),
            *(self._part(work()) for work in beside),
            self._part(self._say_ready(ready, address)),
        ]
        stopping = asyncio.ensure_future(stop.wait())
        try:
            done, _ = await asyncio.wait([stopping, *parts], return_when=asyncio.FIRST_COMPLETED)
            while stopping not in done:
                for part in done:
                    part.result()
                parts = [part for part in parts if part not in done]
                done, _ = await asyncio.wait([stopping, *parts], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._log.info("stopping")
            self.tunnels.close()
            self.clusters.close()
            for part in (stopping, *parts):
                part.cancel()
            await asyncio.gather(stopping, *parts, return_exceptions=True)
            await self.web.stop()
            if diagnostics is not None:
                await diagnostics.stop()
            self._write_nodes()

    @staticmethod
    def _part(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.ensure_future(work)

    async def _say_ready(self, ready: Ready, address: tuple[str, int]) -> None:
        if not self.knowledge.has_policy:
            await self._policy_came.wait()
        ready(address)

    async def _save_nodes(self) -> None:
        while True:
            await asyncio.sleep(SAVE_NODES_EVERY)
            await asyncio.to_thread(self._write_nodes)

    def _write_nodes(self) -> None:
        data = self.knowledge.unsaved_nodes()
        if data is None:
            return
        try:
            write_private(self.knowledge.nodes_file, data)
        except OSError as error:
            self._log.warning("the node documents cannot be kept", reason=error)


async def serve(
    settings: ProxySettings,
    *,
    ready: Ready,
    stop: asyncio.Event,
    read: Read | None = None,
    again: asyncio.Event | None = None,
) -> None:
    """A proxy's whole life: join if need be, serve until ``stop`` is set, and ``read`` the configuration whenever
    ``again`` is. OperatorError when it cannot.
    """
    log = Log("proxy", settings.log_level, settings.log_format)
    for address in settings.public_addr:
        parse_address(address, 443)
    obtaining = asyncio.ensure_future(obtain(settings, log))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([obtaining, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not obtaining.done():
            return
        credentials = obtaining.result()
    finally:
        for task in (obtaining, stopping):
            task.cancel()
        await asyncio.gather(obtaining, stopping, return_exceptions=True)
    proxy = Proxy(settings, credentials, WebCertificate(settings, log))
    beside = [] if read is None or again is None else [partial(proxy.reload(read).run, again)]
    await proxy.run(ready, stop, *beside)


def run(settings: ProxySettings, ready: Ready | None = None, read: Read | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status. ``read`` is for SIGHUP, which ends nothing in any case.

    What keeps it from serving is said on standard error.
    """
    # Each tunnel and each end of a session is a descriptor; the usual soft limit of 1024 is for select().
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def main() -> None:
        stop, again = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, again.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await serve(settings, ready=ready or (lambda address: None), stop=stop, read=read, again=again)

    try:
        asyncio.run(main())
    except TinyportError as error:
        log = Log("proxy", settings.log_level, settings.log_format)
        log.error(error.message, detail=error.detail or "-", hint=error.hint or "-")
        return 1
    return 0
