"""Forwardings as the keeper knows them: a worker asks, the grant decides, a helper that is the user does it.

A worker that was taken over can ask for what its connection's grant allows, and gets no more than that. The helper runs
with the user's rights only, and is believed no more than a program of the user's would be: its messages are measured,
and what it hands over must be a stream socket.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tinyport.core.access import Grant
from tinyport.core.errors import AccessDenied, PeerError, TinyportError, Unavailable
from tinyport.core.names import format_address, printable
from tinyport.host.accounts import Account
from tinyport.host.logging_line import Log
from tinyport.node.keeper import fields
from tinyport.node.keeper.audit import Audit
from tinyport.node.keeper.connection import LATER, Answer
from tinyport.node.keeper.forward_helper import HelperProcess
from tinyport.node.loop import Loop
from tinyport.node.session.spare import PamWish

# A browser behind -D opens some ten at a time for each page.
MAX_PENDING = 128
MAX_LISTENERS = 64
# The helper itself stops at 32; one that goes on is not ours any more.
MAX_UNTAKEN = 64
# A worker holds 256 channels open for a connection.
MAX_OPEN = 256
# Each distinct target of a connection is told to auth once, up to this many; then they are counted.
MAX_TOLD = 256
# A helper that dies is started again, but not for ever.
MAX_STARTS = 3
MAX_HOST = 255
# sun_path in unix(7), with its NUL.
MAX_PATH = 107
_PROTOCOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_COOKIE = re.compile(r"(?:[0-9a-fA-F]{2}){1,256}")


class Keeping(Protocol):
    """What forwardings need of the keeper. ``number`` is a connection's."""

    def answer(
        self, number: int, request: int, answer: Mapping[str, object] | TinyportError, descriptors: Sequence[int] = ()
    ) -> None: ...

    def tell(self, number: int, message: Mapping[str, object], descriptors: Sequence[int] = ()) -> None: ...


@dataclass(frozen=True)
class Desk:
    """What all connections' forwardings share. ``check_usable``: AccessDenied when an account may not be used any
    more."""

    loop: Loop
    audit: Audit
    log: Log
    privileged: bool
    check_usable: Callable[[Account], None]
    keeping: Keeping
    #: the PAM service that accounts go through, if any
    pam: str | None = None


@dataclass(frozen=True)
class Listening:
    """A listener that is asked for or there. ``kind``: port, path, agent or x11; ``value``: what a session's
    environment says of it, for the last two.
    """

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""
    value: str = ""

    def allowed(self, grant: Grant) -> bool:
        if self.kind == "port":
            return grant.forwarding.may_listen(self.host, self.port)
        if self.kind == "path":
            return grant.forwarding.may_listen_path(self.path)
        return self.kind in grant.permits

    def __str__(self) -> str:
        return printable(self.path, 200) if self.path else format_address(self.host or "*", self.port)


#: called with the helper's answer and at most one descriptor, which is the callee's
Finish = Callable[[Mapping[str, object] | TinyportError, Sequence[int]], None]


class Forwards:
    """One connection's. ``handle`` is the table's door; the helper starts at the first need and ends at ``close``."""

    def __init__(self, desk: Desk, number: int, peer: tuple[str, int]) -> None:
        self._desk = desk
        self._number = number
        self._peer = peer
        self._helper: HelperProcess | None = None
        self._starts = 0
        #: what PAM said against the account
        self._unusable: str | None = None
        self._last_request = 0
        self._pending: dict[int, Finish] = {}
        self._last_listener = 0
        self._listening: dict[int, Listening] = {}
        self._agent: int | None = None
        #: how often the worker was told that the rules have changed, and has not asked
        self._changes = 0
        self._untaken = 0
        self._told: set[tuple[str, str]] = set()
        self._untold = 0
        self._grant: Grant | None = None
        self._account: Account | None = None
        self._closed = False
        self._handlers: Mapping[str, Callable[[Mapping[str, object], Grant], Answer]] = {
            "connect": self._connect,
            "listen": self._listen,
            "unlisten": self._unlisten,
            "taken": self._taken,
            "agent": self._forward_agent,
            "x11": self._forward_x11,
            "still": self._still,
        }

    # ------------------------------------------------------------------ the table's door

    def handle(self, request: str, message: Mapping[str, object], grant: Grant, account: Account) -> Answer:
        """As ``Connection.handle``. LATER: the answer is given by ``Keeping.answer``."""
        self._grant, self._account = grant, account
        return self._handlers[request](message, grant)

    def environment(self, message: Mapping[str, object]) -> dict[str, str]:
        """What an ``open`` adds to a session's environment: the sockets it names that are this connection's."""
        made = {}
        agent = message.get("agent", False)
        if not isinstance(agent, bool):
            raise PeerError("a worker's message has a wrong agent")
        if agent and self._agent is not None and self._agent in self._listening:
            made["SSH_AUTH_SOCK"] = self._listening[self._agent].value
        if message.get("display") is not None:
            display = self._listening.get(fields.number(message, "display", 2**53))
            if display is not None and display.kind == "x11":
                made["DISPLAY"] = display.value
        # Without a value: asked for, and not there yet.
        return {name: value for name, value in made.items() if value}

    def judge_again(self, grant: Grant) -> None:
        """The grant has changed: listeners that it does not allow any more are closed, with what came through them, and
        the worker asks what of the rest may stay.
        """
        before, self._grant = self._grant, grant
        for number, listening in list(self._listening.items()):
            if not listening.allowed(grant):
                self._drop(number)
                told = {"op": "unlistened", "conn": self._number, "listener": number, "forbidden": True}
                self._desk.keeping.tell(self._number, told)
        if self._starts and before is not None and before.forwarding != grant.forwarding:
            self._changes += 1
            self._desk.keeping.tell(self._number, {"op": "judged", "conn": self._number})

    def close(self) -> None:
        """The connection is over, or may not be any more."""
        if self._closed:
            return
        self._closed = True
        if self._untold and self._grant is not None:
            self._desk.audit.forwarding("port", self._grant, self._peer, more=self._untold)
        self._pending.clear()
        self._listening.clear()
        if self._helper is not None:
            self._helper.end()
            self._helper = None

    # ------------------------------------------------------------------ requests

    def _connect(self, message: Mapping[str, object], grant: Grant) -> Answer:
        request = fields.number(message, "id", 2**53)
        if "path" in message:
            path = fields.text(message, "path", MAX_PATH)
            _check_path(path)
            asked: dict[str, object] = {"op": "connect", "path": path}
            target = printable(path, 200)
        else:
            host, port = _host(message), fields.number(message, "port", 65536)
            if not host or not port:
                raise PeerError("a worker's message has a wrong host")
            asked = {"op": "connect", "host": host, "port": port}
            target = format_address(printable(host, 255), port)
        refusal = f"your roles do not permit forwarding to {target}"
        if not self._may_connect(asked, grant):
            raise self._refused("port.failed", grant, target, refusal)

        def relay(made: Mapping[str, object] | TinyportError, descriptors: Sequence[int]) -> None:
            if not self._may_connect(asked, self._grant or grant):
                # The policy has changed meanwhile.
                made = AccessDenied(refusal, code="denied")
            elif not isinstance(made, TinyportError) and len(descriptors) != 1:
                made = Unavailable("the forwarding helper handed over nothing")
            if isinstance(made, TinyportError):
                self._tell("port.failed", grant, target, reason=made.message)
                self._desk.keeping.answer(self._number, request, made)
            else:
                self._tell("port", grant, target)
                self._desk.keeping.answer(self._number, request, {}, descriptors)

        self._ask(asked, grant, relay)
        return LATER

    def _still(self, message: Mapping[str, object], grant: Grant) -> Answer:
        """Which of these open connections may not be any more? The worker closes them; one that was taken over has the
        sockets, and would not.
        """
        targets = message.get("targets")
        # Each question is some thousand comparisons.
        if not self._changes:
            raise PeerError("no rule has changed")
        self._changes -= 1
        if not isinstance(targets, list) or len(targets) > MAX_OPEN:
            raise PeerError("a worker's message has wrong targets")
        closed = [place for place, target in enumerate(targets) if not self._may_connect(target, grant)]
        if closed:
            self._desk.log.info("forwarded connections are closed", user=grant.user, count=len(closed))
        return {"closed": closed}, ()

    def _may_connect(self, target: object, grant: Grant) -> bool:
        if not isinstance(target, dict):
            raise PeerError("a worker's message has wrong targets")
        if "path" in target:
            return grant.forwarding.may_connect_path(fields.text(target, "path", MAX_PATH))
        return grant.forwarding.may_connect(_host(target), fields.number(target, "port", 65536))

    def _listen(self, message: Mapping[str, object], grant: Grant) -> Answer:
        request = fields.number(message, "id", 2**53)
        if "path" in message:
            path = fields.text(message, "path", MAX_PATH)
            _check_path(path)
            listening = Listening("path", path=path)
            asked: dict[str, object] = {"op": "listen", "path": path}
        else:
            host, port = _host(message), fields.number(message, "port", 65536)
            listening = Listening("port", host=host, port=port)
            asked = {"op": "listen", "host": host, "port": port}
        target = str(listening)
        if not listening.allowed(grant):
            raise self._refused("port.listen.failed", grant, target, f"your roles do not permit listening on {target}")
        self._start_listening(request, listening, asked, grant, lambda made: {"port": _port(made, listening)})
        return LATER

    def _forward_agent(self, message: Mapping[str, object], grant: Grant) -> Answer:
        request = fields.number(message, "id", 2**53)
        listening = Listening("agent")
        if not listening.allowed(grant):
            raise self._refused("agent.forward.failed", grant, None, "your roles do not permit agent forwarding")
        if self._agent is not None and self._agent in self._listening:
            return {"listener": self._agent}, ()
        self._agent = self._start_listening(request, listening, {"op": "agent"}, grant, lambda made: {})
        return LATER

    def _forward_x11(self, message: Mapping[str, object], grant: Grant) -> Answer:
        request = fields.number(message, "id", 2**53)
        protocol, cookie = fields.text(message, "protocol", 64), fields.text(message, "cookie", 512)
        # They become words of a line that xauth reads.
        if not _PROTOCOL.fullmatch(protocol) or not _COOKIE.fullmatch(cookie):
            raise PeerError("a worker's message has a wrong cookie")
        screen, once = fields.number(message, "screen", 256), message.get("once") is True
        listening = Listening("x11")
        if not listening.allowed(grant):
            raise self._refused("x11.forward.failed", grant, None, "your roles do not permit X11 forwarding")
        asked = {"op": "x11", "protocol": protocol, "cookie": cookie, "screen": screen, "once": once}
        self._start_listening(request, listening, asked, grant, lambda made: {})
        return LATER

    def _unlisten(self, message: Mapping[str, object], grant: Grant) -> Answer:
        request, number = fields.number(message, "id", 2**53), fields.number(message, "listener", 2**53)
        if number > self._last_listener:
            raise PeerError("no such listener")
        if self._listening.pop(number, None) is None or self._helper is None:
            # Closed already, by a policy or with its helper.
            return {}, ()

        def finish(made: Mapping[str, object] | TinyportError, descriptors: Sequence[int]) -> None:
            del made, descriptors
            self._desk.keeping.answer(self._number, request, {})

        self._ask({"op": "close", "listener": number}, grant, finish)
        return LATER

    def _taken(self, message: Mapping[str, object], grant: Grant) -> Answer:
        if not self._untaken:
            raise PeerError("nothing was accepted that could be taken")
        self._untaken -= 1
        if self._helper is not None:
            self._helper.send({"op": "taken"})
        return {}, ()

    # ------------------------------------------------------------------ doing

    def _start_listening(
        self,
        request: int,
        listening: Listening,
        asked: dict[str, object],
        grant: Grant,
        answer: Callable[[Mapping[str, object]], dict[str, object]],
    ) -> int:
        """Have the helper listen; returns the listener's number, which holds once it does."""
        if len(self._listening) >= MAX_LISTENERS:
            raise AccessDenied(f"too many listeners on this connection, {MAX_LISTENERS} are allowed", code="limit")
        self._last_listener += 1
        number = self._last_listener
        self._listening[number] = listening
        event = _EVENTS[listening.kind]

        def finish(made: Mapping[str, object] | TinyportError, descriptors: Sequence[int]) -> None:
            del descriptors
            if isinstance(made, TinyportError):
                self._listening.pop(number, None)
                self._tell(f"{event}.failed", grant, _shown(listening), reason=made.message)
                self._desk.keeping.answer(self._number, request, made)
                return
            told = answer(made)
            port = int(str(told.get("port", 0)))
            value = str(made.get("path") or made.get("display") or "")
            if number in self._listening:
                # Not dropped meanwhile.
                self._listening[number] = Listening(
                    listening.kind, listening.host, port, listening.path, printable(value, 200)
                )
            self._tell(event, grant, _shown(self._listening.get(number, listening)))
            self._desk.keeping.answer(self._number, request, {"listener": number, **told})

        try:
            self._ask({**asked, "listener": number}, grant, finish)
        except TinyportError:
            self._listening.pop(number, None)
            raise
        return number

    def _ask(self, asked: dict[str, object], grant: Grant, finish: Finish) -> None:
        if len(self._pending) >= MAX_PENDING:
            raise AccessDenied("too many forwardings are being opened on this connection", code="limit")
        helper = self._ready_helper()
        self._last_request += 1
        self._pending[self._last_request] = finish
        helper.send({**asked, "id": self._last_request})

    def _drop(self, number: int) -> None:
        listening = self._listening.pop(number, None)
        if listening is not None and self._helper is not None:
            self._helper.send({"op": "close", "listener": number})

    def _ready_helper(self) -> HelperProcess:
        if self._helper is not None:
            return self._helper
        account = self._account
        assert account is not None
        if self._unusable is not None:
            raise AccessDenied(self._unusable, code="account")
        if self._closed or self._starts >= MAX_STARTS:
            raise Unavailable("forwarding does not work on this connection any more")
        self._desk.check_usable(account)
        self._starts += 1
        desk = self._desk
        pam = None if desk.pam is None else PamWish(desk.pam, self._peer[0])
        try:
            self._helper = HelperProcess(
                desk.loop, desk.log, account, self._heard, self._helper_lost, privileged=desk.privileged, pam=pam
            )
        except OSError as error:
            raise Unavailable("forwarding could not be started", detail=str(error)) from None
        return self._helper

    # ------------------------------------------------------------------ the helper's answers

    def _heard(self, message: Mapping[str, object], descriptors: Sequence[int]) -> None:
        """PeerError ends the helper. The descriptors stay the caller's."""
        if message.get("op") == "accepted":
            self._accepted(message, descriptors)
            return
        if message.get("op") == "refused":
            self._account_refused(printable(fields.text(message, "message", 1000), 200))
            return
        finish = self._pending.pop(fields.number(message, "id", 2**53), None)
        if finish is None:
            raise PeerError("an answer to nothing that was asked")
        try:
            if message.get("ok") is True:
                finish(message, descriptors)
            else:
                # The kernel's words and the resolver's, for the person who asked.
                finish(Unavailable(printable(fields.text(message, "message", 1000), 200), code="connect"), ())
        except PeerError:
            # Whoever asked must hear something, too.
            finish(Unavailable("the forwarding helper answered nonsense"), ())
            raise

    def _account_refused(self, why: str) -> None:
        self._unusable = why
        self._desk.log.warning("PAM did not let a connection forward", conn=self._number, reason=why)
        pending, self._pending = self._pending, {}
        for finish in pending.values():
            finish(AccessDenied(why, code="account"), ())

    def _accepted(self, message: Mapping[str, object], descriptors: Sequence[int]) -> None:
        number = fields.number(message, "listener", 2**53)
        peer = message.get("peer")
        if number > self._last_listener or len(descriptors) != 1 or not isinstance(peer, list) or len(peer) != 2:
            raise PeerError("something was accepted nowhere")
        host, port = str(peer[0])[:MAX_HOST], peer[1]
        if not isinstance(port, int) or not 0 <= port < 65536:
            raise PeerError("something was accepted nowhere")
        if self._untaken >= MAX_UNTAKEN:
            raise PeerError("more was accepted than is taken")
        if number not in self._listening:
            # It was closed while this was on its way.
            assert self._helper is not None
            self._helper.send({"op": "taken"})
            return
        self._untaken += 1
        told = {"op": "accepted", "conn": self._number, "listener": number, "peer": [printable(host, 100), port]}
        self._desk.keeping.tell(self._number, told, descriptors)

    def _helper_lost(self) -> None:
        """It ended by itself: nothing of what it had is left."""
        self._helper = None
        if self._closed:
            return
        pending, self._pending = self._pending, {}
        for finish in pending.values():
            finish(Unavailable("the forwarding helper has ended"), ())
        listening, self._listening = self._listening, {}
        for number in listening:
            self._desk.keeping.tell(self._number, {"op": "unlistened", "conn": self._number, "listener": number})

    # ------------------------------------------------------------------ telling

    def _tell(self, event: str, grant: Grant, target: str | None, **more: object) -> None:
        """Each target once: a browser behind -D would fill the log."""
        key = (event, target or "")
        if key in self._told:
            return
        if len(self._told) >= MAX_TOLD:
            self._untold += 1
            return
        self._told.add(key)
        self._desk.audit.forwarding(event, grant, self._peer, target=target, **more)

    def _refused(self, event: str, grant: Grant, target: str | None, reason: str) -> AccessDenied:
        self._tell(event, grant, target, reason=reason)
        return AccessDenied(reason, code="denied")


_EVENTS = {"port": "port.listen", "path": "port.listen", "agent": "agent.forward", "x11": "x11.forward"}


def _host(message: Mapping[str, object]) -> str:
    host = fields.text(message, "host", MAX_HOST)
    if any(char <= " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in host):
        raise PeerError("a worker's message has a wrong host")
    return host


def _check_path(path: str) -> None:
    if not path.startswith("/") or "\0" in path or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH:
        raise PeerError("a worker's message has a wrong path")
    if any("\ud800" <= char <= "\udfff" for char in path):
        raise PeerError("a worker's message has a wrong path")


def _port(made: Mapping[str, object], listening: Listening) -> int:
    if listening.kind != "port":
        return 0
    port = fields.number(made, "port", 65536)
    return listening.port or port


def _shown(listening: Listening) -> str | None:
    return str(listening) if listening.kind in ("port", "path") else None
