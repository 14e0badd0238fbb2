"""The auth server: opens the store, serves the API, keeps house, stops cleanly."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable

from aiohttp import web

from tinyport.auth.api_proxy import expire_presence, flush_last_seen, forget_online
from tinyport.auth.api_web import SILENCE
from tinyport.auth.audit_retention import prune_audit
from tinyport.auth.audit_sinks import feed_all
from tinyport.auth.authority import NODE_LIFE
from tinyport.auth.figures import figures
from tinyport.auth.joining import LATE_ANSWER
from tinyport.auth.listener import Listener, bind_tcp, bind_unix
from tinyport.auth.live_sessions import sweep
from tinyport.auth.recording_care import adopt_strays, look_after_recordings
from tinyport.auth.retention import follow_clock
from tinyport.auth.rotating import advance
from tinyport.auth.routes import ROUTES
from tinyport.auth.service import Service, open_service
from tinyport.auth.settings import AuthAddresses, AuthSettings
from tinyport.auth.traffic import load_traffic, save_traffic
from tinyport.auth.web import HEARD, SOURCES, make_app
from tinyport.core.errors import ConfigError, TinyportError
from tinyport.core.names import format_address
from tinyport.host.logging_line import Log
from tinyport.host.tls import server_context
from tinyport.link.diagnostics import Diagnostics

ALPN = ("tinyport-auth", "http/1.1")
#: leases are looked at so often; they last 30 s
_TICK = 1.0
_FLUSH_EVERY = 60.0
_CLEAN_EVERY = 3600.0
_SWEEP_EVERY = 15.0
# asyncio's keep-alive of aiohttp; a proxy's questions come more often, its pool drops what is older.
_KEEPALIVE = 75.0
_STOP_SECONDS = 2.0
# How long the rest of a refused request is read, so that the refusal is not lost in a reset.
_LINGER_SECONDS = 0.5
_KEEP_CERTIFICATES = 30 * 86400
_KEEP_BATCHES = 90 * 86400


class _Leaf:
    """Auth's own TLS context: a fresh leaf at start, another at two thirds of its life."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.renew()

    def renew(self) -> None:
        certificate, key = self._service.authority.server_leaf()
        self._made = self._service.now()
        self._ring = self._service.authority.ring
        self._context = server_context(
            self._service.authority.tls_cas, alpn=ALPN, cert_pem=certificate, key_pem=key, client="optional"
        )

    def context(self) -> ssl.SSLContext:
        now = self._service.now()
        # A clock that jumped back makes the leaf one from the future. Another ring: a rotation went on.
        fresh = self._made - 60 <= now < self._made + NODE_LIFE * 2 / 3
        if not fresh or self._ring is not self._service.authority.ring:
            self.renew()
        return self._context


async def serve(settings: AuthSettings, *, ready: Callable[[AuthAddresses], None], stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set. ``ready`` is called when both listeners accept.

    OperatorError or ConfigError when it cannot start: configuration, store, port.
    """
    settings.check()
    listening = bind_tcp(*settings.listen)
    try:
        service = await open_service(settings)
    except BaseException:
        listening.close()
        raise
    try:
        await serve_service(service, listening, ready, stop)
    finally:
        listening.close()
        await service.close()
        service.log.info("stopped")


async def serve_service(
    service: Service, listening: socket.socket, ready: Callable[[AuthAddresses], None], stop: asyncio.Event
) -> None:
    """Serve an open service on a listening socket until ``stop`` is set; both stay the caller's to close."""
    settings = service.settings
    path = settings.data_dir / "auth" / "api.sock"
    await forget_online(service)
    await load_traffic(service)
    leaf = _Leaf(service)
    app = make_app(service, ROUTES)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_silent(),
        keepalive_timeout=_KEEPALIVE,
        lingering_time=_LINGER_SECONDS,
        auto_decompress=False,
        shutdown_timeout=_STOP_SECONDS,
    )
    await runner.setup()
    server = runner.server
    assert server is not None
    listener = Listener(server, settings.max_connections, app[SOURCES], service.introduced, service.log)
    app[HEARD].append(listener.heard)
    service.cut = listener.cut
    unix = bind_unix(path)
    diagnostics = None
    if settings.diagnostics is not None:
        diagnostics = Diagnostics("auth", settings.diagnostics, lambda: figures(service), lambda: None)
        await diagnostics.start()
        service.log.info("diagnostics", listen=format_address(*diagnostics.address))
    housekeeping = asyncio.ensure_future(_housekeeping(service))
    sinks = asyncio.ensure_future(feed_all(service))
    try:
        listener.listen_unix(unix)
        listener.listen_tls(listening, leaf.context)
        host, port = listening.getsockname()[:2]
        service.log.info(
            "serving", cluster=service.cluster, listen=format_address(host, port), ca_pin=service.authority.ca_pins[0]
        )
        ready(AuthAddresses((host, port), path, service.authority.ca_pins))
        stopping = asyncio.ensure_future(stop.wait())
        # These never end by themselves: if one does, its error is ours.
        await asyncio.wait({stopping, housekeeping, sinks}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for work in (housekeeping, sinks):
            if work.done():
                work.result()
    finally:
        service.end_streams()
        if diagnostics is not None:
            await diagnostics.stop()
        await listener.close()
        unix.close()
        path.unlink(missing_ok=True)
        housekeeping.cancel()
        sinks.cancel()
        await asyncio.gather(housekeeping, sinks, return_exceptions=True)
        await runner.cleanup()
        try:
            await save_traffic(service)
        except TinyportError as error:
            # The proxies say it again, unless they are started anew, too.
            service.log.error("traffic of the last hour could not be written", error=error)


def _silent() -> logging.Logger:
    """aiohttp logs what strangers send it; we say what is worth saying ourselves."""
    logger = logging.getLogger("tinyport.auth.http")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


async def _housekeeping(service: Service) -> None:
    clock = service.settings.monotonic
    flushed = cleaned = swept = clock()
    try:
        await adopt_strays(service)
    except TinyportError as error:
        service.log.error("recordings could not be looked through", error=error)
    while True:
        await asyncio.sleep(_TICK)
        try:
            await expire_presence(service)
            await advance(service)
            await service.audit.keep_signed(service.store)
            if clock() - swept >= _SWEEP_EVERY:
                swept = clock()
                await sweep(service)
                await look_after_recordings(service)
            if clock() - flushed >= _FLUSH_EVERY:
                flushed = clock()
                await flush_last_seen(service)
            if clock() - cleaned >= _CLEAN_EVERY:
                cleaned = clock()
                await clean(service)
                await follow_clock(service)
                await prune_audit(service)
                await save_traffic(service)
        except TinyportError as error:
            # A full disk is no reason to stop judging.
            service.log.error("housekeeping failed", error=error)


async def clean(service: Service) -> None:
    """Drop rows that nobody can ask for any more. Offline nodes are not among them."""
    now = service.now()
    async with service.store.write() as tables:
        await tables.users.delete_invitations_expired_before(now)
        await tables.web.delete_ended(now, now - SILENCE)
        await tables.tokens.delete_expired_before(now - LATE_ANSWER)
        await tables.copies.delete_settled_before(now - LATE_ANSWER)
        await tables.audit.delete_batches_before(now - _KEEP_BATCHES)
        await tables.cluster.delete_certificates_ended_before(now - _KEEP_CERTIFICATES)
        if await tables.cluster.delete_locks_expired_before(now):
            await service.issuer.refresh(tables)


async def _until_signalled(settings: AuthSettings, ready: Callable[[AuthAddresses], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, ready=ready, stop=stop)


def _ignore(_: AuthAddresses) -> None:
    return None


def run(settings: AuthSettings, ready: Callable[[AuthAddresses], None] = _ignore) -> int:
    """A whole process: serves until SIGTERM or SIGINT. The exit status: 0 stopped, 1 could not start or broke."""
    os.umask(0o077)
    log = Log("auth", settings.log_level, settings.log_format)
    try:
        asyncio.run(_until_signalled(settings, ready))
    except ConfigError as error:
        for problem in error.problems:
            log.error(problem)
        return 1
    except TinyportError as error:
        log.error(error.message, detail=error.detail, hint=error.hint)
        return 1
    return 0
