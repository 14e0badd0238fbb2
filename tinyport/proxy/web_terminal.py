"""Terminals of web sessions: a shell on a node, and the browser that is attached to it, if one is.

``/web/ws/terminal`` (docs/web.md). Binary messages are bytes of the terminal; text messages are JSON. The browser
acknowledges what it has drawn, and the node is made to wait for it: a flood fills neither the page nor us.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from aiohttp import WSMsgType, web

from tinyport.core.access import Subject
from tinyport.core.certificate import Certificate, parse_public_line
from tinyport.core.errors import AccessDenied, PeerError, TinyportError
from tinyport.core.names import check_login
from tinyport.core.session_joining import MODES, join_subsystem
from tinyport.host.logging_line import Log
from tinyport.proxy.access import Gatekeeper
from tinyport.proxy.json_words import number_of, read_object, text_of
from tinyport.proxy.knowledge import Knowledge
from tinyport.proxy.ssh_client import Host, Person, SshLink, connected
from tinyport.proxy.ssh_elsewhere import Elsewhere
from tinyport.proxy.ssh_gateway import Dial
from tinyport.proxy.ssh_terminal import Shell, open_shell
from tinyport.proxy.web_replay import Replay
from tinyport.proxy.web_sessions import WebSession

MOST_TERMINALS = 16
#: a browser that lost its network has so long to come back
DETACHED = 60.0
PIECE = 32 * 1024
#: one message of a browser: what was typed or pasted
MAX_MESSAGE = 64 * 1024
HEARTBEAT = 20.0
MAX_TARGET = 300
MAX_SESSION = 64


@dataclass(frozen=True)
class Joined:
    """Whose session it is that this terminal shows, and as what."""

    session: str
    user: str
    mode: str


class Terminal:
    """One shell, for as long as it lives, and a minute without a browser at most. Owned by its session."""

    def __init__(self, session: WebSession, node: str, login: str, joined: Joined | None = None) -> None:
        self.id = secrets.token_urlsafe(12)
        self.session = session
        self.node = node
        self.login = login
        self.joined = joined
        self.shell: Shell | None = None
        self._replay = Replay()
        self._paused = False
        self._news = asyncio.Event()
        #: how it ended, once it has
        self._over: dict[str, object] | None = None
        self._browser: web.WebSocketResponse | None = None
        self._left_at = time.monotonic()
        #: what cuts it when the policy changes its mind
        self.watched = ExitStack()

    # ------------------------------------------------------------------ from the node

    def output(self, data: bytes) -> None:
        self._replay.add(data)
        self._news.set()
        if self._replay.full and not self._paused and self.shell is not None:
            self._paused = True
            self.shell.pause()

    def ended(self, reason: dict[str, object]) -> None:
        self._over = reason
        self._news.set()
        if self._browser is None:
            self._forget()

    def close(self, reason: str) -> None:
        """Hang up."""
        if self.shell is not None:
            self.shell.close(reason)
        self._forget()

    def look(self, now: float) -> None:
        """Has nobody come back?"""
        if self._browser is None and now - self._left_at > DETACHED:
            self.close("the browser left")

    def _forget(self) -> None:
        self.session.terminals.pop(self.id, None)
        self.watched.close()

    def about(self) -> dict[str, object]:
        """What the page shows of it."""
        about: dict[str, object] = {"id": self.id, "node": self.node, "login": self.login}
        if self.joined is not None:
            about |= {"user": self.joined.user, "mode": self.joined.mode}
        return about

    # ------------------------------------------------------------------ the browser's side

    async def serve(self, browser: web.WebSocketResponse, seen: int) -> None:
        """Be shown in ``browser``, which has drawn ``seen`` bytes already, until either leaves. A browser that comes
        later takes over."""
        before, self._browser = self._browser, browser
        if before is not None:
            await before.close(code=4000, message=b"shown elsewhere")
        place, ends = min(max(seen, self._replay.begins), self._replay.ends), self._replay.ends
        await browser.send_json({"type": "attached", **self.about(), "from": place, "to": ends})
        sender = asyncio.ensure_future(self._send(browser, place))
        try:
            async for message in browser:
                if message.type is WSMsgType.BINARY:
                    self.session.touched = time.monotonic()
                    if self.shell is not None:
                        await self.shell.write(message.data)
                elif message.type is WSMsgType.TEXT and self._told(message.data):
                    await browser.send_json({"type": "pong"})
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            if self._browser is browser:
                self._browser = None
                self._left_at = time.monotonic()
                if self._over is not None:
                    self._forget()

    async def _send(self, browser: web.WebSocketResponse, place: int) -> None:
        try:
            while True:
                self._news.clear()
                while place < self._replay.ends:
                    data = self._replay.since(max(place, self._replay.begins), PIECE)
                    place += len(data)
                    await browser.send_bytes(data)
                if self._over is not None:
                    await browser.send_json({"type": "exit", **self._over})
                    await browser.close()
                    return
                await self._news.wait()
        except (ConnectionError, RuntimeError):
            # It left in the middle; whoever reads from it learns the same.
            return

    def _told(self, text: str) -> bool:
        """A message of the browser; does it want an answer? PeerError when it is none that we know."""
        message = read_object(text)
        kind = message.get("type")
        if kind == "ack":
            self._replay.acknowledge(number_of(message, "bytes", 0, 2**53))
            if self._paused and not self._replay.full and self.shell is not None:
                self._paused = False
                self.shell.resume()
        elif kind == "resize":
            if self.shell is not None:
                self.shell.resize(number_of(message, "cols", 1, 1000), number_of(message, "rows", 1, 1000))
        elif kind == "close":
            self.close("closed")
        elif kind != "ping":
            raise PeerError("unknown message")
        return kind == "ping"


class Terminals:
    """Opens them and hands browsers over to them."""

    def __init__(
        self, gatekeeper: Gatekeeper, dial: Dial, knowledge: Knowledge, elsewhere: Elsewhere, log: Log
    ) -> None:
        self._gatekeeper = gatekeeper
        self._dial = dial
        self._knowledge = knowledge
        self._elsewhere = elsewhere
        self._log = log

    async def serve(self, request: web.Request, session: WebSession, peer: tuple[str, int]) -> web.WebSocketResponse:
        """One WebSocket, from its upgrade to its end. The caller checked session and origin."""
        browser = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=MAX_MESSAGE, compress=False)
        await browser.prepare(request)
        try:
            first = await asyncio.wait_for(browser.receive_str(), HEARTBEAT)
            wish = read_object(first)
            if wish.get("type") == "resume":
                terminal = session.terminals.get(str(wish.get("id")))
                if terminal is None:
                    raise AccessDenied("this terminal has ended", hint="open a new one", code="not_found")
                await terminal.serve(browser, number_of(wish, "seen", 0, 2**53))
            else:
                await self._open(browser, session, wish, peer)
        except TinyportError as error:
            self._log.debug("terminal refused", user=session.user, reason=error)
            await _refuse(browser, error)
        except (TypeError, ValueError, ConnectionError, asyncio.TimeoutError) as error:
            self._log.debug("terminal broke", user=session.user, reason=error)
            await _refuse(browser, PeerError("that was not understood"))
        return browser

    async def _open(
        self, browser: web.WebSocketResponse, session: WebSession, wish: Mapping[str, object], peer: tuple[str, int]
    ) -> None:
        joined = None
        if wish.get("type") == "join":
            target, login, joined = await _joined(session, wish)
        else:
            target, login = text_of(wish, "node", MAX_TARGET), check_login(wish.get("login"))
        size = (number_of(wish, "cols", 1, 1000), number_of(wish, "rows", 1, 1000))
        if len(session.terminals) >= MOST_TERMINALS:
            raise AccessDenied(f"at most {MOST_TERMINALS} terminals at once", hint="close one", code="in_use")
        session.touched = time.monotonic()
        cluster = None if joined is not None else wish.get("cluster")
        if cluster is not None and not isinstance(cluster, str):
            raise PeerError("cluster: a name is needed")
        otp = wish.get("otp")
        terminal = Terminal(session, target, login, joined)
        session.terminals[terminal.id] = terminal
        try:
            if cluster is not None and self._elsewhere.is_other(cluster):
                way = await self._to_other(session, cluster, target, login, peer)
            else:
                way = await self._to_node(session, target, login, otp[:16] if isinstance(otp, str) else "", peer)
            terminal.node = way.name
            subsystem = None if joined is None else join_subsystem(joined.session, joined.mode)
            terminal.shell = await open_shell(terminal, way.link, size=size, subsystem=subsystem)
        except BaseException:
            session.terminals.pop(terminal.id, None)
            raise
        if session.over:
            terminal.close("your web session was ended")
            return
        self._log.info("session", user=session.user, to=way.name, login=login, web=session.id)
        terminal.watched.enter_context(
            self._gatekeeper.watched(
                way.subject,
                node=way.uuid,
                login=login if way.cluster is None else None,
                source=peer[0],
                cut=terminal.close,
                cluster=way.cluster,
            )
        )
        await terminal.serve(browser, 0)

    async def _to_other(
        self, session: WebSession, cluster: str, target: str, login: str, peer: tuple[str, int]
    ) -> _Way:
        """To a node of another cluster, which judges it alone."""
        person = Person(login, session.ssh_key, session.ssh_certificate)
        link, subject = await self._elsewhere.to_node(cluster, target, person, peer)
        return _Way(link, subject, f"{target.removesuffix(f'.{cluster}')}.{cluster}", None, cluster)

    async def _to_node(self, session: WebSession, target: str, login: str, otp: str, peer: tuple[str, int]) -> _Way:
        """To a node of ours, once the gatekeeper has said yes and it has dialled back."""
        certificate = session.ssh_certificate
        if otp:
            certificate = await session.api.session_certificate(target, otp, session.ssh_public_key)
        admitted = await self._gatekeeper.admit(
            Certificate.decode(parse_public_line(certificate)), target, login, peer[0]
        )
        stream = await self._dial(admitted.uuid, peer, login)
        host = Host(self._knowledge.cluster, self._knowledge.policy.host_cas, admitted.uuid)
        link = await connected(stream, host, Person(login, session.ssh_key, certificate))
        return _Way(link, admitted.subject, admitted.name, admitted.uuid, None)


class _Way:
    """An open way to a node, of ours (``uuid``) or of another ``cluster``."""

    __slots__ = ("cluster", "link", "name", "subject", "uuid")

    def __init__(self, link: SshLink, subject: Subject, name: str, uuid: str | None, cluster: str | None) -> None:
        self.link = link
        self.subject = subject
        self.name = name
        self.uuid = uuid
        self.cluster = cluster


async def _joined(session: WebSession, wish: Mapping[str, object]) -> tuple[str, str, Joined]:
    """(node, login, what is joined). Which sessions there are for this person is auth's word; whether they may join is
    the node's."""
    id, mode = text_of(wish, "session", MAX_SESSION), wish.get("mode")
    if mode not in MODES:
        raise PeerError(f"mode: {' or '.join(MODES)}")
    status, data = await session.api.ask("GET", "/v1/sessions")
    found = json.loads(data).get("sessions") if status == 200 else None
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict) and one.get("id") == id:
            logins = session.about.get("logins")
            own = [str(login) for login in logins] if isinstance(logins, list) else []
            if not own:
                raise AccessDenied("your roles give you no login", hint="to join, one that the node knows is needed")
            # Nobody becomes anybody by joining, but an SSH connection names a login: the session's, if it is ours.
            login = one.get("login") if one.get("login") in own else own[0]
            return str(one.get("node_uuid")), check_login(login), Joined(id, str(one.get("user")), str(mode))
    raise AccessDenied("there is no such session that you may join", hint="it may just have ended", code="not_found")


async def _refuse(browser: web.WebSocketResponse, error: TinyportError) -> None:
    body = {**error.extra, "type": "error", "code": error.code, "message": error.message, "hint": error.hint}
    try:
        await browser.send_json(body)
        await browser.close()
    except (ConnectionError, RuntimeError):
        return
