"""``/web/``: what the page asks (docs/web.md). Everything that changes something shows the session's CSRF token and
comes from this very page; everything else is refused before it is looked at."""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable, Mapping

from aiohttp import web

from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.host.logging_line import Log
from tinyport.proxy.json_words import read_object, text_of
from tinyport.proxy.ssh_client import Person
from tinyport.proxy.ssh_elsewhere import Elsewhere
from tinyport.proxy.web_limits import Tries
from tinyport.proxy.web_sessions import Ask, WebSession, WebSessions
from tinyport.proxy.web_streams import pass_stream
from tinyport.proxy.web_terminal import Terminals

# The prefix has the browser refuse it unless it is Secure, of this host alone, and for every path
# (draft-ietf-httpbis-rfc6265bis, section 4.1.3.2).
COOKIE = "__Host-tinyport"
CSRF = "Tinyport-Csrf"
MAX_NAME, MAX_PASSWORD, MAX_INVITATION = 64, 4096, 300

#: what is passed on to auth in the user's name; auth decides whether they may
_PASSED: tuple[tuple[str, str], ...] = (
    (
        "GET",
        r"status|nodes|clusters|users|tokens|locks|sessions|audit|mfa|web/sessions|recordings"
        r"|resources/(role|node|user|cluster_config)",
    ),
    ("PATCH|DELETE", r"nodes/[^/]+|users/[^/]+"),
    ("POST", r"nodes/[^/]+/(accept|reject|split)"),
    ("POST", r"users|tokens|locks|users/[^/]+/(reset|unlock)|explain|mfa|mfa/[^/]+/(confirm|remove)"),
    ("DELETE", r"tokens/[^/]+|locks/[^/]+|sessions/[^/]+|recordings/[^/]+|web/sessions/[^/]+|resources/role/[^/]+"),
    ("GET|PUT", r"resources/role/[^/]+"),
)
_RULES = tuple((frozenset(methods.split("|")), re.compile(paths)) for methods, paths in _PASSED)
#: answers that are long, or never end: they are passed on as they come
_STREAMED = re.compile(r"recordings/[0-9a-f]{4,64}")
# Decoded once already: a per cent sign would be decoded again on the way, into a dot or a slash.
_SEGMENTS = re.compile(r"[A-Za-z0-9._~@:+=-]+(/[A-Za-z0-9._~@:+=-]+)*")

_STATUS = {
    "bad_request": 400,
    "bad_password": 400,
    "bad_code": 400,
    "login_required": 401,
    "bad_credentials": 401,
    "bad_token": 401,
    "otp_required": 401,
    "factor_missing": 401,
    "expired": 401,
    "not_found": 404,
    "too_large": 413,
    "slow_down": 429,
}


def refusal(error: TinyportError) -> web.Response:
    """The error object of docs/protocol/api.md. What is ``detail`` stays here."""
    body = {**error.extra, "code": error.code, "message": error.message}
    if error.hint:
        body["hint"] = error.hint
    status = _STATUS.get(error.code)
    if status is None:
        status = 503 if isinstance(error, Unavailable) else 400 if isinstance(error, PeerError) else 403
    return web.json_response({"error": body}, status=status)


class People:
    """The routes of people with a browser."""

    def __init__(
        self, sessions: WebSessions, terminals: Terminals, elsewhere: Elsewhere, ask: Ask, host: str, log: Log
    ) -> None:
        self.sessions = sessions
        self._terminals = terminals
        self._elsewhere = elsewhere
        self._ask = ask
        self._host = host
        self._log = log
        self._tries = Tries()
        self._may_stay: Callable[[web.Request], None] = lambda request: None
        self._peer: Callable[[web.Request], tuple[str, int]]

    def add_routes(
        self,
        router: web.UrlDispatcher,
        may_stay: Callable[[web.Request], None],
        peer: Callable[[web.Request], tuple[str, int]],
    ) -> None:
        """``may_stay``: told of a request whose connection may last; ``peer``: where its browser is."""
        self._may_stay = may_stay
        self._peer = peer
        router.add_post("/web/api/invitation", self._invitation)
        router.add_post("/web/api/signup", self._signup)
        router.add_post("/web/api/login", self._login)
        router.add_post("/web/api/logout", self._logout)
        router.add_post("/web/api/renew", self._renew)
        router.add_get("/web/api/whoami", self._whoami)
        router.add_get("/web/api/terminals", self._list)
        router.add_get("/web/ws/terminal", self._terminal)
        router.add_route("*", "/web/api/v1/{path:.+}", self._pass)

    # ------------------------------------------------------------------ before there is a session

    async def _invitation(self, request: web.Request) -> web.Response:
        body = await self._stranger(request)
        answer = await self._ask(
            "/v1/web/invitation",
            {"invitation": text_of(body, "invitation", MAX_INVITATION), "source": self._peer(request)[0]},
        )
        return _answer(answer)

    async def _signup(self, request: web.Request) -> web.Response:
        body = await self._stranger(request)
        question: dict[str, object] = {
            "invitation": text_of(body, "invitation", MAX_INVITATION),
            "password": text_of(body, "password", MAX_PASSWORD),
            "source": self._peer(request)[0],
        }
        if body.get("otp"):
            question["otp"] = text_of(body, "otp", 16)
        return _answer(await self._ask("/v1/web/signup", question))

    async def _login(self, request: web.Request) -> web.Response:
        body = await self._stranger(request)
        user, password = text_of(body, "user", MAX_NAME), text_of(body, "password", MAX_PASSWORD)
        otp = text_of(body, "otp", 16) if body.get("otp") else None
        agent = request.headers.get("User-Agent", "")[:200]
        before = self._held(request)
        session, cookie = await self.sessions.log_in(user, password, otp, self._peer(request)[0], agent)
        if before is not None:
            # One browser, one session: whoever logs in as somebody else is not both.
            await self.sessions.log_out(before)
        response = _answer(self._about(session))
        response.set_cookie(COOKIE, cookie, path="/", secure=True, httponly=True, samesite="Strict")
        return response

    async def _stranger(self, request: web.Request) -> dict[str, object]:
        """The body of a request that needs no session: from our page, and not too often."""
        _from_our_page(request)
        self._tries.take(self._peer(request)[0], time.monotonic())
        return await _body(request)

    # ------------------------------------------------------------------ with a session

    def _held(self, request: web.Request) -> WebSession | None:
        id, secret = _cookie(request)
        return self.sessions.get(id, secret) if id else None

    async def _session(self, request: web.Request) -> WebSession:
        """Whose request it is. AccessDenied ``login_required`` when it is nobody's."""
        id, secret = _cookie(request)
        session = self.sessions.get(id, secret) if id else None
        if session is None and id:
            self._tries.take(self._peer(request)[0], time.monotonic())
            session = await self.sessions.revive(id, secret, self._peer(request)[0])
        if session is None:
            raise AccessDenied("you are not logged in", hint="log in", code="login_required")
        if request.method not in ("GET", "HEAD"):
            _from_our_page(request)
            if not hmac.compare_digest(request.headers.get(CSRF, "").encode("utf-8", "replace"), session.csrf.encode()):
                raise AccessDenied("this did not come from the page", hint="load the page again", code="csrf")
        return session

    async def _whoami(self, request: web.Request) -> web.Response:
        return _answer(self._about(await self._session(request)))

    async def _renew(self, request: web.Request) -> web.Response:
        """The page lives. ``active``: so does somebody before it."""
        session = await self._session(request)
        body = await _body(request)
        if body.get("active") is True:
            session.touched = time.monotonic()
        await self.sessions.renew(session, _cookie(request)[1], self._peer(request)[0])
        return _answer(self._about(session))

    async def _logout(self, request: web.Request) -> web.Response:
        session = await self._session(request)
        await self.sessions.log_out(session)
        response = _answer({})
        response.del_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Strict")
        return response

    async def _list(self, request: web.Request) -> web.Response:
        session = await self._session(request)
        return _answer({"terminals": [terminal.about() for terminal in session.terminals.values()]})

    async def _terminal(self, request: web.Request) -> web.StreamResponse:
        _from_our_page(request)
        session = await self._session(request)
        self._may_stay(request)
        return await self._terminals.serve(request, session, self._peer(request))

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        """One of auth's routes, asked in the user's name."""
        path = request.match_info["path"]
        streamed = request.method == "GET" and _STREAMED.fullmatch(path) is not None
        if not streamed and not _passed(request.method, path):
            raise web.HTTPNotFound
        session = await self._session(request)
        if request.headers.get("Tinyport-Background") is None:
            session.touched = time.monotonic()
        if streamed:
            self._may_stay(request)
            return await pass_stream(request, session, "/v1/" + path)
        cluster = request.query.get("cluster")
        if path == "nodes" and cluster is not None and self._elsewhere.is_other(cluster):
            return await self._nodes_elsewhere(request, session, cluster)
        body = await _body(request) if request.method in ("POST", "PUT", "PATCH") else None
        # A selector may stand there more than once.
        query = [(key, value[:500]) for key, value in request.query.items() if key != "follow"]
        status, data = await session.api.ask(request.method, "/v1/" + path, query, body)
        return web.Response(status=status, body=data, content_type="application/json")

    async def _nodes_elsewhere(self, request: web.Request, session: WebSession, cluster: str) -> web.Response:
        person = Person(session.user, session.ssh_key, session.ssh_certificate)
        selectors = [text[:500] for text in request.query.getall("selector", [])]
        search = request.query.get("search", "")[:500]
        nodes = await self._elsewhere.nodes(cluster[:100], person, self._peer(request), selectors, search)
        return _answer({"nodes": nodes})

    def _about(self, session: WebSession) -> dict[str, object]:
        return {**session.about, "session": session.id, "csrf": session.csrf, "proxy": self._host}


def _passed(method: str, path: str) -> bool:
    if _SEGMENTS.fullmatch(path) is None or any(part in (".", "..") for part in path.split("/")):
        return False
    return any(method in methods and paths.fullmatch(path) for methods, paths in _RULES)


def _from_our_page(request: web.Request) -> None:
    """AccessDenied when another site's page has sent this. Browsers always say whose page it is."""
    origin = request.headers.get("Origin")
    if origin is None or origin.lower() != f"https://{request.host.lower()}":
        raise AccessDenied("this did not come from the page", hint="load the page again", code="origin")


def _cookie(request: web.Request) -> tuple[str, str]:
    id, dot, secret = request.cookies.get(COOKIE, "").partition(".")
    return (id, secret) if dot and len(id) <= 64 and len(secret) <= 128 else ("", "")


async def _body(request: web.Request) -> dict[str, object]:
    if request.content_type != "application/json":
        raise PeerError("JSON is needed")
    return read_object(await request.read())


def _answer(body: Mapping[str, object]) -> web.Response:
    return web.json_response(dict(body))
