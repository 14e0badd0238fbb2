"""The proxy's line to auth.

What it watches, reports and asks (docs/protocol/api.md, "Node and proxy", "Proxy only").

Three loops, each with its own way back after a failure: the watch (policy and node documents come), presence
(who is connected here goes), events. ``check`` asks about one access. Whether auth is there is learnt from
all of them.
"""

from __future__ import annotations

import asyncio
import base64
import random
import secrets
import ssl
import time
import uuid as uuids
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import aiohttp

from tinyport.core.errors import AccessDenied, OperatorError, PeerError, TinyportError, Unavailable
from tinyport.core.events import event
from tinyport.core.identity import from_peer_certificate
from tinyport.core.introduction import NONCE_BYTES, introduce
from tinyport.core.names import format_address
from tinyport.host.logging_line import Log
from tinyport.proxy.json_words import read_object
from tinyport.proxy.knowledge import Knowledge

CONNECT_LIMIT = 2.0
ANSWER_LIMIT = 5.0
# A person waits for this one, and our own copy of the policy answers at once: an auth that hangs costs the first of
# them a second, and nobody after them, until the watch hears from it again.
CHECK_LIMIT = 1.0
# Auth hashes a password for it, one after another.
ASK_LIMIT = 15.0
# docs/protocol/api.md: auth says something every 10 s; nothing for 30 s means that nobody is there.
WATCH_SILENCE = 30.0
# A policy or node document, and the JSON around it.
MAX_WATCH_LINE = 3 * 1024 * 1024
MAX_ANSWER = 1024 * 1024
#: every node of a large fleet, for a list
MAX_LIST = 16 * 1024 * 1024

REPORT_EVERY = 10.0
# Nodes come back by the hundred after an outage: one report for all of them.
REPORT_DELAY = 0.2
NODES_PER_REPORT = 1000

MAX_EVENTS = 5000
EVENTS_PER_BATCH = 500
# Strangers cause events, too. So many at once and per second; the rest is counted.
EVENT_BURST = 200
EVENT_RATE = 10.0

FIRST_RETRY, LAST_RETRY = 0.2, 10.0


class _AuthOnly(ssl.SSLObject):
    """TLS that is up only when the server is this cluster's auth: not a byte is said to anybody else."""

    cluster = ""

    def do_handshake(self) -> None:
        super().do_handshake()
        try:
            identity = from_peer_certificate(self.getpeercert())
        except PeerError as error:
            raise ssl.SSLCertVerificationError(str(error)) from None
        if identity.kind != "auth" or identity.cluster != self.cluster:
            raise ssl.SSLCertVerificationError(f"the server is {identity.uri}, not auth of {self.cluster}")


def auth_only(context: ssl.SSLContext, cluster: str) -> ssl.SSLContext:
    """Have a client context refuse every server that is not auth of ``cluster``, within the handshake."""
    context.sslobject_class = type("_AuthOf", (_AuthOnly,), {"cluster": cluster})
    return context


def _nothing() -> None:
    return


class AuthLink:
    """Lives as long as ``run``; ``check``, ``report`` and ``post`` may be called at any time in between.

    ``up`` is True while auth answers. Once a question went unanswered it is False, and until the watch is
    back nobody waits for auth again: questions are Unavailable at once.
    """

    def __init__(
        self,
        address: tuple[str, int],
        context: Callable[[], ssl.SSLContext],
        knowledge: Knowledge,
        presence: Callable[[], Iterable[dict[str, object]]],
        node_presence: Callable[[str], dict[str, object] | None],
        uuid: str,
        clusters: Callable[[], Mapping[str, Sequence[str]]],
        untold: Callable[[], Iterable[str]],
        addresses: Sequence[str],
        log: Log,
    ) -> None:
        self._base = f"https://{format_address(*address)}"
        self._context = context
        self._knowledge = knowledge
        self._presence = presence
        self._node_presence = node_presence
        self._clusters = clusters
        #: nodes whose traffic is to be told again
        self._untold = untold
        self._uuid = uuid
        #: (period, key) with which we introduce connections to auth
        self._introducing: tuple[int, bytes] | None = None
        #: where others find this proxy; auth hands them out
        self._addresses = list(addresses)
        self._log = log
        self._session: aiohttp.ClientSession | None = None
        #: sessions of an earlier context, until what is under way on them has its answer
        self._leaving: list[aiohttp.ClientSession] = []
        self.up = False
        #: called when auth and we may not know each other's CA any more
        self.on_strange: Callable[[], None] = _nothing
        #: called with the id of a web session that was ended
        self.on_web_ended: Callable[[str], None] = lambda id: None
        #: set once the policy and all node documents of this run have come
        self.synced = asyncio.Event()
        #: nodes heard of since the watch began; None once it told all it had
        self._heard: set[str] | None = None
        self._full = True
        self._changed: set[str] = set()
        self._wake_report = asyncio.Event()
        self._events: deque[dict[str, object]] = deque()
        self._wake_events = asyncio.Event()
        self._lost_events = 0
        self._tokens = float(EVENT_BURST)
        self._tokens_at = time.monotonic()

    async def run(self) -> None:
        """All three loops, until cancelled."""
        loops = [asyncio.ensure_future(loop()) for loop in (self._watching, self._reporting, self._posting)]
        try:
            await asyncio.gather(*loops)
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            for session in (*self._leaving, *([] if self._session is None else [self._session])):
                await session.close()

    def renew_context(self) -> None:
        """New connections use the context as it is now; those that are open stay, the watch for as long as it lasts."""
        old, self._session = self._session, None
        if old is not None:
            self._leaving.append(old)

    def _new_session(self) -> aiohttp.ClientSession:
        # force_close stays off: one connection serves a thousand questions.
        connector = aiohttp.TCPConnector(ssl=self._context(), limit=64, keepalive_timeout=60)
        limits = aiohttp.ClientTimeout(total=ANSWER_LIMIT, connect=CONNECT_LIMIT, sock_connect=CONNECT_LIMIT)
        # No proxies from the environment, no cookies, no redirects followed: this speaks with one known
        # server.
        return aiohttp.ClientSession(
            connector=connector, timeout=limits, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
        )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = self._new_session()
        return self._session

    # ------------------------------------------------------------------ one question

    async def _post(
        self, path: str, body: Mapping[str, object], limit: float = ANSWER_LIMIT, *, most: int = MAX_ANSWER
    ) -> dict[str, object]:
        """Unavailable when auth does not answer in ``limit`` seconds, or with more than ``most`` bytes; AccessDenied
        with auth's own words when it refuses.
        """
        limits = aiohttp.ClientTimeout(total=limit, connect=CONNECT_LIMIT, sock_connect=CONNECT_LIMIT)
        url = self._base + path
        try:
            async with self._open_session().post(url, json=body, timeout=limits, allow_redirects=False) as answer:
                return _answer(answer.status, await _body(answer, most))
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, PeerError) as error:
            detail = f"{path}: {type(error).__name__} {error}"
            raise Unavailable("the auth server does not answer", detail=detail) from None

    async def ask(self, path: str, body: Mapping[str, object]) -> dict[str, object]:
        """A question about somebody with a browser. AccessDenied with auth's code and words; else Unavailable."""
        return await self._post(path, body, ASK_LIMIT)

    async def check(self, certificate: bytes, target: str, login: str | None, source: str) -> tuple[str, str]:
        """Ask auth whether the certificate's user may reach ``target``: the node's (UUID, name).

        AccessDenied with auth's code and words; Unavailable when auth cannot be asked now.
        """
        if not self.up:
            raise Unavailable("the auth server does not answer")
        body: dict[str, object] = {
            "certificate": base64.b64encode(certificate).decode("ascii"),
            "target": target,
            "login": login,
            "source": source,
        }
        try:
            answer = await self._post("/v1/access", body, CHECK_LIMIT)
        except Unavailable as error:
            self._down(error)
            raise
        node = answer.get("node")
        if not isinstance(node, dict) or not isinstance(node.get("uuid"), str) or not isinstance(node.get("name"), str):
            raise Unavailable("the auth server's answer makes no sense")
        return node["uuid"], node["name"]

    async def nodes(
        self, certificate: bytes, selectors: Sequence[str], search: str, source: str
    ) -> list[Mapping[str, object]]:
        """The nodes that the certificate's user may see. Raises as ``check``."""
        if not self.up:
            raise Unavailable("the auth server does not answer")
        body: dict[str, object] = {
            "certificate": base64.b64encode(certificate).decode("ascii"),
            "selectors": list(selectors),
            "search": search,
            "source": source,
        }
        found = (await self._post("/v1/access/nodes", body, most=MAX_LIST)).get("nodes")
        if not isinstance(found, list):
            raise Unavailable("the auth server's answer makes no sense")
        return [node for node in found if isinstance(node, dict)]

    def _down(self, error: TinyportError) -> None:
        if self.up:
            self._log.warning("auth is down: judging by our own copy of the policy", reason=error)
        self.up = False

    # ------------------------------------------------------------------ the watch

    async def _watching(self) -> None:
        delay = FIRST_RETRY
        while True:
            try:
                async for line in self._lines():
                    delay = FIRST_RETRY
                    self._take(line)
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError, TinyportError) as error:
                self._down(Unavailable("the watch broke", detail=f"{type(error).__name__} {error}"))
                self._log.debug("watch ended", reason=error)
                if isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ServerDisconnectedError)):
                    # Auth shows a certificate of a CA that we do not know, or closed on seeing ours.
                    self.on_strange()
            else:
                self._down(Unavailable("the watch ended"))
            # Full jitter: proxies that lost auth together do not come back together.
            await asyncio.sleep(random.uniform(0, delay))  # noqa: S311
            delay = min(delay * 2, LAST_RETRY)

    async def _lines(self) -> AsyncIterator[dict[str, object]]:
        limits = aiohttp.ClientTimeout(
            total=None, connect=CONNECT_LIMIT, sock_connect=CONNECT_LIMIT, sock_read=WATCH_SILENCE
        )
        async with (
            self._new_session() as session,
            session.get(self._base + "/v1/watch", timeout=limits, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                _answer(answer.status, await _body(answer))
                raise PeerError(f"the watch was answered with status {answer.status}")
            self._heard = set()
            self._full = True
            self._wake_report.set()
            buffer = bytearray()
            async for data in answer.content.iter_any():
                buffer += data
                while (end := buffer.find(b"\n")) >= 0:
                    line = bytes(buffer[:end])
                    del buffer[: end + 1]
                    if line.strip():
                        yield read_object(line)
                if len(buffer) > MAX_WATCH_LINE:
                    raise PeerError("a line of the watch is too long")

    def _take(self, line: Mapping[str, object]) -> None:
        """One line of the watch.

        What is not signed is logged and dropped; the link to auth is not the authority, the key is.
        """
        if not self.up:
            self._log.info("auth is up")
        self.up = True
        try:
            if "policy" in line:
                if self._knowledge.take_policy(line["policy"]):
                    self._log.info("new policy", serial=self._knowledge.policy.serial)
            elif "node" in line:
                uuid = self._knowledge.uuid_of(line["node"]) or self._knowledge.take_node(line["node"])
                if self._heard is not None:
                    self._heard.add(uuid)
            elif "removed" in line:
                self._knowledge.remove_node(str(line["removed"]))
            elif "ask" in line:
                self._knowledge.doubt(str(line["ask"]))
            elif "web_ended" in line:
                self.on_web_ended(str(line["web_ended"]))
            elif "keepalive" in line:
                self._all_heard()
        except PeerError as error:
            self._log.warning("auth sent something that cannot be used", reason=error)

    def _all_heard(self) -> None:
        # The first keepalive comes after the documents of all nodes.
        heard, self._heard = self._heard, None
        if heard is not None:
            self._knowledge.forget_nodes(lambda uuid: uuid in heard)
            self.synced.set()

    # ------------------------------------------------------------------ presence

    def report(self, uuid: str) -> None:
        """A node came, went, or said something new."""
        self._changed.add(uuid)
        self._wake_report.set()

    def report_soon(self) -> None:
        """Something else of what is connected here has changed."""
        self._wake_report.set()

    async def _reporting(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._wake_report.wait(), REPORT_EVERY)
                if not self._full:
                    await asyncio.sleep(REPORT_DELAY)
            except asyncio.TimeoutError:
                # Nothing changed: an empty report keeps the lease.
                self._log.debug("presence is still the same")
            self._wake_report.clear()
            try:
                await self._report_now()
            except TinyportError as error:
                self._full = True
                self._log.debug("presence was not reported", reason=error)
            while self._leaving:
                # What was under way on them has had the time of a report to be answered.
                await self._leaving[0].close()
                del self._leaving[0]

    async def _report_now(self) -> None:
        full, self._full = self._full, False
        changed, self._changed = self._changed, set()
        if full:
            nodes = list(self._presence())
        else:
            changed.update(self._untold())
            nodes = [self._node_presence(uuid) or {"uuid": uuid, "online": False} for uuid in changed]
        # The first part of a full report replaces what auth knew of us, the rest adds to it.
        for at in range(0, max(len(nodes), 1), NODES_PER_REPORT):
            first = full and at == 0
            report: dict[str, object] = {"full": first, "nodes": nodes[at : at + NODES_PER_REPORT]}
            if at == 0:
                report.update(self._clusters())
            if first and self._addresses:
                report["addresses"] = self._addresses
            self._introducing = _introducing(await self._post("/v1/presence", report))

    def introduce(self, client: tuple[str, int]) -> bytes:
        """What stands before the bytes of ``client`` that we join with auth's, so that auth knows whose they are; b""
        while it has given us no key for that."""
        if self._introducing is None:
            return b""
        period, key = self._introducing
        try:
            return introduce(key, self._uuid, period, secrets.token_bytes(NONCE_BYTES), client)
        except ValueError:
            # Nobody's address: another cluster's proxy may say what it likes.
            return b""

    # ------------------------------------------------------------------ events

    def post(self, name: str, **fields: object) -> None:
        """Have auth keep an audit event of this moment.

        Bounded: what is too much is counted, and the count is an event.
        """
        now = time.monotonic()
        self._tokens = min(EVENT_BURST, self._tokens + (now - self._tokens_at) * EVENT_RATE)
        self._tokens_at = now
        if self._tokens < 1 or len(self._events) >= MAX_EVENTS:
            self._lost_events += 1
            return
        self._tokens -= 1
        self._events.append(event(name, time=time.time(), **fields))
        self._wake_events.set()

    async def _posting(self) -> None:
        delay = FIRST_RETRY
        while True:
            await self._wake_events.wait()
            self._wake_events.clear()
            while self._events:
                if self._lost_events:
                    self._events.append(event("events.lost", time=time.time(), count=self._lost_events))
                    self._lost_events = 0
                count = min(len(self._events), EVENTS_PER_BATCH)
                batch = {"batch": str(uuids.uuid4()), "events": [self._events[n] for n in range(count)]}
                # The same batch until auth has it: its id keeps a lost answer from storing it twice.
                while not await self._posted(batch):
                    await asyncio.sleep(random.uniform(0, delay))  # noqa: S311
                    delay = min(delay * 2, LAST_RETRY)
                delay = FIRST_RETRY
                for _ in range(count):
                    self._events.popleft()

    async def _posted(self, batch: Mapping[str, object]) -> bool:
        try:
            await self._post("/v1/events", batch)
        except AccessDenied as error:
            # Refused is an answer: the same again would be refused again.
            self._log.warning("auth refused events", reason=error)
        except TinyportError:
            return False
        return True


async def _body(answer: aiohttp.ClientResponse, most: int = MAX_ANSWER) -> bytes:
    body = bytearray()
    async for data in answer.content.iter_any():
        body += data
        if len(body) > most:
            raise PeerError("an answer of auth is too long")
    return bytes(body)


def _answer(status: int, data: bytes) -> dict[str, object]:
    """An answer of the API → its body. AccessDenied for a refusal, Unavailable for what is no answer."""
    try:
        body = read_object(data)
    except PeerError as error:
        raise Unavailable("the auth server's answer makes no sense", detail=f"{status} {error}") from None
    if 200 <= status < 300:
        return body
    found = body.get("error")
    fields: Mapping[str, object] = found if isinstance(found, dict) else {}
    message, code, hint = (fields.get(name) for name in ("message", "code", "hint"))
    if status == 429 and isinstance(message, str):
        slow = AccessDenied(message, code="slow_down", hint=hint if isinstance(hint, str) else "")
        slow.extra["retry_after"] = fields.get("retry_after")
        raise slow
    if status >= 500 or not isinstance(message, str) or not isinstance(code, str):
        raise Unavailable("the auth server cannot answer now", detail=f"{status} {message}")
    if code == "login_required":
        # Auth does not take us for a proxy of its cluster. That says nothing about the user.
        raise OperatorError("the proxy is not accepted by auth", detail=message, code="unavailable")
    refusal = AccessDenied(message, code=code, hint=hint if isinstance(hint, str) else "")
    refusal.extra.update((key, fields[key]) for key in ("candidates", "since") if key in fields)
    raise refusal


def _introducing(answer: Mapping[str, object]) -> tuple[int, bytes] | None:
    """The key in an answer to a report; None where auth is of a version that gives none."""
    found = answer.get("introduce")
    if not isinstance(found, dict):
        return None
    period, key = found.get("period"), found.get("key")
    try:
        return (period, bytes.fromhex(key)) if isinstance(period, int) and isinstance(key, str) else None
    except ValueError:
        return None
