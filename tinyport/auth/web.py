"""HTTP around the API: one way in for every request, and one way out for every error.

A route says who may call it (``callers``), with which rule (``rule``, for users), and how large a request may be. A
request that matches no route, or whose caller is not among its callers, is refused: absent means no.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from tinyport.auth.callers import ANYONE, LOCAL, USER, Caller, identify, refuse_locked_caller
from tinyport.auth.fields import Fields, parse_object
from tinyport.auth.refusals import error_object, login_required, status_of
from tinyport.auth.service import Service
from tinyport.core.errors import AccessDenied, PeerError, TinyportError

SMALL = 64 * 1024
ORDINARY = 1024 * 1024
# Presence of thousands of nodes with their labels, from a proxy that has proven itself.
LARGE = 16 * 1024 * 1024
BODY_SECONDS = 20.0
# One line of a never-ending answer to a reader that has stopped reading.
WRITE_SECONDS = 30.0
#: how often a never-ending answer says that it is alive, and checks that its reader is still welcome
KEEPALIVE = 10.0


@dataclass(frozen=True)
class Call:
    """One request, as a handler sees it. ``source``: the peer's address, empty on the unix socket."""

    service: Service
    caller: Caller
    source: str
    fields: Fields
    request: web.Request
    #: of a route that takes bytes
    data: bytes = b""

    def path(self, name: str) -> str:
        """A variable part of the path."""
        return self.request.match_info[name]

    def query(self, name: str, limit: int = 256) -> str | None:
        value = self.request.query.get(name)
        if value is not None and len(value) > limit:
            raise PeerError(f"{name}: at most {limit} characters")
        return value or None

    def query_number(self, name: str, low: float, high: float) -> float | None:
        text = self.query(name, 32)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise PeerError(f"{name}: a number from {low:g} to {high:g} is needed")
        return value


Answer = Mapping[str, object] | web.StreamResponse
Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True)
class Route:
    """One line of the route table.

    ``rule`` is (resource, verbs): users need one of the verbs; the handler may ask for more. None with USER among the
    callers means that the handler decides what this user may see. ``when_locked``: a locked node may still call it.
    ``takes_bytes``: its body is no JSON object, but bytes that the handler reads.
    """

    method: str
    path: str
    handler: Handler
    callers: frozenset[str]
    rule: tuple[str, tuple[str, ...]] | None = None
    limit: int = ORDINARY
    when_locked: bool = False
    takes_bytes: bool = False


SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
#: told of each request's connection, so that those that say nothing can be closed
Heard = Callable[[object], None]
HEARD: web.AppKey[list[Heard]] = web.AppKey("heard", list)
#: number of an open connection's socket → where it comes from, when a proxy has introduced it
SOURCES: web.AppKey[dict[int, str]] = web.AppKey("sources", dict)


def make_app(service: Service, routes: tuple[Route, ...]) -> web.Application:
    """The aiohttp application for both listeners."""
    app = web.Application(middlewares=[_errors], client_max_size=LARGE)
    app[SERVICE] = service
    app[HEARD] = []
    app[SOURCES] = {}
    for route in routes:
        app.router.add_route(route.method, route.path, _adapter(route))
    return app


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    service = request.app[SERVICE]
    for heard in request.app[HEARD]:
        heard(request.protocol)
    answer = await _answered(service, request, handler)
    resource = request.match_info.route.resource
    # By the route table's path, not by what was asked for: strangers must not make figures.
    route = "none" if resource is None else resource.canonical
    service.counts.answered(request.method if resource is not None else "none", route, answer.status)
    return answer


async def _answered(
    service: Service, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except TinyportError as error:
        if status_of(error) >= 500:
            service.log.error("request failed", path=request.path, error=error)
        else:
            service.log.debug("request refused", path=request.path, code=error.code, error=error)
        return _refusal(error)
    except web.HTTPException as error:
        return _http_refusal(error)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception as error:
        # The peer gets a number that finds the line in our log, and nothing of what went wrong inside.
        number = secrets.token_hex(4)
        where = _innermost(error)
        service.log.error("a bug", id=number, path=request.path, error=f"{type(error).__name__}: {error}", where=where)
        return _refusal(
            TinyportError(
                "something went wrong inside the auth server",
                hint=f"its log says what, beside id={number}",
                code="internal",
            )
        )


def _innermost(error: BaseException) -> str:
    frames = []
    at = error.__traceback__
    while at is not None:
        frames.append(f"{at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}")
        at = at.tb_next
    return " > ".join(frames[-4:])


def _refusal(error: TinyportError) -> web.Response:
    status = status_of(error)
    headers = {}
    if status == 429 and "retry_after" in error.extra:
        headers["Retry-After"] = str(error.extra["retry_after"])
    return json_answer(error_object(error), status, headers)


def _http_refusal(error: web.HTTPException) -> web.Response:
    codes = {404: "not_found", 405: "no_method", 413: "too_large"}
    code = codes.get(error.status, "bad_request")
    message = "there is no such route" if error.status == 404 else error.reason.lower()
    return json_answer({"error": {"code": code, "message": message}}, error.status, {})


def json_answer(body: Mapping[str, object], status: int, headers: Mapping[str, str]) -> web.Response:
    """A JSON answer that nothing on the way keeps."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return web.Response(
        text=text, status=status, content_type="application/json", headers={"Cache-Control": "no-store", **headers}
    )


def _adapter(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(request: web.Request) -> web.StreamResponse:
        service = request.app[SERVICE]
        caller = await authorize(service, route, request)
        data = await _read_body(request, route.limit) if request.method in ("POST", "PUT", "PATCH") else b""
        body = parse_object(data) if data and not route.takes_bytes else {}
        answer = await route.handler(Call(service, caller, caller.source, Fields(body), request, data))
        return answer if isinstance(answer, web.StreamResponse) else json_answer(answer, 200, {})

    return serve


async def authorize(service: Service, route: Route, request: web.Request) -> Caller:
    """Who calls, when they may; AccessDenied when they may not. Nothing of the request's body was read yet."""
    source, local = _connection(request)
    if ANYONE in route.callers:
        return Caller(ANYONE, source=source)
    if local:
        caller = Caller(LOCAL, name=LOCAL)
    else:
        certificate = _client_certificate(request)
        if certificate is None:
            raise login_required("this needs a certificate of the cluster")
        caller = await identify(service, certificate, source)
    if caller.kind not in route.callers:
        raise AccessDenied(
            f"this is not for a {caller.kind}" if caller.kind != LOCAL else "this is not for the unix socket",
            detail=f"{caller.actor} called {route.method} {route.path}",
        )
    if not route.when_locked:
        refuse_locked_caller(service, caller)
    if caller.kind == USER and route.rule is not None:
        resource, verbs = route.rule
        if not any(caller.may(resource, verb) for verb in verbs):
            caller.require(resource, verbs[0])
    return caller


def _connection(request: web.Request) -> tuple[str, bool]:
    """(source address, whether it is the unix socket). The listener lets only us and root on the unix socket."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the peer has left")
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family == socket.AF_UNIX:
        return "", True
    introduced = None if connection is None else request.app[SOURCES].get(connection.fileno())
    if introduced is not None:
        return introduced, False
    peer = transport.get_extra_info("peername")
    return (str(peer[0]) if isinstance(peer, tuple) else ""), False


def _client_certificate(request: web.Request) -> bytes | None:
    transport = request.transport
    tls = None if transport is None else transport.get_extra_info("ssl_object")
    if not isinstance(tls, (ssl.SSLObject, ssl.SSLSocket)):
        return None
    return tls.getpeercert(binary_form=True)


async def _read_body(request: web.Request, limit: int) -> bytes:
    too_large = PeerError(f"the request is larger than {limit} bytes", code="too_large")
    if request.content_length is not None and request.content_length > limit:
        raise too_large
    data = bytearray()
    try:
        async with _deadline(BODY_SECONDS):
            async for piece in request.content.iter_any():
                data += piece
                if len(data) > limit:
                    raise too_large
    except asyncio.TimeoutError:
        raise PeerError(f"the request did not come within {BODY_SECONDS:g} s", code="too_slow") from None
    return bytes(data)


class _deadline:
    """``asyncio.timeout`` for Python 3.10."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._over = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end)

    def _end(self) -> None:
        self._over = True
        self._task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._timer.cancel()
        if self._over and kind is asyncio.CancelledError:
            uncancel = getattr(self._task, "uncancel", None)
            if uncancel is not None:
                uncancel()
            raise asyncio.TimeoutError


class Lines:
    """A never-ending answer: JSON, one value a line."""

    def __init__(
        self, call: Call, route_rule: tuple[str, str] | None, content_type: str = "application/x-ndjson"
    ) -> None:
        self._call = call
        self._rule = route_rule
        self.response = web.StreamResponse(headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    async def begin(self) -> None:
        await self.response.prepare(self._call.request)

    async def send(self, *messages: Mapping[str, object]) -> None:
        """Write lines. asyncio.TimeoutError or ConnectionError when the reader does not read."""
        text = "".join(json.dumps(item, separators=(",", ":"), ensure_ascii=False) + "\n" for item in messages)
        await self.write(text)

    async def write(self, text: str) -> None:
        """Write lines that are JSON already."""
        await asyncio.wait_for(self.response.write(text.encode()), WRITE_SECONDS)

    async def keepalive(self) -> None:
        """Say that we live, and check that the reader is still who it was. AccessDenied when it is not any more."""
        await self.send({"keepalive": int(self._call.service.now())})
        await self.check()

    async def check(self) -> None:
        """AccessDenied when the reader is not welcome any more."""
        if self._call.caller.kind == LOCAL:
            return
        certificate = _client_certificate(self._call.request)
        if certificate is None:
            raise ConnectionResetError("the peer has left")
        caller = await identify(self._call.service, certificate, self._call.source)
        refuse_locked_caller(self._call.service, caller)
        if self._rule is not None and caller.kind == USER:
            caller.require(*self._rule)


async def stream(lines: Lines, work: Callable[[Lines], Awaitable[None]]) -> web.StreamResponse:
    """Run ``work`` until the reader leaves, is not welcome any more, or auth stops. The answer has begun, so an error
    can only end it."""
    await lines.begin()
    try:
        await work(lines)
    except (asyncio.TimeoutError, ConnectionError, AccessDenied):
        return lines.response
    return lines.response
