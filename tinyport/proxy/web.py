"""HTTPS for browsers and probes, on the same public port: connections, headers, pages without a script.

What people with a browser do is in ``web_api``.
"""

from __future__ import annotations

import asyncio
import html
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from weakref import WeakKeyDictionary

from aiohttp import web

from tinyport.core.errors import PeerError, TinyportError
from tinyport.host.logging_line import Log
from tinyport.link.httphead import MAX_HEAD, Head
from tinyport.link.inside_http import PATH
from tinyport.link.tls_transport import SocketTransport
from tinyport.proxy import front
from tinyport.proxy.balancers import Balancers
from tinyport.proxy.stream import Stream
from tinyport.proxy.web_api import People, refusal
from tinyport.proxy.web_page import PAGE, not_built, read_page

#: connections at once; a flood of browsers must not take what nodes and sessions need
MAX_WEB = 1000
# A page takes milliseconds. Nobody needs a connection for longer than this, but for a terminal.
WEB_LIFE = 120.0
KEEPALIVE = 15.0
HANDSHAKE_LIMIT = 20.0
# Browsers open connections before they know what to ask for.
FIRST_LIMIT = 30.0
MAX_BODY = 64 * 1024

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

# The invitation stands after "#": browsers do not send that part, so neither this server nor its log ever
# sees it. Without a script the page cannot show it either; the address bar does.
INVITE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Invitation to {cluster}</title><link rel="stylesheet" href="/style.css"></head>
<body><main>
<h1>You are invited to {cluster}</h1>
<p>Open a terminal, and give <code>tsh</code> the whole address of this page, in quotes:</p>
<pre>tsh signup "https://{host}/invite#..."</pre>
<p>It asks you for a password. After that, log in and look around:</p>
<pre>tsh login --proxy {host} --user YOUR-NAME
tsh ls</pre>
<p>The part of the address after <code>#</code> is the invitation itself. It is good once; pass it to
nobody.</p> </main></body></html>
"""
STYLE = """body{font:1.1em/1.5 system-ui,sans-serif;margin:0;color:#222;background:#f6f6f3}
main{max-width:42em;margin:10vh auto;padding:0 1.5em}
pre{background:#fff;border:1px solid #ccc;padding:.8em;overflow:auto}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#222;border-color:#444}}
"""

#: what a request for a connection inside begins with
_INSIDE = f"GET {PATH} ".encode()

Address = tuple[str, int]
Inside = Callable[[Stream, Head], Awaitable[None]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Web:
    """The pages.

    ``serve`` takes a socket whose client has sent a ClientHello that is not one of our own protocols'.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        balancers: Balancers,
        log: Log,
        *,
        host: str,
        ping: Callable[[], Mapping[str, object]],
        ready: Callable[[], bool],
        cluster: str,
        people: People,
    ) -> None:
        self._context = context
        self._log = log
        self._ping = ping
        self._ready = ready
        self.people = people
        self._balancers = balancers
        self._lives: WeakKeyDictionary[asyncio.BaseTransport, asyncio.TimerHandle] = WeakKeyDictionary()
        self._peers: WeakKeyDictionary[asyncio.BaseTransport, Address] = WeakKeyDictionary()
        #: connections that have not asked for anything yet
        self._beginning = 0
        self._page = INVITE.format(cluster=html.escape(cluster), host=html.escape(host))
        application = web.Application(client_max_size=MAX_BODY, middlewares=[_strict])
        application.on_response_prepare.append(_with_headers)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/webapi/ping", self._webapi_ping)
        application.router.add_get("/style.css", self._style)
        page = read_page(PAGE)
        if page is None:
            application.router.add_get("/invite", self._invite)
            application.router.add_get("/", not_built)
        else:
            page.add_routes(application.router)
        people.add_routes(application.router, self._may_stay, self.peer)
        self._runner = web.AppRunner(
            application, access_log=None, keepalive_timeout=KEEPALIVE, handle_signals=False, shutdown_timeout=1.0
        )

    async def start(self) -> None:
        await self._runner.setup()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def serve(self, sock: socket.socket, peer: Address, inside: Inside) -> None:
        """Hand one connection of ``peer`` to aiohttp, or to ``inside`` when it is asked to carry another one.

        A balancer that ends TLS and makes its own to us brings those here, so TLS is spoken outside asyncio's
        transports: a node's tunnel is one of a fleet's.
        """
        server = self._runner.server
        if server is None or len(server.connections) + self._beginning >= MAX_WEB:
            return
        loop = asyncio.get_running_loop()
        stream = Stream(loop, sock, peer)
        self._beginning += 1
        try:
            await asyncio.wait_for(stream.secure(self._context), HANDSHAKE_LIMIT)
            early = await asyncio.wait_for(_first_bytes(stream), FIRST_LIMIT)
        except asyncio.TimeoutError:
            stream.abort()
            return
        except BaseException:
            stream.abort()
            raise
        finally:
            self._beginning -= 1
        head = _wanted(early)
        if head is not None:
            stream.unread(head.rest)
            try:
                await inside(stream, head)
            finally:
                stream.abort()
            return
        tls = stream.release()
        assert isinstance(tls, ssl.SSLSocket)
        protocol = server()
        try:
            transport = SocketTransport(loop, tls, protocol, early)
        except OSError:
            tls.close()
            raise
        self._peers[transport] = peer
        self._lives[transport] = loop.call_later(WEB_LIFE, transport.close)
        transport.start()

    def peer(self, request: web.Request) -> Address:
        """Where a browser is: at the other end, or where a balancer of ours says."""
        peer = None if request.transport is None else self._peers.get(request.transport)
        if peer is None:
            raise ConnectionResetError("the browser has left")

        def field(name: str) -> str | None:
            return ",".join(request.headers.getall(name, ())) or None

        return self._balancers.forwarded(peer, field)

    def _may_stay(self, request: web.Request) -> None:
        """This connection is a terminal's: it lasts as long as that does."""
        timer = None if request.transport is None else self._lives.pop(request.transport, None)
        if timer is not None:
            timer.cancel()

    # ------------------------------------------------------------------ pages

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        ready = self._ready()
        return web.json_response({"status": "ok" if ready else "no policy yet"}, status=200 if ready else 503)

    async def _webapi_ping(self, request: web.Request) -> web.Response:
        return web.json_response(dict(self._ping()))

    async def _invite(self, request: web.Request) -> web.Response:
        return web.Response(text=self._page, content_type="text/html")

    async def _style(self, request: web.Request) -> web.Response:
        return web.Response(text=STYLE, content_type="text/css")


async def _first_bytes(stream: Stream) -> bytes:
    """What a client says first: enough to tell what it is for, and its whole head if that is a connection inside."""
    data = b""
    while True:
        piece = await stream.receive()
        data += piece
        if not piece or not data.startswith(_INSIDE[: len(data)]):
            return data
        if len(data) >= len(_INSIDE) and (len(data) >= MAX_HEAD or b"\r\n\r\n" in data):
            return data


def _wanted(data: bytes) -> Head | None:
    """The head that asks for a connection inside; None for anything else, which aiohttp answers."""
    try:
        return front.wanted(data) if data.startswith(_INSIDE) else None
    except PeerError:
        return None


@web.middleware
async def _strict(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except TinyportError as error:
        response = refusal(error)
    except web.HTTPException as error:
        response = web.json_response({"error": {"code": "not_found", "message": error.reason}}, status=error.status)
    return response


async def _with_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    # aiohttp has put its own and its Python's version there.
    response.headers["Server"] = "tinyport"
