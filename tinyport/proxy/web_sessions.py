"""Who is logged in with a browser, as this proxy knows it: in memory, and no secret of it.

A session is auth's (docs/web.md). Here are its certificates, its keys and its terminals, under the id that stands in
the browser's cookie beside the secret. The secret's digest is kept to know the browser again; renewing takes the secret
itself, and with it the browser.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from tinyport.core.certificate import public_line
from tinyport.core.errors import AccessDenied, TinyportError, Unavailable
from tinyport.host.logging_line import Log
from tinyport.link.login_keys import LoginKeys
from tinyport.proxy.web_auth import UserApi

if TYPE_CHECKING:
    from tinyport.proxy.web_terminal import Terminal

# docs/web.md
#: nothing was typed or clicked for so long
IDLE = 30 * 60.0
#: no page has renewed for so long: it was closed. A little longer than a certificate lives.
SILENCE = 15 * 60.0
LOOK_EVERY = 10.0
MOST_SESSIONS = 2000
MOST_REVIVING = 8

Ask = Callable[[str, Mapping[str, object]], Awaitable[dict[str, object]]]


class WebSession:
    """One browser's. ``terminals``: by their id."""

    def __init__(self, id: str, digest: bytes, user: str, api: UserApi, now: float) -> None:
        self.id = id
        self._digest = digest
        self.user = user
        self.api = api
        self.csrf = secrets.token_urlsafe(24)
        self.touched = now
        self.renewed = now
        self.terminals: dict[str, Terminal] = {}
        #: requests whose answers go on; they end with it
        self.streams: set[asyncio.Task[Any]] = set()
        #: what auth says of the user: roles, logins, may, ends
        self.about: dict[str, object] = {}
        self.ssh_key = ""
        self.ssh_public_key = ""
        self.ssh_certificate = ""
        self.over = False

    def is_of(self, secret: str) -> bool:
        return hmac.compare_digest(self._digest, digest(secret))

    async def take(self, answer: Mapping[str, object], keys: LoginKeys, now: float) -> None:
        """Certificates that auth just issued for ``keys``."""
        self.ssh_key = keys.ssh_key
        self.ssh_public_key = public_line(keys.ssh_public_blob)
        self.ssh_certificate = str(answer["ssh_certificate"])
        self.about = {name: answer.get(name) for name in ("user", "cluster", "roles", "logins", "may", "ends")}
        await self.api.use(str(answer["tls_certificate"]), keys.tls_key)
        self.renewed = now


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


class WebSessions:
    """All of them. ``run`` ends those that are over; ``end`` ends one now."""

    def __init__(self, ask: Ask, new_api: Callable[[], UserApi], log: Log) -> None:
        """``ask``: a question to auth in the proxy's name."""
        self._ask = ask
        self._new_api = new_api
        self._log = log
        self._open: dict[str, WebSession] = {}
        self._reviving = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, id: str, secret: str) -> WebSession | None:
        session = self._open.get(id)
        return session if session is not None and session.is_of(secret) else None

    async def log_in(
        self, user: str, password: str, otp: str | None, source: str, agent: str
    ) -> tuple[WebSession, str]:
        """A new session and the value of its cookie. AccessDenied in auth's words, Unavailable."""
        if len(self._open) >= MOST_SESSIONS:
            raise Unavailable("too many people are logged in here", hint="try again later")
        keys = LoginKeys(user)
        body: dict[str, object] = {"user": user, "password": password, "agent": agent, **_keys(keys), "source": source}
        if otp:
            body["otp"] = otp
        answer = await self._ask("/v1/web/login", body)
        secret = str(answer["secret"])
        session = await self._begin(answer, keys, secret)
        self._log.info("logged in", user=session.user, session=session.id, source=source)
        return session, f"{session.id}.{secret}"

    async def _begin(self, answer: Mapping[str, object], keys: LoginKeys, secret: str) -> WebSession:
        now = time.monotonic()
        session = WebSession(str(answer["session"]), digest(secret), str(answer["user"]), self._new_api(), now)
        await session.take(answer, keys, now)
        self._open[session.id] = session
        return session

    async def renew(self, session: WebSession, secret: str, source: str) -> None:
        """Newer certificates. AccessDenied when auth says that it is over, which it then is here too."""
        keys = LoginKeys(session.user)
        body = {"session": session.id, "secret": secret, "source": source, **_keys(keys)}
        try:
            answer = await self._ask("/v1/web/renew", body)
        except AccessDenied as error:
            self.end(session, error.message)
            raise
        if not session.over:
            await session.take(answer, keys, time.monotonic())

    async def revive(self, id: str, secret: str, source: str) -> WebSession | None:
        """A session that auth knows and this process does not, since it was started later. None when it has ended."""
        if self._reviving >= MOST_REVIVING or len(self._open) >= MOST_SESSIONS or id in self._open:
            return None
        self._reviving += 1
        try:
            keys = LoginKeys("web")
            answer = await self._ask(
                "/v1/web/renew", {"session": id, "secret": secret, "source": source, **_keys(keys)}
            )
            return self._open.get(id) or await self._begin(answer, keys, secret)
        except AccessDenied as error:
            self._log.debug("no such web session", reason=error)
            return None
        finally:
            self._reviving -= 1

    # ------------------------------------------------------------------ the end

    def end(self, session: WebSession, reason: str) -> None:
        """It and its terminals, at once."""
        if self._open.pop(session.id, None) is None:
            return
        session.over = True
        for terminal in list(session.terminals.values()):
            terminal.close(reason)
        for stream in list(session.streams):
            stream.cancel()
        self._start(session.api.close())
        self._log.info("web session ended", user=session.user, session=session.id, reason=reason)

    def ended_elsewhere(self, id: str) -> None:
        """Auth says so: revoked, or logged out."""
        session = self._open.get(id)
        if session is not None:
            self.end(session, "your web session was ended")

    async def log_out(self, session: WebSession, reason: str = "logout") -> None:
        self.end(session, "you logged out" if reason == "logout" else "nothing was typed for half an hour")
        try:
            await self._ask("/v1/web/logout", {"session": session.id, "reason": reason})
        except TinyportError as error:
            # It is over here, nobody has its secret, and auth forgets what is not renewed.
            self._log.warning("auth was not told of a log-out", reason=error)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(_await(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self) -> None:
        """Until cancelled: look after what has ended."""
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY)
                self.look(time.monotonic(), time.time())
        finally:
            for session in list(self._open.values()):
                self.end(session, "the proxy is stopping")
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def look(self, now: float, wall: float) -> None:
        """End what is idle, left or too old. ``now``: monotonic; ``wall``: Unix seconds."""
        for session in list(self._open.values()):
            ends = session.about.get("ends")
            if now - session.touched > IDLE:
                self._start(self.log_out(session, "idle"))
            elif now - session.renewed > SILENCE:
                self.end(session, "the page was closed")
            elif isinstance(ends, (int, float)) and wall >= ends:
                self.end(session, "your log-in has ended")
            else:
                for terminal in list(session.terminals.values()):
                    terminal.look(now)


async def _await(work: Awaitable[None]) -> None:
    await work


def _keys(keys: LoginKeys) -> dict[str, object]:
    return {"ssh_public_key": public_line(keys.ssh_public_blob), "tls_csr": keys.tls_csr}
